"""Early stopping, the best checkpoint, decoded scores and accumulation beside transformers' own Seq2SeqTrainer."""

import json

import numpy as np
import pytest
import sacrebleu
import torch
from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments

from polygraft.data.batching import make_batches
from polygraft.data.dataset import pair_dataset, read_pairs
from polygraft.models import checkpoints
from polygraft.settings import Evaluate, Finetune, PairData
from polygraft.stages import finetune
from polygraft.training import spending
from polygraft.training.sample import DecodedSample

NANO = "polygraft/nano-mbart"
SAMPLE = PairData(
    train_file="polygraft/sample/uk/train.parquet", validation_file="polygraft/sample/uk/validation.parquet",
    source_lang="uk", target_lang="uk",
)  # fmt: skip


@pytest.fixture
def pairs(tmp_path, sentences):
    rows = [{"text": f"{a} {b}", "summary": a} for a in sentences for b in sentences[:3]]
    for name, part in {"train": rows[:24], "validation": rows[24:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    files = {f"{name}_file": str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    return PairData(**files, source_lang="uk")


class InOurOrder(Seq2SeqTrainer):
    """The plain trainer, that reads the batches which ours reads; its loss is that of the plain model's logits."""

    batches = None

    def get_train_dataloader(self):
        data, batches = self.train_dataset, self.batches
        epochs = []

        class Sampler(torch.utils.data.Sampler):
            def __len__(self):
                return len(batches)

            def __iter__(self):
                batches.set_epoch(len(epochs))
                epochs.append(1)
                return iter(batches)

        return torch.utils.data.DataLoader(data, batch_sampler=Sampler(), collate_fn=self.data_collator)


def mean_loss(outputs, labels, num_items_in_batch=None):
    total = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def plain_run(folder, settings, pairs, out, threshold):
    """What transformers does with the same settings, under the same names."""
    model, tokenizer = checkpoints.load_seq2seq(str(folder)), checkpoints.load_tokenizer(str(folder))
    train, validation = (pair_dataset(rows, pairs, tokenizer, 64, 64) for rows in read_pairs(pairs, 1))
    shared = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay")
    arguments = Seq2SeqTrainingArguments(
        str(out), **{name: getattr(settings, name) for name in shared}, lr_scheduler_type="linear", warmup_steps=0,
        adam_beta2=settings.adam_beta2, adam_epsilon=1e-6, max_steps=settings.budget.steps, eval_strategy="steps",
        eval_steps=1, save_steps=1, logging_steps=1, load_best_model_at_end=True, metric_for_best_model="loss",
        per_device_eval_batch_size=64, remove_unused_columns=False, report_to="none", disable_tqdm=True, use_cpu=True,
        dataloader_pin_memory=False, save_total_limit=2,
    )  # fmt: skip
    pad = DataCollatorForSeq2Seq(tokenizer, model)
    items = [
        [{key: item[key] for key in ("input_ids", "labels")} for item in data.items] for data in (train, validation)
    ]
    trainer = InOurOrder(
        model, arguments, train_dataset=items[0], eval_dataset=items[1], data_collator=pad, compute_loss_func=mean_loss,
        callbacks=[EarlyStoppingCallback(settings.early_stopping_patience, threshold)],
    )  # fmt: skip
    trainer.batches = make_batches(settings, train.lengths, 1, 1)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("accumulation", "patience", "threshold", "stops"),
    [(1, 1, 0.0, (12, 11)), (3, 2, 0.0, (10, 8)), (1, 2, 0.05, (3, 3))],  # the last: ever better, but by too little
)
def test_stops_where_transformers_stops(
    tiny_mbart_dir, pairs, tmp_path, monkeypatch, accumulation, patience, threshold, stops
):
    monkeypatch.setattr(spending, "LOGS_PER_BUDGET", 10**6)
    settings = Finetune(
        budget={"steps": 40}, learning_rate=0.003, warmup_steps=0, per_device_train_batch_size=4, eval_steps=1,
        gradient_accumulation_steps=accumulation, early_stopping_patience=patience, early_stopping_threshold=threshold,
        precision="fp32", max_target_length_tokens=64,
    )  # fmt: skip
    result = finetune.run(settings, str(tiny_mbart_dir), pairs, 1, tmp_path / "ours")
    lines = [json.loads(line) for line in (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines()][1:]
    plain = plain_run(tiny_mbart_dir, settings, pairs, tmp_path / "plain", threshold)
    assert result["stopped_early"] is True
    assert (result["steps"], result["best_step"]) == (plain.state.global_step, plain.state.best_global_step)
    assert (result["steps"], result["best_step"]) == stops
    for key in ("loss", "eval_loss", "learning_rate"):
        ours, theirs = ([line[key] for line in found if key in line] for found in (lines, plain.state.log_history))
        assert len(ours) == result["steps"]
        assert ours == pytest.approx(theirs, abs=2e-5), key  # measured: 1.4e-6
    saved = checkpoints.load_seq2seq(str(tmp_path / "ours")).state_dict()
    best = plain.model.state_dict()
    assert max(float((saved[name] - best[name]).abs().max()) for name in best) < 1e-5  # measured: 3e-7


SCORES = {
    "chrf++": lambda outputs, references: sacrebleu.corpus_chrf(outputs, [references], word_order=2).score,
    "bleu": lambda outputs, references: sacrebleu.corpus_bleu(outputs, [references]).score,
}


@pytest.mark.parametrize("beams", [1, 3])
def test_scores_are_those_of_predict_with_generate(tmp_path, beams):
    settings = Finetune(
        budget={"steps": 1}, metric_for_best_model="chrf++", generation_max_samples=12, generation_num_beams=beams,
        generation_max_length=24, max_source_length_tokens=64,
    )  # fmt: skip
    model, tokenizer = checkpoints.load_seq2seq(NANO), checkpoints.load_tokenizer(NANO)
    sample = DecodedSample.of(settings, SAMPLE, read_pairs(SAMPLE, 1)[1], tokenizer)
    assert len(sample.rows) == 12
    ours = sample.scores(model, lambda: None)

    tokenizer.src_lang = tokenizer.tgt_lang = "uk_UA"
    texts = {"text": [row["text"] for row in sample.rows], "text_target": [row["summary"] for row in sample.rows]}
    encoded = tokenizer(**texts, truncation=True, max_length=64)
    items = [{key: encoded[key][i] for key in ("input_ids", "attention_mask", "labels")} for i in range(12)]

    def scores(made):
        outputs, references = (
            tokenizer.batch_decode(np.where(ids == -100, tokenizer.pad_token_id, ids), skip_special_tokens=True)
            for ids in (made.predictions, made.label_ids)
        )
        return {name: score(outputs, references) for name, score in SCORES.items()} | {
            "filled": sum(map(bool, outputs))
        }

    model.generation_config.forced_bos_token_id = tokenizer.convert_tokens_to_ids("uk_UA")
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, generation_max_length=24, generation_num_beams=beams, use_cpu=True,
        per_device_eval_batch_size=5, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Seq2SeqTrainer(
        model, arguments, eval_dataset=items, data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        compute_metrics=scores,
    )  # fmt: skip
    theirs = trainer.evaluate(no_repeat_ngram_size=Evaluate().no_repeat_ngram_size)
    assert theirs["eval_filled"] > 6
    for name in SCORES:
        assert ours[f"eval_{name}"] == pytest.approx(theirs[f"eval_{name}"], abs=1e-9), name

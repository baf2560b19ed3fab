"""The best checkpoint by a score of decoded outputs, and early stopping: kinds of training, and interruptions."""

import json

import pytest
from safetensors.numpy import load_file

from polygraft.data.dataset import read_pairs
from polygraft.errors import RecipeError
from polygraft.models import checkpoints
from polygraft.settings import Bottleneck, Finetune, Lora, PairData
from polygraft.stages import finetune
from polygraft.training import sample, stopping
from polygraft.training.sample import DecodedSample
from polygraft.training.spending import Spending
from polygraft.training.trainer import StageTrainer


@pytest.fixture
def pairs(tmp_path, sentences):
    """Pairs in three languages, the output in another one than the input."""
    languages = ["uk", "fr", "de"]
    rows = [
        {"text": f"{a} {b}", "summary": a, "from": languages[i % 3], "to": languages[(i + 1) % 3]}
        for i, a in enumerate(sentences)
        for b in sentences[:3]
    ]
    for name, part in {"train": rows[:24], "validation": rows[24:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    files = {f"{name}_file": str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    return PairData(**files, source_lang_column="from", target_lang_column="to")


def settings(**changes):
    base = {
        "budget": {"steps": 8}, "learning_rate": 0.003, "warmup_steps": 0, "per_device_train_batch_size": 8,
        "eval_steps": 2, "save_steps": 3, "metric_for_best_model": "chrf++", "generation_max_samples": 6,
        "generation_max_length": 12, "precision": "fp32",
    }  # fmt: skip
    return Finetune(**{**base, **changes})


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


KINDS = {
    "all": {},
    "beams": {"generation_num_beams": 2},
    "trimmed": {"trim_vocabulary": True},
    "lora": {"adapter": Lora(r=4), "learning_rate": 0.03},
    "bottleneck": {"adapter": Bottleneck(bottleneck_size=8), "learning_rate": 0.03},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_what_is_saved_is_the_best_by_its_score(tiny_mbart_dir, pairs, tmp_path, changes):
    how = settings(**changes)
    result = finetune.run(how, str(tiny_mbart_dir), pairs, 1, tmp_path / "out")
    evaluations = [line for line in lines_of(tmp_path / "out") if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 2, 4, 6, 8]
    scores = [line["eval_chrf++"] for line in evaluations[1:]]
    assert len(set(scores)) > 1, scores
    best = evaluations[1 + scores.index(max(scores))]
    assert result["best_step"] == best["step"]
    for key in ("eval_loss", "eval_chrf++", "eval_bleu", "eval_rougeL"):
        assert result[key] == best[key]
    if how.trim_vocabulary:
        return  # other rows are in reach again, so that outputs may be others
    model, tokenizer = (load(str(tmp_path / "out")) for load in (checkpoints.load_seq2seq, checkpoints.load_tokenizer))
    again = DecodedSample.of(how, pairs, read_pairs(pairs, 1)[1], tokenizer).scores(model.eval(), lambda: None)
    assert again["eval_chrf++"] == pytest.approx(result["eval_chrf++"], abs=1e-6)


def test_the_sample_is_spread_over_all_rows(pairs, mbart_tokenizer):
    rows = [{"text": str(i)} for i in range(10)]
    for most, chosen in ((4, [0, 2, 5, 7]), (100, list(range(10))), (1, [0])):
        found = DecodedSample.of(settings(generation_max_samples=most), pairs, rows, mbart_tokenizer)
        assert [int(row["text"]) for row in found.rows] == chosen
    assert DecodedSample.of(settings(metric_for_best_model="loss"), pairs, rows, mbart_tokenizer) is None


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("broken", "early"),
    [("a step", False), ("the decoding", False), ("the last decoding", True), ("by a signal", True)],
)
def test_interrupted_anywhere_the_end_is_the_same(tiny_mbart_dir, pairs, tmp_path, monkeypatch, broken, early):
    """With early stopping, too, whose count is in the checkpoints."""
    stop = {"early_stopping_patience": 2, "budget": {"steps": 40}, "eval_steps": 2} if early else {}
    how = settings(**stop)
    whole = finetune.run(how, str(tiny_mbart_dir), pairs, 1, tmp_path / "whole")
    assert whole.get("stopped_early", False) is early
    last = whole["steps"]

    def fail(spending):
        if broken == "by a signal":
            spending.request.signal = 15
        else:
            raise Interrupted

    step, decode, spent = StageTrainer.training_step, sample.decode, []
    add_step = Spending.add_step
    monkeypatch.setattr(Spending, "add_step", lambda self, minutes: (add_step(self, minutes), spent.append(self)))

    def stepping(self, *args, **kwargs):
        if broken == "a step" and self.spending.spent["steps"] == 5:
            raise Interrupted
        return step(self, *args, **kwargs)

    def decoding(*args, **kwargs):
        if spent and spent[-1].spent["steps"] == {"the last decoding": last, "a step": -1}.get(broken, 4):
            fail(spent[-1])
        return decode(*args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", stepping)
    monkeypatch.setattr(sample, "decode", decoding)
    with pytest.raises((Interrupted, stopping.Stopped)):
        finetune.run(how, str(tiny_mbart_dir), pairs, 1, tmp_path / "cut")
    monkeypatch.setattr(StageTrainer, "training_step", step)
    monkeypatch.setattr(sample, "decode", decode)
    resumed = finetune.run(how, str(tiny_mbart_dir), pairs, 1, tmp_path / "cut")
    assert {**resumed, "train_seconds": 0} == {**whole, "train_seconds": 0}
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    first, second = ([{**line, "seconds": 0} for line in lines_of(tmp_path / name)] for name in ("whole", "cut"))
    assert first == second


def test_stopping_needs_the_best_and_a_metric_has_many_names(tmp_path):
    with pytest.raises(ValueError, match="early_stopping_patience needs `load_best_model_at_end: true`"):
        settings(early_stopping_patience=1, load_best_model_at_end=False)
    with pytest.raises(ValueError, match="means nothing without `early_stopping_patience`"):
        settings(early_stopping_threshold=0.1)
    names = {"chrF++": "chrf++", "chrf": "chrf++", "ROUGE-L": "rougeL", "eval_rougeL": "rougeL", "BLEU": "bleu",
             "sacrebleu": "bleu", "eval_loss": "loss"}  # fmt: skip
    assert {name: settings(metric_for_best_model=name).metric_for_best_model for name in names} == names
    with pytest.raises(ValueError, match="metric_for_best_model"):
        settings(metric_for_best_model="meteor")


def test_balance_needs_a_column(tiny_mbart_dir, pairs, tmp_path):
    plain = pairs.model_copy(update={"source_lang_column": None, "target_lang_column": None, "source_lang": "uk"})
    with pytest.raises(RecipeError, match="sampling_temperature = 2: needs a column of languages"):
        finetune.run(settings(sampling_temperature=2), str(tiny_mbart_dir), plain, 1, tmp_path / "out")

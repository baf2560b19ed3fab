"""What the nano models must be able to do, measured: run after `bundle.py`, it adds its findings to their cards.

    python examples/nano/gates.py --out outputs/nano --data data/debian --into src/polygraft/nano

XLM-R: on frozen states a new output layer is trained to predict masked tokens, on those of nano XLM-R and of a
random encoder of its shape; between the two losses lies what pretraining put into the encoder. mBART: fine-tuned
on all pairs of a language that it knows (those that no held-out set shares a family with), its loss with the right
source and with another document's, and its greedy outputs beside the lead baseline; fine-tuned on as few pairs as the
demo has, by how much it beats that baseline, over seeds and documents.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bundle import ALL_LANGUAGES, arguments, batches, held_out, markdown, read, tokenized
from transformers import AutoModelForMaskedLM

from polygraft.data.dataset import pair_dataset
from polygraft.data.layout import IGNORED
from polygraft.data.reading import read_rows
from polygraft.models import checkpoints
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.objectives.seq2seq import Seq2Seq, token_losses
from polygraft.scoring.comparison import compare_arms
from polygraft.scoring.metrics import METRICS
from polygraft.scoring.predictions import read as read_predictions
from polygraft.scoring.verdict import Scores
from polygraft.settings import Budget, Evaluate, Finetune, PairData
from polygraft.stages import evaluate, finetune

PROBE_DOCUMENTS, PROBE_EPOCHS, PROBE_RATES = 200, 4, (3e-4, 1e-3, 3e-3)  # documents per language
LANGUAGE, TEST_DOCUMENTS = "fr", 400
FINETUNE = Finetune(
    budget=Budget(epochs=3), learning_rate=1e-3, per_device_train_batch_size=32, max_source_length_tokens=128,
    max_target_length_tokens=32,
)  # fmt: skip
DECODING = Evaluate(
    num_beams=1, max_source_length_tokens=128, max_new_tokens=24, per_device_eval_batch_size=64,
    max_samples=TEST_DOCUMENTS,
)  # fmt: skip
FEW_PAIRS, SEEDS = 249, (1, 2, 3)  # as many as the demo has in Ukrainian
FEW = Finetune(
    budget=Budget(epochs=8), learning_rate=5e-4, per_device_train_batch_size=8, eval_steps=0.125,
    max_source_length_tokens=128, max_target_length_tokens=32,
)  # fmt: skip
HEADING = "## What it can do"
FEW_HEADING = f"## Fine-tuned on {FEW_PAIRS} pairs, beside the first words of the text"

Batch = dict[str, torch.Tensor]


def probe(encoder: Any, training: list[Batch], development: list[Batch], test: list[Batch]) -> tuple[float, float]:
    """Return the loss on `test` of an output layer trained on an encoder's frozen states, and that before training.

    It predicts the masked tokens, and starts from their frequencies over all languages. Learning rate and number of
    epochs are those of the lowest loss on `development`, so that neither encoder is judged by a layer that learned too
    little or too much.
    """

    @torch.no_grad()
    def states(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        return F.layer_norm(hidden.flatten(0, 1)[batch["label_positions"]], hidden.shape[-1:]), batch["labels"][
            batch["labels"] != IGNORED
        ]

    @torch.no_grad()
    def loss(head: torch.nn.Linear, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        total = sum(float(F.cross_entropy(head(hidden), labels, reduction="sum")) for hidden, labels in pairs)
        return total / sum(len(labels) for _, labels in pairs)

    seen, chosen_by, judged_on = ([states(batch) for batch in part] for part in (training, development, test))
    counts = torch.bincount(torch.cat([labels for _, labels in seen]), minlength=encoder.config.vocab_size)
    found, start = [], math.nan
    for rate in PROBE_RATES:
        head = torch.nn.Linear(encoder.config.hidden_size, encoder.config.vocab_size)
        torch.nn.init.zeros_(head.weight)
        head.bias.data = (counts + 0.1).log()
        start = loss(head, judged_on)
        optimizer = torch.optim.AdamW(head.parameters(), lr=rate)
        for _ in range(PROBE_EPOCHS):
            for hidden, labels in seen:
                optimizer.zero_grad()
                F.cross_entropy(head(hidden), labels).backward()
                optimizer.step()
            found.append((loss(head, chosen_by), loss(head, judged_on)))
    return min(found)[1], start


def source_gates(folder: Path, data: Path) -> list[dict[str, Any]]:
    """The loss on trained and on random states, over all languages."""
    trained, tokenizer = checkpoints.load_masked_lm(str(folder)).eval(), checkpoints.load_tokenizer(str(folder))
    torch.manual_seed(0)
    random: Any = AutoModelForMaskedLM.from_config(trained.config).eval()
    training, test = [], []
    for language in ALL_LANGUAGES:
        objective = MaskedLM(tokenizer, 0.15, Noise(2))
        rows = read(data, language, "pretrain", PROBE_DOCUMENTS)
        training += batches(tokenized(rows, language, tokenizer), objective)
        test += batches(held_out(data, language, tokenizer), objective)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0)).tolist()
    training = [training[i] for i in order]
    parts = training, test[::2], test[1::2]
    (known, frequencies), (nothing, _) = (probe(model.base_model, *parts) for model in (trained, random))
    names = ("nano XLM-R", "a random encoder of its shape", "none: frequencies over all languages")
    return [
        {"states of": name, "loss of a new output layer": loss}
        for name, loss in zip(names, (known, nothing, frequencies), strict=True)
    ]


def target_gates(folder: Path, data: Path, out: Path) -> list[dict[str, Any]]:
    """Fine-tune on all pairs of one language; right and wrong sources, and scores beside the lead baseline."""
    pairs_file, tuned = out / f"pairs-{LANGUAGE}.jsonl", out / "gate-finetune"
    parts = [(data / LANGUAGE / f"{split}.jsonl").read_text(encoding="utf-8") for split in ("pretrain", "train")]
    pairs_file.write_text("".join(parts), encoding="utf-8")
    validation = str(data / LANGUAGE / "validation.jsonl")
    pairs = PairData(
        train_file=str(pairs_file), validation_file=validation, test_file=str(data / LANGUAGE / "test.jsonl"),
        source_lang=LANGUAGE,
    )  # fmt: skip
    if not (tuned / "metrics.jsonl").exists():
        tuned.mkdir(exist_ok=True)
        finetune.run(FINETUNE, str(folder), pairs, 1, tuned)
    (out / "gate-evaluate").mkdir(exist_ok=True)
    evaluate.run(DECODING, str(tuned), pairs, out / "gate-evaluate")
    scores = json.loads((out / "gate-evaluate" / "scores.json").read_text())["systems"]
    model, tokenizer = checkpoints.load_seq2seq(str(tuned)).eval(), checkpoints.load_tokenizer(str(tuned))
    rows = read_rows(pairs.test_file or "", pairs.columns, pairs.texts)[:TEST_DOCUMENTS]
    dataset, sums, labels = pair_dataset(rows, pairs, tokenizer, 128, 32), {"right": 0.0, "wrong": 0.0}, 0
    for batch in batches(dataset, Seq2Seq(tokenizer)):
        other = {n: t.roll(1, 0) if n in ("input_ids", "attention_mask") else t for n, t in batch.items()}
        labels += int((batch["labels"] != IGNORED).sum())
        sums["right"] += float(token_losses(model, batch).sum())
        sums["wrong"] += float(token_losses(model, other).sum())
    lead = {"system": "lead: the first 16 tokens", "loss per token": "", "with another document's source": ""}
    ours = {"system": f"fine-tuned on {len(pairs_file.read_text().splitlines()):,} pairs in French"}
    ours |= {"loss per token": sums["right"] / labels, "with another document's source": sums["wrong"] / labels}
    for row, system in ((ours, "model"), (lead, "lead")):
        row |= {"chrF++": scores[system]["all"]["chrf++"]["score"], "ROUGE-L": scores[system]["all"]["rougeL"]["score"]}
    return [ours, lead]


def few_pairs_gate(folder: Path, data: Path, out: Path) -> list[dict[str, Any]]:
    """Fine-tune on few pairs of one language, once per seed; the scores' distance from the lead baseline's."""
    files = {f"{split}_file": str(data / LANGUAGE / f"{split}.jsonl") for split in ("train", "validation", "test")}
    pairs = PairData(**files, source_lang=LANGUAGE, max_train_samples=FEW_PAIRS)
    predictions = []
    for seed in SEEDS:
        tuned, scored = out / f"gate-few-{seed}", out / f"gate-few-{seed}-evaluate"
        if not (scored / "scores.json").exists():
            tuned.mkdir(exist_ok=True)
            finetune.run(FEW, str(folder), pairs, seed, tuned)
            evaluate.run(DECODING, str(tuned), pairs, scored)
        predictions.append(read_predictions(scored / "predictions.jsonl"))
    scores, rows = Scores({"model": predictions}), []
    for metric in (METRICS["chrf++"], METRICS["rougeL"]):
        found = compare_arms(scores.of("model", metric), scores.of_lead(metric), metric=metric, control_is_fixed=True)
        rows.append({
            "score": metric.name, "seeds": found.seeds_per_arm, "fine-tuned": found.treatment_score,
            "first words": found.control_score, "difference": found.effect,
            "95% interval": f"{found.low:.2f} to {found.high:.2f}",
        })  # fmt: skip
    return rows


def add_to_card(folder: Path, heading: str, rows: list[dict[str, Any]]) -> None:
    """Replace a section of a card by a table, or add it at the end."""
    card = folder / "README.md"
    before, _, old = card.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    _, _, after = old.partition("\n## ")
    text = f"{before.rstrip()}\n\n{heading}\n\n{markdown(rows)}\n" + (f"\n## {after}" if after else "")
    card.write_text(text, encoding="utf-8")
    print(f"{folder}\n{markdown(rows)}\n")


def main() -> None:
    args = arguments(__doc__)
    add_to_card(args.into / "nano-xlmr", HEADING, source_gates(args.into / "nano-xlmr", args.data))
    target = args.into / "nano-mbart"
    add_to_card(target, HEADING, target_gates(target, args.data, args.out))
    add_to_card(target, FEW_HEADING, few_pairs_gate(target, args.data, args.out))


if __name__ == "__main__":
    main()

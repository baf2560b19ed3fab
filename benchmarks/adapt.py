"""Tokens per second and memory of `polygraft adapt` beside the plain Hugging Face ways, at XLM-R-base's real shape.

The rivals: (a) Trainer with DataCollatorForLanguageModeling and text concatenated into blocks of 512 tokens, as the
examples of transformers do it; (b) every line padded to 512 tokens, as the how-to does it. The same model (random
weights, real tokenizer of 250,002 entries), text, optimizer, masking rate and precision. polygraft: exact, and with the
vocabulary trimmed to the text.

    python benchmarks/adapt.py --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import real_size
import side_by_side

PROBABILITY, RATE, BLOCK = 0.15, 2e-5, 512
PLAIN, HOWTO, TRIMMED = "plain", "how-to", "trimmed"


def prepare(args: argparse.Namespace) -> None:
    """A checkpoint of the real shape with random weights, the same trimmed to the whole text, and some of the text."""
    texts = side_by_side.rows("adapt", 10**6, ["text"])
    side_by_side.write_rows(args.folder / "adapt.jsonl", texts[: args.documents])
    if not (args.folder / TRIMMED / "model.safetensors").is_file():
        from polygraft.settings import Trim
        from polygraft.stages import vocabulary

        folder = real_size.random_checkpoint(args.folder, args.model, "source")
        file = side_by_side.write_rows(args.folder / "vocabulary.jsonl", texts)
        vocabulary.run_trim(Trim(train_file=[file]), str(folder), args.folder / TRIMMED)


def polygraft(args: argparse.Namespace, precision: str, trimmed: bool) -> dict[str, float]:
    from polygraft.objectives import MLM
    from polygraft.settings import Budget, TextData
    from polygraft.stages import adapt

    file = str(args.folder / "adapt.jsonl")
    settings = MLM(
        budget=Budget(epochs=1), learning_rate=RATE, per_device_train_batch_tokens=args.blocks * BLOCK,
        mlm_probability=PROBABILITY, max_length_tokens=BLOCK, precision=precision, eval_steps=1e6, save_steps=1e6,
    )  # fmt: skip
    model = args.folder / (TRIMMED if trimmed else args.model)
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        result = adapt.run(settings, str(model), TextData(train_file=file), 1, Path(out))
        speed = side_by_side.after_first_step(Path(out))
    flops = speed * result["flops"] / result["tokens"]
    return {
        "tokens_per_second": speed, "loss": result["train_loss"], "classes": result["classes"],
        "gemm_share": flops / side_by_side.gemm_flops_per_second(precision == "bf16"),
    }  # fmt: skip


def huggingface(args: argparse.Namespace, precision: str, padded: bool) -> dict[str, float]:
    """Trainer as its examples use it; `padded`: every line to 512 tokens, two steps only."""
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    folder = args.folder / args.model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["text"] for line in (args.folder / "adapt.jsonl").read_text().splitlines()]
    if padded:
        inputs: list[dict[str, Any]] = [
            dict(tokenizer(text, truncation=True, padding="max_length", max_length=BLOCK))
            for text in texts[: 2 * args.blocks]
        ]
    else:
        stream = [token for ids in tokenizer(texts, verbose=False)["input_ids"] for token in ids]
        whole = len(stream) // (args.blocks * BLOCK) * args.blocks * BLOCK  # whole steps only
        inputs = [{"input_ids": stream[at : at + BLOCK]} for at in range(0, whole, BLOCK)]
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        arguments = TrainingArguments(
            output_dir=out, num_train_epochs=1, learning_rate=RATE, save_strategy="no", report_to=[],
            per_device_train_batch_size=args.blocks, disable_tqdm=True, use_cpu=args.device == "cpu",
            bf16=precision == "bf16", dataloader_pin_memory=False,
        )  # fmt: skip
        masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=PROBABILITY)
        collator = side_by_side.Counting(masking, tokenizer.pad_token_id)
        trainer = Trainer(
            model=AutoModelForMaskedLM.from_pretrained(folder), args=arguments, train_dataset=inputs,
            data_collator=collator, callbacks=[watch := side_by_side.stopwatch()],
        )  # fmt: skip
        loss = trainer.train().training_loss
    return {"tokens_per_second": sum(collator.real[1:]) / watch.seconds, "loss": loss}


WAYS: dict[str, side_by_side.Way] = {}
for _precision in ("fp32", "bf16"):
    WAYS |= {
        f"{PLAIN}, {_precision}": lambda args, p=_precision: huggingface(args, p, padded=False),
        f"polygraft, {_precision}": lambda args, p=_precision: polygraft(args, p, trimmed=False),
        f"polygraft trimmed, {_precision}": lambda args, p=_precision: polygraft(args, p, trimmed=True),
    }
WAYS[f"{HOWTO}, fp32"] = lambda args: huggingface(args, "fp32", padded=True)


def tables(medians: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    parts = [
        f"{args.model}, random weights, 250,002 entries, or {medians['polygraft trimmed, fp32']['classes']:,.0f} when "
        f"trimmed to the bundled text in five languages; {args.documents} documents, {args.blocks * BLOCK:,} tokens "
        "per step, AdamW, dropout on. plain: Trainer on blocks of 512 tokens; how-to: every line padded to 512."
    ]
    for precision in ("fp32", "bf16"):
        chosen = {way.rpartition(", ")[0]: row for way, row in medians.items() if way.endswith(precision)}
        shares = ", ".join(f"{way} {row['gemm_share']:.0%}" for way, row in chosen.items() if "gemm_share" in row)
        if PLAIN not in chosen:
            continue
        rivals = [rival for rival in (PLAIN, HOWTO) if rival in chosen]
        parts += [f"{precision}:", side_by_side.table(chosen, rivals), f"Share of the GEMM rate: {shares}."]
    return "\n\n".join(parts)


if __name__ == "__main__":
    defaults = {"model": "xlm-roberta-base", "documents": 40, "blocks": 4}
    side_by_side.main(__file__, "adapt", WAYS, tables, __doc__, defaults, prepare)

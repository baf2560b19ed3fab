"""Tokens per second and memory of `polygraft finetune` beside the plain Hugging Face ways, at mBART-large-50's shape.

The rivals: (a) Seq2SeqTrainer with DataCollatorForSeq2Seq, padded to the longest of each batch; (b) every text padded
to 512 tokens and every summary to 128, as the how-to does it. The same model (random weights, real tokenizer of 250,054
entries), pairs, documents per step, optimizer and precision. polygraft: batches by token budget, with the full
vocabulary and with one trimmed to the pairs, all weights or with frozen embeddings or LoRA.

    python benchmarks/finetune.py --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import real_size
import side_by_side

RATE, SOURCE, TARGET = 3e-5, 512, 128
PLAIN, HOWTO, TRIMMED = "plain", "how-to", "trimmed-mbart"


def prepare(args: argparse.Namespace) -> None:
    """A checkpoint of the real shape with random weights, the same trimmed to all pairs, and some of the pairs."""
    pairs = side_by_side.rows("train", 10**6, ["text", "summary"])
    side_by_side.write_rows(args.folder / "pairs.jsonl", pairs[: args.documents])
    side_by_side.write_rows(args.folder / "held-out.jsonl", pairs[args.documents : args.documents + 5])
    if not (args.folder / TRIMMED / "model.safetensors").is_file():
        from polygraft.settings import Trim
        from polygraft.stages import vocabulary

        folder = real_size.random_checkpoint(args.folder, args.model, "target")
        file = side_by_side.write_rows(args.folder / "all-pairs.jsonl", pairs)
        vocabulary.run_trim(
            Trim(train_file=[file], text_column=["text", "summary"]), str(folder), args.folder / TRIMMED
        )


def polygraft(args: argparse.Namespace, precision: str, trimmed: bool, **how: Any) -> dict[str, float]:
    from polygraft.settings import Budget, Finetune, PairData
    from polygraft.stages import finetune

    pairs = PairData(
        train_file=str(args.folder / "pairs.jsonl"), validation_file=str(args.folder / "held-out.jsonl"),
        source_lang_column="lang", target_lang_column="lang",
    )  # fmt: skip
    settings = Finetune.model_validate({
        "budget": Budget(epochs=1), "learning_rate": RATE, "per_device_train_batch_tokens": args.tokens,
        "max_source_length_tokens": SOURCE, "max_target_length_tokens": TARGET, "precision": precision,
        "eval_steps": 1e6, "save_steps": 1e6, **how,
    })  # fmt: skip
    model = args.folder / (TRIMMED if trimmed else args.model)
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        result = finetune.run(settings, str(model), pairs, 1, Path(out))
        speed = side_by_side.after_first_step(Path(out))
    return {
        "tokens_per_second": speed, "loss": result["train_loss"], "steps": result["steps"],
        "classes": result["classes"],
    }  # fmt: skip


def huggingface(args: argparse.Namespace, precision: str, padded: bool) -> dict[str, float]:
    """Seq2SeqTrainer as its examples use it; `padded`: to the full lengths, two steps only."""
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
    )

    folder = args.folder / args.model
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pairs = [json.loads(line) for line in (args.folder / "pairs.jsonl").read_text().splitlines()]
    inputs = []
    for pair in pairs[: 2 * args.batch] if padded else pairs:
        tokenizer.src_lang = tokenizer.tgt_lang = pair["lang"]
        item = tokenizer(pair["text"], text_target=pair["summary"], truncation=True, max_length=SOURCE)
        inputs.append(dict(item) | {"labels": item["labels"][:TARGET]})
    if padded:  # the how-to's way; its labels are padded with <pad>, which counts in the loss
        for item in inputs:
            missing, pad = SOURCE - len(item["input_ids"]), tokenizer.pad_token_id
            item["input_ids"] += [pad] * missing
            item["attention_mask"] += [0] * missing
            item["labels"] += [pad] * (TARGET - len(item["labels"]))
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        arguments = Seq2SeqTrainingArguments(
            output_dir=out, num_train_epochs=1, learning_rate=RATE, save_strategy="no", report_to=[],
            per_device_train_batch_size=args.batch, disable_tqdm=True, use_cpu=args.device == "cpu",
            bf16=precision == "bf16", dataloader_pin_memory=False,
        )  # fmt: skip
        collator = side_by_side.Counting(DataCollatorForSeq2Seq(tokenizer, model), tokenizer.pad_token_id)
        trainer = Seq2SeqTrainer(
            model=model, args=arguments, train_dataset=inputs, data_collator=collator,
            callbacks=[watch := side_by_side.stopwatch()],
        )  # fmt: skip
        loss = trainer.train().training_loss
    return {"tokens_per_second": sum(collator.real[1:]) / watch.seconds, "loss": loss, "steps": len(collator.real)}


LORA = {"adapter": {"type": "lora", "r": 16}}
WAYS: dict[str, side_by_side.Way] = {}
for _precision in ("fp32", "bf16"):
    WAYS |= {
        f"{PLAIN}, {_precision}": lambda args, p=_precision: huggingface(args, p, padded=False),
        f"polygraft trimmed, {_precision}": lambda args, p=_precision: polygraft(args, p, trimmed=True),
    }
WAYS |= {
    "trimmed, embeddings frozen, fp32": lambda args: polygraft(args, "fp32", trimmed=True, trainable="no_embeddings"),
    "trimmed, LoRA, fp32": lambda args: polygraft(args, "fp32", trimmed=True, **LORA),
    f"{HOWTO}, fp32": lambda args: huggingface(args, "fp32", padded=True),
}


def tables(medians: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    steps = {way: f"{medians[f'{way}, fp32']['steps']:.0f}" for way in (PLAIN, "polygraft trimmed")}
    parts = [
        f"{args.model}, random weights, 250,054 entries, or {medians['polygraft trimmed, fp32']['classes']:,.0f} when "
        f"trimmed to the bundled pairs in five languages; {args.documents} pairs, {steps[PLAIN]} optimizer steps of "
        f"the plain way and {steps['polygraft trimmed']} of polygraft's, AdamW, dropout on. plain: Seq2SeqTrainer, "
        f"{args.batch} pairs padded to the longest; how-to: all padded to {SOURCE} and {TARGET}; polygraft: batches "
        f"of at most {args.tokens:,} padded tokens."
    ]
    for precision in ("fp32", "bf16"):
        chosen = {way.rpartition(", ")[0]: row for way, row in medians.items() if way.endswith(precision)}
        if PLAIN not in chosen:
            continue
        rivals = [rival for rival in (PLAIN, HOWTO) if rival in chosen]
        parts += [f"{precision}:", side_by_side.table(chosen, rivals)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    defaults = {"model": "mbart-large-50", "documents": 24, "batch": 8, "tokens": 1200}
    side_by_side.main(__file__, "finetune", WAYS, tables, __doc__, defaults, prepare)

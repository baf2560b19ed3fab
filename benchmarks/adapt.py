"""Tokens per second of `polygraft adapt` beside the plain Hugging Face way, on the bundled nano XLM-R.

The rival is what the examples of transformers do: Trainer, DataCollatorForLanguageModeling, documents concatenated
into blocks of the model's length. Same model, text, optimizer, masking rate, precision and number of threads; each run
is a process of its own, the two ways take turns, and the table holds medians.

    python benchmarks/adapt.py --rounds 3 --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import page

MODEL, TEXT, LANGUAGES = "polygraft/nano-xlmr", "polygraft/sample/{}/adapt.parquet", ("fr", "de", "uk", "pl", "ko")
BATCH_DOCUMENTS, BATCH_BLOCKS, BLOCK, PROBABILITY, RATE = 32, 16, 256, 0.15, 1e-4
WAYS = ("plain", "polygraft fp32", "polygraft")


def texts() -> list[str]:
    from polygraft.data.reading import read_rows

    return [row["text"] for language in LANGUAGES for row in read_rows(TEXT.format(language), ["text"])]


def run_polygraft(folder: Path, precision: str) -> dict[str, float]:
    from polygraft import adapt, machine
    from polygraft.recipe import MLM, Budget, TextData

    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()), encoding="utf-8")
    settings = MLM(
        budget=Budget(epochs=1), learning_rate=RATE, per_device_train_batch_size=BATCH_DOCUMENTS, eval_steps=1e6,
        save_steps=1e6, mlm_probability=PROBABILITY, max_length_tokens=BLOCK, precision=precision,
    )  # fmt: skip
    out = folder / "out"
    out.mkdir()
    result = adapt.run(settings, MODEL, TextData(train_file=str(file)), 1, out)
    rate = result["tokens"] / result["train_seconds"]
    return {"tokens_per_second": rate, "peak_memory_bytes": machine.peak_memory_bytes()}


def run_plain(folder: Path) -> dict[str, float]:
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    from polygraft import machine
    from polygraft.models.checkpoints import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve(MODEL))
    stream = [token for ids in tokenizer(texts(), verbose=False)["input_ids"] for token in ids]
    blocks = [{"input_ids": stream[start : start + BLOCK]} for start in range(0, len(stream) - BLOCK, BLOCK)]
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, learning_rate=RATE, save_strategy="no", use_cpu=True,
        per_device_train_batch_size=BATCH_BLOCKS, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=PROBABILITY)
    model = AutoModelForMaskedLM.from_pretrained(resolve(MODEL)).float()
    result = Trainer(model=model, args=arguments, train_dataset=blocks, data_collator=collator).train()
    rate = len(blocks) * BLOCK / result.metrics["train_runtime"]
    return {"tokens_per_second": rate, "peak_memory_bytes": machine.peak_memory_bytes()}


def worker(way: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = {
            "plain": lambda: run_plain(Path(folder)),
            "polygraft fp32": lambda: run_polygraft(Path(folder), "fp32"),
            "polygraft": lambda: run_polygraft(Path(folder), "auto"),
        }[way]
        print(json.dumps(run()))


def measure(rounds: int) -> dict[str, dict[str, float]]:
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--worker", way]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results[way].append(json.loads(output.strip().splitlines()[-1]))
            print(f"round {number + 1}: {way}: {results[way][-1]}", flush=True)
    return {way: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for way, runs in results.items()}


def table(medians: dict[str, dict[str, float]], rounds: int) -> str:
    plain: dict[str, Any] = medians["plain"]
    lines = [
        f"`python benchmarks/adapt.py`, median of {rounds} rounds, {page.about()}.",
        "", "| way | real tokens per second | ratio | peak memory | ratio |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for way, row in medians.items():
        speed, memory = row["tokens_per_second"], row["peak_memory_bytes"]
        lines.append(
            f"| {way} | {speed:,.0f} | {speed / plain['tokens_per_second']:.2f} | {memory / 1e6:,.0f} MB | "
            f"{memory / plain['peak_memory_bytes']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="a page whose part under '## adapt' is replaced")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.worker:
        worker(args.worker)
        return
    result = table(measure(args.rounds), args.rounds)
    print(result)
    if args.write:
        page.write_section(args.write, "adapt", result)


if __name__ == "__main__":
    main()

"""How long one waits for the first sign of life: help, check, and the first training step.

Beside `polygraft --help` stands importing typer, which it is made with, and beside the first step of `polygraft adapt`
that of a plain Trainer script on the same bundled model and text. Seconds are those of whole processes, which end with
the first optimizer step.

    python benchmarks/startup.py --rounds 5 --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

MODEL, TEXT = "polygraft/nano-xlmr", "polygraft/sample/uk/adapt.parquet"
RECIPE = Path(__file__).parents[1] / "recipes" / "demo.yaml"
BATCH, BLOCK = 16, 128
END_WITH_FIRST_STEP = """
import os
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
"""
POLYGRAFT = """
from polygraft.cli import main
main()
"""
PLAIN = """
import sys
import pyarrow.parquet
from transformers import (
    AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments,
)
model, text, batch, block, out = sys.argv[1:]
batch, block = int(batch), int(block)
tokenizer = AutoTokenizer.from_pretrained(model)
texts = pyarrow.parquet.read_table(text)["text"].to_pylist()
stream = [token for ids in tokenizer(texts, verbose=False)["input_ids"] for token in ids]
blocks = [{"input_ids": stream[at : at + block]} for at in range(0, len(stream) - block, block)]
arguments = TrainingArguments(output_dir=out, per_device_train_batch_size=batch, report_to=[], disable_tqdm=True)
collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
network = AutoModelForMaskedLM.from_pretrained(model).float()
Trainer(model=network, args=arguments, train_dataset=blocks, data_collator=collator).train()
"""


def seconds(*command: str) -> dict[str, float]:
    """Run Python with these arguments; wall-clock seconds of the process."""
    started = time.perf_counter()
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{command} failed:\n{run.stderr[-3000:]}")
    return {"seconds": time.perf_counter() - started}


def first_step_of_polygraft() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        settings = ["--train-file", TEXT, "--lang", "uk", "--steps", "100", "--per-device-train-batch-size", str(BATCH)]
        script = END_WITH_FIRST_STEP + POLYGRAFT
        return seconds("-c", script, "adapt", "--model", MODEL, *settings, "--output-dir", f"{out}/adapt")


def first_step_of_plain() -> dict[str, float]:
    from polygraft.nano import bundled

    with tempfile.TemporaryDirectory() as out:
        script = END_WITH_FIRST_STEP + PLAIN
        return seconds("-c", script, str(bundled(MODEL)), str(bundled(TEXT)), str(BATCH), str(BLOCK), out)


WAYS: dict[str, side_by_side.Way] = {
    "import typer": lambda _: seconds("-c", "import typer"),
    "polygraft --help": lambda _: seconds("-m", "polygraft", "--help"),
    "polygraft check recipes/demo.yaml": lambda _: seconds("-m", "polygraft", "check", str(RECIPE)),
    "plain Trainer script, to its first step": lambda _: first_step_of_plain(),
    "polygraft adapt, to its first step": lambda _: first_step_of_polygraft(),
}


def tables(medians: dict[str, dict[str, float]], _: argparse.Namespace) -> str:
    lines = ["| command | seconds |", "|---|---|"]
    return "\n".join([*lines, *(f"| {way} | {row['seconds']:.2f} |" for way, row in medians.items())])


if __name__ == "__main__":
    side_by_side.main(__file__, "startup", WAYS, tables, __doc__, {})

"""Seconds until polygraft answers: its help beside `import typer`, a check, and a training step beside Trainer's.

A step is timed with all that comes before it: imports, loading of nano XLM-R, reading and tokenizing of text, and
in polygraft the evaluation before the first step.

    python benchmarks/startup.py --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import page

ROOT = Path(__file__).parents[1]
TEXT = "polygraft/sample/uk/adapt.parquet"
PLAIN_STEP = f"""
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling
from transformers import Trainer, TrainingArguments
import pyarrow.parquet, sys
from pathlib import Path
import importlib.util
nano = Path(importlib.util.find_spec("polygraft").origin).parent / "nano"
model = AutoModelForMaskedLM.from_pretrained(nano / "nano-xlmr").float()
tokenizer = AutoTokenizer.from_pretrained(nano / "nano-xlmr")
texts = pyarrow.parquet.read_table(nano / "{TEXT.removeprefix("polygraft/")}")["text"].to_pylist()
stream = [token for ids in tokenizer(texts)["input_ids"] for token in ids]
blocks = [{{"input_ids": stream[at : at + 256]}} for at in range(0, len(stream) - 255, 256)]
arguments = TrainingArguments(
    output_dir=sys.argv[1], max_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True
)
Trainer(
    model=model, args=arguments, train_dataset=blocks, data_collator=DataCollatorForLanguageModeling(tokenizer)
).train()
"""


def commands(folder: Path) -> dict[str, list[str]]:
    polygraft = [sys.executable, "-m", "polygraft"]
    adapt = ["adapt", "--model", "polygraft/nano-xlmr", "--train-file", TEXT, "--lang", "uk", "--steps", "1"]
    return {
        "python -c 'import typer'": [sys.executable, "-c", "import typer"],
        "polygraft --help": [*polygraft, "--help"],
        "polygraft check recipes/demo.yaml": [*polygraft, "check", str(ROOT / "recipes/demo.yaml")],
        "Trainer, one step, whole process": [sys.executable, "-c", PLAIN_STEP, str(folder)],
        "polygraft adapt, one step, saved and verified": [*polygraft, *adapt, "--output-dir", str(folder / "adapt")],
    }


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def measure(rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, command in commands(Path(folder)).items():
                found.setdefault(name, []).append(seconds(command))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a page whose part under '## startup' is replaced")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    medians = measure(args.rounds)
    print(json.dumps(medians))
    lines = [f"`python benchmarks/startup.py`, median of {args.rounds} rounds, {page.about()}.", ""]
    lines += ["| command | seconds |", "|---|---|", *(f"| `{name}` | {value:.2f} |" for name, value in medians.items())]
    content = "\n".join(lines)
    print(content)
    if args.write:
        page.write_section(args.write, "startup", content)


if __name__ == "__main__":
    main()

"""What `polygraft adapt` costs at 1, 4 and 16 times as much text, on the bundled nano XLM-R: linear time, flat memory.

The text is the bundled one, repeated with a number before each copy, so that no two documents are equal. Training is
the same number of tokens every time, since its speed is the question; reading and tokenizing are of the whole text.

    python benchmarks/scaling.py --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import side_by_side

MODEL, SIZES = "polygraft/nano-xlmr", (1, 4, 16)


def prepare(args: argparse.Namespace) -> None:
    texts = [row["text"] for row in side_by_side.rows("adapt", 10**6, ["text"])]
    for size in SIZES:
        documents = [{"text": f"{i} {texts[i % len(texts)]}"} for i in range(size * args.documents)]
        side_by_side.write_rows(args.folder / f"text-{size}.jsonl", documents)
    side_by_side.write_rows(args.folder / "text-held-out.jsonl", [{"text": text} for text in texts[:20]])


def run(args: argparse.Namespace, size: int) -> dict[str, float]:
    from polygraft.objectives import MLM
    from polygraft.settings import Budget, TextData
    from polygraft.stages import adapt

    text = TextData(
        train_file=str(args.folder / f"text-{size}.jsonl"), validation_file=str(args.folder / "text-held-out.jsonl")
    )
    settings = MLM(
        budget=Budget(tokens=args.tokens), per_device_train_batch_tokens=4096, max_length_tokens=256, eval_steps=1e6,
        save_steps=1e6,
    )  # fmt: skip
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        result = adapt.run(settings, MODEL, text, 1, Path(out))
    around = time.monotonic() - started - result["train_seconds"]
    return {"tokens_per_second": result["tokens"] / result["train_seconds"], "seconds_around": around}


def tables(medians: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    lines = [
        f"Nano XLM-R, {args.tokens:,} tokens of training each; reading, tokenizing, loading and saving beside it.", "",
        "| documents | tokens per second | ratio | seconds beside training | peak memory | ratio |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    first = medians["1x"]
    for size in SIZES:
        row = medians[f"{size}x"]
        speed, memory = row["tokens_per_second"], row["peak_memory_bytes"]
        lines.append(
            f"| {size * args.documents:,} | {speed:,.0f} | {speed / first['tokens_per_second']:.2f} | "
            f"{row['seconds_around']:.1f} | {memory / 2**20:,.0f} MiB | {memory / first['peak_memory_bytes']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    ways: dict[str, side_by_side.Way] = {f"{size}x": lambda args, s=size: run(args, s) for size in SIZES}
    defaults = {"documents": 5000, "tokens": 200_000}
    side_by_side.main(__file__, "scaling", ways, tables, __doc__, defaults, prepare)

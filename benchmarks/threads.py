"""Where two threads begin to pay: a training step of mBART-shaped models with one thread, with two, and two at a time.

Each size is trained on batches of 8 documents of 128 tokens with summaries of 32, vocabulary 8,054: by a process with
one thread, by one with two, and by two processes with one thread each, which begin together.

    python benchmarks/threads.py --write docs/scale.md
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import page

SIZES = {"nano": (128, 2), "256 wide": (256, 4), "512 wide": (512, 6), "768 wide": (768, 6), "1024 wide": (1024, 12)}
VOCABULARY, DOCUMENTS, SOURCE, TARGET = 8054, 8, 128, 32
TITLE = "Threads or jobs, measured"


def make_step(width: int, layers: int) -> tuple[Any, int]:
    """Return a training step of a model of that size, and the number of its parameters."""
    import torch
    from transformers import MBartConfig

    from polygraft import machine
    from polygraft.checks.memory import loss_of, make_batch, make_model
    from polygraft.objectives.task import BatchShape

    config = MBartConfig(
        vocab_size=VOCABULARY, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
    )  # fmt: skip
    model = make_model(config).train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    machine.keep_freed_memory(4 * parameters)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch, loss = make_batch(BatchShape(DOCUMENTS, SOURCE, TARGET, DOCUMENTS * TARGET)), loss_of(config)

    def step() -> None:
        loss(model, **batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, parameters


def work(width: int, layers: int, seconds: float) -> None:
    """Say the size, wait for a line, and say how many steps a second there were with each number of threads read."""
    import torch

    step, parameters = make_step(width, layers)
    step()
    print(parameters, flush=True)
    for line in sys.stdin:
        torch.set_num_threads(int(line))
        step()
        count, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            step()
            count += 1
        print(count / passed, flush=True)


def measure(width: int, layers: int, args: argparse.Namespace) -> list[float]:
    """Return parameters, and steps per second: of one thread, of two, and of two processes together."""
    command = [sys.executable, __file__, "--work", str(width), str(layers), "--seconds", str(args.seconds)]
    workers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    parameters = [float(worker.stdout.readline()) for worker in workers]  # type: ignore[union-attr]

    def rates(threads: int, used: list[subprocess.Popen]) -> float:
        for worker in used:
            worker.stdin.write(f"{threads}\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        return sum(float(worker.stdout.readline()) for worker in used)  # type: ignore[union-attr]

    rounds = [(rates(1, workers[:1]), rates(2, workers[:1]), rates(1, workers)) for _ in range(args.rounds)]
    for worker in workers:
        worker.communicate()
    return [parameters[0], *map(statistics.median, zip(*rounds, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--write", type=Path, help=f"a page whose part '{TITLE}' is replaced")
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work, args.seconds)
        return
    how = f"median of {args.rounds} rounds of {args.seconds:g} s (`python benchmarks/threads.py`)"
    lines = [f"{page.about()}; {how}.", "",
             "| model | parameters | steps per second, one thread | two threads | two jobs of one thread |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, (width, layers) in SIZES.items():
        parameters, one, two, jobs = measure(width, layers, args)
        lines.append(f"| {name} | {parameters / 1e6:,.1f} M | {one:.2f} | x {two / one:.2f} | x {jobs / one:.2f} |")
        print(lines[-1], flush=True)
    if args.write:
        page.write_section(args.write, TITLE, "\n".join(lines))


if __name__ == "__main__":
    main()

"""Ways of doing the same work, measured beside each other: each run a process of its own, the ways taking turns.

Every benchmark is a script with a function per way; `main` runs them, prints the table, and writes it into a page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page

LANGUAGES = {"fr": "fr_XX", "de": "de_DE", "uk": "uk_UA", "pl": "pl_PL", "ko": "ko_KR"}
TEXT = "polygraft/sample/{}/{}.parquet"
CONFIGS = Path(__file__).parents[1] / "tests" / "fixtures" / "published"

Way = Callable[[argparse.Namespace], dict[str, float]]


def rows(split: str, documents: int, columns: list[str]) -> list[dict[str, Any]]:
    """Documents of the bundled sample text, the five languages in turn, each with its `lang`."""
    from polygraft.data.reading import read_rows

    tables = {code: read_rows(TEXT.format(name, split), columns) for name, code in LANGUAGES.items()}
    mixed = [row | {"lang": code} for group in zip(*tables.values(), strict=False)
             for code, row in zip(tables, group, strict=True)]  # fmt: skip
    return mixed[:documents]


def write_rows(path: Path, content: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return str(path)


def gemm_flops_per_second(bf16: bool, seconds: float = 2.0) -> float:
    """What this machine's matrix products reach, at the shape of XLM-R-base's feed-forward layer."""
    import torch

    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16 if bf16 else torch.float32
    a, b = torch.randn(2048, 768, device=device, dtype=dtype), torch.randn(768, 3072, device=device, dtype=dtype)
    a @ b
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        float((a @ b)[0, 0])
        count += 1
    return count * 2 * 2048 * 768 * 3072 / (time.perf_counter() - started)


def after_first_step(folder: Path) -> float:
    """Real tokens per second of a polygraft stage, its first step left out: it pays for what later ones reuse."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if line["step"] and "loss" in line]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def stopwatch() -> Any:
    """A callback for the plain Trainer: `seconds` from the end of its first step to the end of its last."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        ends: list[float]

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.ends = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

        @property
        def seconds(self) -> float:
            return self.ends[-1] - self.ends[0]

    return Stopwatch()


class Counting:
    """A collator that counts the real tokens of each batch that it makes: inputs, and labels that are not masks."""

    def __init__(self, collator: Any, pad: int) -> None:
        self.collator, self.pad, self.real = collator, pad, list[int]()

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        sides = [side for item in features for side in (item["input_ids"], item.get("labels", []))]
        self.real.append(sum(token not in (self.pad, -100) for side in sides for token in side))
        return self.collator(features)


def run_once(folder: Path, name: str, command: list[str]) -> dict[str, Any]:
    """Run a script in a process of its own and return the JSON of its last line; kept in `folder`, and not run again.

    An interrupted benchmark so goes on where it was; a new folder measures all anew.
    """
    record = folder / "results" / f"{name}.json"
    if not record.is_file():
        run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"{name} failed:\n{run.stderr[-3000:]}")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(run.stdout.strip().splitlines()[-1])
    result = json.loads(record.read_text())
    print(f"{name}: {result}", flush=True)
    return result


def measure(script: str, ways: dict[str, Way], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run all ways in turn, `args.rounds` times; medians. What has run is kept in `args.folder`: run again to go on."""
    results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(1, args.rounds + 1):
        for way in ways:
            name = f"{Path(script).stem} {way.replace('/', ' ')} {number}"
            given = [f"--{option}={value}" for option, value in vars(args).items() if option not in ("write", "worker")]
            results[way].append(run_once(args.folder, name, [script, "--worker", way, *given]))
    return {way: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for way, runs in results.items()}


def table(medians: dict[str, dict[str, float]], rivals: list[str]) -> str:
    """One line per way: speed and memory, and both as ratios to each rival."""
    lines = ["| way | real tokens per second | " + " | ".join(f"× {rival}" for rival in rivals)
             + " | peak memory | " + " | ".join(f"of {rival}" for rival in rivals) + " |",
             "|---" * (3 + 2 * len(rivals)) + "|"]  # fmt: skip
    for way, row in medians.items():
        speed, memory = row["tokens_per_second"], row["peak_memory_bytes"]
        faster = [f"{speed / medians[rival]['tokens_per_second']:.1f}" for rival in rivals]
        smaller = [f"{memory / medians[rival]['peak_memory_bytes']:.2f}" for rival in rivals]
        shown = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
        lines.append(f"| {' | '.join([way, shown, *faster, f'{memory / 2**30:.1f} GiB', *smaller])} |")
    return "\n".join(lines)


def main(
    script: str,
    title: str,
    ways: dict[str, Way],
    tables: Callable[[dict[str, dict[str, float]], argparse.Namespace], str],
    description: str | None,
    settings: dict[str, Any],
    prepare: Callable[[argparse.Namespace], None] | None = None,
) -> None:
    """The command line of a benchmark: `settings` become options with these defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"), help="for checkpoints and results")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--write", type=Path, help="a page whose part under the benchmark's heading is replaced")
    parser.add_argument("--only", default="", help="measure the ways whose names contain this, such as fp32")
    parser.add_argument("--worker", choices=list(ways), help=argparse.SUPPRESS)
    for name, value in settings.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="default: %(default)s")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.worker:
        from polygraft import machine

        result = ways[args.worker](args)
        print(json.dumps(result | {"peak_memory_bytes": machine.peak_memory_bytes()}))
        return
    if prepare:
        prepare(args)
    chosen = {name: way for name, way in ways.items() if args.only in name}
    content = f"{page.about()}; median of {args.rounds} rounds.\n\n" + tables(measure(script, chosen, args), args)
    print(content)
    if args.write:
        page.write_section(args.write, title, content)

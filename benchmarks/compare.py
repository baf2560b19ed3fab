"""How long a comparison takes: 1,000 short documents, five seeds of two systems, whole processes.

Beside it stands sacreBLEU's own paired bootstrap, which knows one seed: two systems, chrF++ and BLEU. The texts are the
bundled summaries, in which some words are replaced by others of their source.

    python benchmarks/compare.py --rounds 3 --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

DOCUMENTS, SEEDS = 1000, 5
SHARES = {"a": 0.3, "b": 0.35}  # words replaced, of each system


@functools.cache
def folder() -> Path:
    """The outputs, as .jsonl for polygraft and as lines for sacreBLEU."""
    from polygraft.data.reading import read_rows

    out, rows = Path(tempfile.mkdtemp()), []
    for lang in ("uk", "pl"):
        files = [f"polygraft/sample/{lang}/{split}.parquet" for split in ("train", "validation", "test")]
        rows += [{**row, "lang": lang} for row in read_rows(files, ["text", "summary"])]
    for system, share in SHARES.items():
        for seed in range(SEEDS):
            draw, written = random.Random(f"{system}{seed}"), []
            for row in rows[:DOCUMENTS]:
                words, others = row["summary"].split(), row["text"].split()
                words = [draw.choice(others) if draw.random() < share else word for word in words]
                written.append({"prediction": " ".join(words), "reference": row["summary"], "lang": row["lang"]})
                written[-1] |= {"id": row["id"], "source": row["text"]}
            lines = "".join(json.dumps(row) + "\n" for row in written)
            (out / f"{system}{seed}.jsonl").write_text(lines, encoding="utf-8")
            plain = "".join(row["prediction"].replace("\n", " ") + "\n" for row in written)
            (out / f"{system}{seed}.txt").write_text(plain, encoding="utf-8")
    references = "".join(row["summary"].replace("\n", " ") + "\n" for row in rows[:DOCUMENTS])
    (out / "references.txt").write_text(references, encoding="utf-8")
    return out


def seconds(*command: str) -> dict[str, float]:
    """Run Python with these arguments; wall-clock seconds, and those of the processors, of all its processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{command} failed:\n{run.stderr[-3000:]}")
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": worked}


def of_polygraft() -> dict[str, float]:
    ours, theirs = ([str(folder() / f"{system}{seed}.jsonl") for seed in range(SEEDS)] for system in SHARES)
    return seconds("-m", "polygraft", "compare", *ours, "--against", *theirs)


def of_sacrebleu() -> dict[str, float]:
    names = [str(folder() / name) for name in ("references.txt", "a0.txt", "b0.txt")]
    metrics = ["-m", "chrf", "bleu", "--chrf-word-order", "2", "--paired-bs", "-f", "text"]
    return seconds("-m", "sacrebleu", names[0], "-i", *names[1:], *metrics)


WAYS: dict[str, side_by_side.Way] = {
    "polygraft compare: 10 files, 10 scores": lambda _: of_polygraft(),
    "sacrebleu --paired-bs: 2 files, 2 scores": lambda _: of_sacrebleu(),
}


def tables(medians: dict[str, dict[str, float]], _: argparse.Namespace) -> str:
    rows = [f"| {way} | {row['seconds']:.1f} | {row['processor_seconds']:.1f} |" for way, row in medians.items()]
    return "\n".join(["| command | seconds | of the processors |", "|---|---|---|", *rows])


if __name__ == "__main__":
    side_by_side.main(__file__, "compare", WAYS, tables, __doc__, {})

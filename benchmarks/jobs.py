"""What the demo takes as one process and as jobs side by side, on a quiet machine and beside a process that is busy.

python benchmarks/jobs.py --write docs/scale.md
python benchmarks/jobs.py --only "2 jobs"
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import page

RECIPE = Path(__file__).parents[1] / "recipes" / "demo.yaml"
TITLE = "The demo, measured"
WAYS: dict[str, tuple[int, dict[str, str], bool]] = {  # jobs, environment, beside a busy process
    "one process, all threads": (1, {}, False),
    "one process, one thread": (1, {"OMP_NUM_THREADS": "1"}, False),
    "2 jobs": (2, {}, False),
    "one process, all threads, beside a busy process": (1, {}, True),
    "2 jobs, beside a busy process": (2, {}, True),
}


@contextlib.contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """One process that does nothing but compute."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def measure(jobs: int, environment: dict[str, str], beside: bool) -> tuple[float, float, list[dict]]:
    """Return seconds that passed, seconds of processors, and the final losses of the demo run in a new folder."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    with tempfile.TemporaryDirectory() as out, busy(beside):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-m", "polygraft", "run", str(RECIPE), "--output-dir", out, "--jobs", str(jobs)]
        subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL)
        passed, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        scores = sorted(Path(out, "demo").glob("*/seed-*/evaluate/scores.json"))
        found = [json.loads(path.read_text())["systems"] for path in scores]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return passed, used, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure the ways whose names contain this")
    parser.add_argument("--write", type=Path, help=f"a page whose part '{TITLE}' is replaced")
    args = parser.parse_args()
    lines = [f"{page.about()}; one round (`python benchmarks/jobs.py`).", "",
             "| `polygraft run recipes/demo.yaml` | seconds | seconds of processors |", "|---|---|---|"]  # fmt: skip
    found = {}
    for name, way in WAYS.items():
        if args.only in name:
            passed, used, found[name] = measure(*way)
            lines.append(f"| {name} | {passed:.0f} | {used:.0f} |")
            print(lines[-1], flush=True)
    if {"one process, one thread", "2 jobs"} <= found.keys():
        equal = found["one process, one thread"] == found["2 jobs"]
        lines += ["", f"Scores of 2 jobs and of one process with one thread: {'equal' if equal else 'NOT EQUAL'}."]
        print(lines[-1])
    if args.write:
        page.write_section(args.write, TITLE, "\n".join(lines))


if __name__ == "__main__":
    main()

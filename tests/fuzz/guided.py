"""Fuzzing that coverage guides: Atheris chooses the bytes that Hypothesis makes broken files of, and keeps those that
reach code which none reached before.

    python tests/fuzz/guided.py --minutes 30                       (make fuzz: all kinds, equal shares)
    python tests/fuzz/guided.py --kind tokenizer --minutes 2

Good files and corpora lie in outputs/fuzz, where the next run goes on. Exit code 1 with what broke polygraft, if
anything did.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def one_kind(name: str, home: Path, seconds: int) -> None:
    """Fuzz a kind in this process, until a fault or the end of the time."""
    import atheris

    with atheris.instrument_imports(include=["polygraft"]):
        import test_fuzz

    check: Any = test_fuzz.check_of(name, home / "good", home / "work")
    corpus = home / "corpus" / name
    if not corpus.is_dir():  # Hypothesis wants some hundred bytes per input, of which libFuzzer would begin with one
        corpus.mkdir(parents=True)
        for number in range(32):
            (corpus / f"random-{number}").write_bytes(random.Random(number).randbytes(1024))
    limits = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=8000", "-max_len=2048", "-len_control=0"]
    arguments = [str(corpus), f"-artifact_prefix={home}/{name}-", "-print_final_stats=1", *limits]
    atheris.Setup([sys.argv[0], *arguments], check.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def all_kinds(home: Path, minutes: float, only: str | None) -> list[str]:
    """Fuzz each kind in a process of its own; return those in which a fault was found."""
    import kinds

    names = [only] if only else list(kinds.KINDS)
    environment = os.environ | {"POLYGRAFT_FUZZ_GOOD": str(home / "good"), "OMP_NUM_THREADS": "1"}
    made = [sys.executable, "-m", "pytest", str(HERE), "-m", "slow", "-k", "good_files"]
    subprocess.run(made, env=environment, check=True, stdout=subprocess.DEVNULL)
    failed = []
    for name in names:
        log = home / f"{name}.log"
        worker = [sys.executable, __file__, "--worker", "--kind", name, "--minutes", str(minutes / len(names))]
        with log.open("wb") as file:
            code = subprocess.run(
                [*worker, "--folder", str(home)], env=environment, stdout=file, stderr=file
            ).returncode
        counts = re.findall(
            r"stat::(number_of_executed_units|new_units_added): +(\d+)", log.read_text(errors="replace")
        )
        said = ", ".join(f"{count} {WORDS[key]}" for key, count in counts)
        print(f"{name}: {said}; {'A FAULT' if code else 'no fault'} ({log})", flush=True)
        failed += [name] if code else []
    return failed


WORDS = {"number_of_executed_units": "inputs", "new_units_added": "reached new code"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of all kinds together (default: %(default)s)")
    parser.add_argument("--kind", help="this one alone, of those in kinds.py")
    parser.add_argument("--folder", type=Path, default=Path("outputs/fuzz"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    home = args.folder.resolve()
    home.mkdir(parents=True, exist_ok=True)
    if args.worker:
        one_kind(args.kind, home, int(60 * args.minutes))
        return 0
    return 1 if all_kinds(home, args.minutes, args.kind) else 0


if __name__ == "__main__":
    sys.exit(main())

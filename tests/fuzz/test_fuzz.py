"""Inputs by the thousand that are broken in bytes, in structure or as files: an answer, or an error that says why.

    python -m pytest tests/fuzz -m slow -rP                      what docs/reliability.md reports
    make fuzz                                                    half an hour, guided by coverage (tests/fuzz/guided.py)
"""

import hashlib
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parent))
import broken
import kinds

from polygraft.cli.errors import explain
from polygraft.errors import PolygraftError

INPUTS = int(os.environ.get("POLYGRAFT_FUZZ", "150"))
SECONDS = 30
MEMORY_BYTES = 500 << 20
STEADY = settings(
    max_examples=INPUTS, derandomize=True, database=None, deadline=None, print_blob=False,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip
pytestmark = pytest.mark.slow


def _content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _too_long(*_: object) -> None:
    raise AssertionError(f"not done after {SECONDS} s")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def outcome(kind: kinds.Kind, folder: Path) -> str:
    """What becomes of a broken input: "used" or the name of an error on purpose; AssertionError where it is a fault."""
    before, memory, started = _content(folder), _peak(), time.monotonic()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        kind.use(folder)
        found = "used"
    except PolygraftError as error:
        assert error.exit_code in (1, 2, 3) and str(error).strip(), f"an error without words: {error!r}"
        found = type(error).__name__
    except AssertionError:
        raise
    except Exception as error:
        said = explain(error)
        assert said and "unexpected error" not in said[0] and "out of memory" not in said[0], (
            f"{type(error).__name__}: {error}"
        )
        found = type(error).__name__
    finally:
        signal.alarm(0)
    assert _peak() - memory < MEMORY_BYTES, f"{(_peak() - memory) >> 20} MiB for an input of a few"
    after = _content(folder)
    assert {name: after.get(name) for name in before} == before, "a file that it was given is changed or gone"
    assert time.monotonic() - started < SECONDS
    return found


def _parses(kind: kinds.Kind, folder: Path) -> bool:
    try:
        kind.parses(folder)
    except Exception:  # the parsers of seven formats, each with errors of its own
        return False
    return True


def _shown(good: Path, folder: Path) -> str:
    """What differs from the good files, around the first byte that does."""
    said = []
    for path in (path for path in good.rglob("*") if path.is_file()):
        now = folder / path.relative_to(good)
        if now.is_symlink() or not now.is_file():
            said.append(f"{now.name}: {'a link' if now.is_symlink() else 'a folder' if now.is_dir() else 'gone'}")
        elif (a := path.read_bytes()) != (b := now.read_bytes()):
            same = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            said.append(f"{now.name}, byte {same}: {a[max(0, same - 60) : same + 60]!r} became {b[max(0, same - 60) : same + 120]!r}")
    return "\n".join(said)


def run_fuzz(name: str, good: Path, folder: Path, inputs: int = INPUTS) -> Counter[str]:
    """Break the good files of a kind in `inputs` ways, and count what became of them; AssertionError with the faults."""
    kind, counts = kinds.KINDS[name], Counter[str]()
    faults: dict[str, str] = {}

    @settings(STEADY, max_examples=inputs)
    @given(broken.breakages(kind.formats))
    def check(break_folder):
        work = broken.fresh(good / name, folder / "input")
        break_folder(work)
        counts["inputs"] += 1
        counts["parsed"] += _parses(kind, work)
        try:
            counts[outcome(kind, work)] += 1
        except AssertionError as error:
            counts["faults"] += 1
            said = str(error).split("\nassert ")[0]
            faults.setdefault(said[:60], f"{said[:300]}\n{_shown(good / name, work)}")

    check()
    assert not faults, "\n\n".join([f"{dict(counts)}", *faults.values()])
    return counts


@pytest.mark.parametrize("name", kinds.KINDS)
def test_good_files_are_used(name, good, tmp_path):
    """Else nothing below would say anything."""
    folder = broken.fresh(good / name, tmp_path / "input")
    assert _parses(kinds.KINDS[name], folder)
    assert outcome(kinds.KINDS[name], folder) == "used"


@pytest.mark.parametrize("name", kinds.KINDS)
def test_broken_files_get_an_answer_or_a_reason(name, good, tmp_path):
    started = time.monotonic()
    counts = run_fuzz(name, good, tmp_path)
    shutil.rmtree(tmp_path)
    print(name, dict(counts), f"{time.monotonic() - started:.0f} s")
    assert counts["inputs"] >= INPUTS

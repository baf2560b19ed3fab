"""Inputs by the thousand that are broken in bytes, in structure or as files: an answer, or an error that says why.

python -m pytest tests/fuzz -m slow -rP                      what docs/reliability.md reports
make fuzz                                                    half an hour, guided by coverage (tests/fuzz/guided.py)
"""

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parent))
import broken
import kinds

from polygraft.cli.errors import explain

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
    raised = None
    try:
        kind.use(folder)
    except (AssertionError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raised = error
    finally:
        signal.alarm(0)
    if raised is not None:
        said, code = explain(raised) or (f"usage: {raised}", 2)
        unsaid = "unexpected error" in said or "out of memory" in said or not said.strip()
        assert not unsaid and code in (1, 2, 3), f"{type(raised).__name__}: {raised}"
    assert _peak() - memory < MEMORY_BYTES, f"{(_peak() - memory) >> 20} MiB for an input of a few"
    after = _content(folder)
    assert {name: after.get(name) for name in before} == before, "a file that it was given is changed or gone"
    assert time.monotonic() - started < SECONDS, "it took too long"
    return type(raised).__name__ if raised else "used"


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
            start = max(0, same - 60)
            said.append(f"{now.name}, byte {same}: {a[start : same + 60]!r} became {b[start : same + 120]!r}")
    return "\n".join(said)


def check_of(
    name: str,
    good: Path,
    folder: Path,
    inputs: int = INPUTS,
    counts: Counter[str] | None = None,
    faults: dict[str, str] | None = None,
) -> Callable[[], None]:
    """The test of a kind: it fails at the first fault with what was broken, or counts all where it is given counts."""
    kind = kinds.KINDS[name]

    @settings(STEADY, max_examples=inputs)
    @given(broken.breakages(kind.formats))
    def check(break_folder):
        work = broken.fresh(good / name, folder / "input")
        break_folder(work)
        try:
            what = outcome(kind, work)
        except AssertionError as error:
            said = f"{str(error)[:300]}\n{_shown(good / name, work)}"
            if faults is None:
                raise AssertionError(said) from error
            faults.setdefault(said[:60], said)
            what = "faults"
        if counts is not None:
            counts.update({"inputs": 1, "parsed": _parses(kind, work), what: 1})

    return check


def run_fuzz(name: str, good: Path, folder: Path, inputs: int = INPUTS) -> Counter[str]:
    """Break the good files of a kind in `inputs` ways, and count what became of them; fail with the faults, if any."""
    counts, faults = Counter[str](), dict[str, str]()
    check_of(name, good, folder, inputs, counts, faults)()
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
    assert counts["parsed"] >= INPUTS / 2, "too few get past the first parser"


class Never(Exception):
    """What nothing raises."""


def _open(*_: object) -> contextlib.AbstractContextManager[None]:
    """A boundary that nobody watches."""
    return contextlib.nullcontext()


def _as_text(cells: Mapping[str, Any], column: str) -> str:
    """A number or a list becomes text, and nobody hears of it."""
    return str(cells.get(column) or "")


# One per layer: (kind of input, what is put in the place of what, inputs)
DEFECTS = {
    "recipe: broken YAML is not caught": ("recipe", "polygraft.recipe.yaml.MarkedYAMLError", Never, INPUTS),
    "data: what is no text becomes text": ("rows.jsonl", "polygraft.data.reading.text_of", _as_text, 4 * INPUTS),
    "models: what a library raises is not caught": ("tokenizer", "polygraft.models.checkpoints.reading", _open, INPUTS),
    "report: files are taken as they are": ("run", "polygraft.report.files.ValidationError", Never, INPUTS // 5),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_put_in_on_purpose_is_found(defect, good, tmp_path, monkeypatch):
    name, place, wrong, inputs = DEFECTS[defect]
    monkeypatch.setattr(place, wrong)
    with pytest.raises(AssertionError, match="'faults': ") as found:
        run_fuzz(name, good, tmp_path, inputs)
    print(defect, str(found.value)[:200])

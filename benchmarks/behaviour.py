"""What the project does, recorded, so that a change that should change nothing can be shown to.

    python benchmarks/behaviour.py record new.json.gz                            # half an hour on one core
    python benchmarks/behaviour.py compare benchmarks/behaviour.json.gz new.json.gz

behaviour.json.gz is what commit 6dac532 did, on an AVX-512 machine. What it shares with the record of before the house
was rebuilt is equal: all values of demo and trimmed, and of the methods all weights and measured states.

Of recipes demo and trimmed, and of methods with smaller budgets: hashes of all saved weights, losses, scores,
diagnostics, verdicts. Of the tests: the text of every error that polygraft raised in them. One thread, 32-bit floats.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"demo": "run", "trimmed": "run", "methods": "diagnose"}
UNSTEADY = re.compile(
    r"^format$|seconds|minutes|memory|bytes|started|git_commit|versions|machine|fingerprint|report|cost"
)
TIMES = re.compile(r"[\d.]+ (?:s|min)\b")  # in sentences
ERRORS = "POLYGRAFT_RECORDED_ERRORS"  # the folder that the plugin below writes to, one file per process of pytest


def record(file: Path) -> None:
    """Run everything and write {"results": {place: value}, "errors": [text]}."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLYGRAFT_PRECISION": "fp32", "TQDM_DISABLE": "1"}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, verb in RECIPES.items():
            text = (ROOT / "recipes" / f"{name}.yaml").read_text()
            recipe, outputs = Path(folder) / f"{name}.yaml", Path(folder) / "outputs"
            recipe.write_text(re.sub(r"flops: (\d+)e11", r"flops: \1e10", text.replace("2e12", "60e11"))
                              if name == "methods" else text)  # fmt: skip
            command = [sys.executable, "-m", "polygraft", verb, str(recipe), "--output-dir", str(outputs)]
            subprocess.run(command, env=environment, check=True)
            results |= dict(_results(outputs / name, name))
            _write(file, results, [])
        errors = Path(folder) / "errors"
        errors.mkdir()
        environment |= {ERRORS: str(errors), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
        subprocess.run([sys.executable, "-m", "pytest", "-p", "behaviour", "-m", "not slow"], cwd=ROOT, env=environment)
        said = {line for file in errors.iterdir() for line in json.loads(file.read_text())}
    _write(file, results, sorted(said))


def _write(file: Path, results: dict[str, Any], errors: list[str]) -> None:
    content = json.dumps({"results": results, "errors": errors}, ensure_ascii=False, indent=0) + "\n"
    with gzip.GzipFile(file, "wb", mtime=0) as out:
        out.write(content.encode())


def _results(folder: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Every figure of a run's folder, and the hash of every file of weights, by its place."""
    for path in sorted(folder.rglob("*")):
        place = f"{name}/{path.relative_to(folder)}"
        if path.suffix == ".safetensors":
            yield place, hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "stage.json":
            yield from _leaves(json.loads(path.read_text())["result"], place)
        elif path.name in ("verdict.json", "diagnose.json", "scores.json"):
            yield from _leaves(json.loads(path.read_text()), place)


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        steady = TIMES.sub("…", value) if isinstance(value, str) else value
        yield place, steady
        return
    for key, child in children:
        if not UNSTEADY.search(str(key)):
            yield from _leaves(child, f"{place}:{key}")


def named(results: dict[str, Any]) -> dict[str, Any]:
    """Put names in the place of numbers of lists, where the items have names: another item moves no other then."""
    names: dict[str, str] = {}
    for place, value in results.items():
        item, _, key = place.rpartition(":")
        if key in ("arm", "name", "stage") and item.rpartition(":")[2].isdecimal():
            names[item] = f"{names[item]}/{value}" if item in names else str(value)

    def rename(place: str) -> str:
        parts = place.split(":")
        known = [names.get(":".join(parts[: n + 1]), part) for n, part in enumerate(parts)]
        return ":".join(known)

    return {rename(place): value for place, value in results.items()}


def compare(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Say what is gone, new or different."""
    before, after = named(old["results"]), named(new["results"])
    yield from (f"gone: {place}" for place in sorted(before.keys() - after.keys()))
    yield from (f"new: {place} = {after[place]}" for place in sorted(after.keys() - before.keys()))
    yield from (f"changed: {place}: {before[place]} -> {after[place]}"
                for place in sorted(before.keys() & after.keys()) if before[place] != after[place])  # fmt: skip
    yield from (f"no longer said: {text}" for text in sorted(set(old["errors"]) - set(new["errors"])))
    yield from (f"said now: {text}" for text in sorted(set(new["errors"]) - set(old["errors"])))


# ---------------------------------------------------------------- as a plugin of pytest

_said: set[str] = set()


def pytest_configure(config: Any) -> None:
    from polygraft.errors import PolygraftError

    plain = PolygraftError.__init__

    def kept(self: Any, *args: Any) -> None:
        plain(self, *args)
        _said.add(_without_places(f"{type(self).__name__}: {self}"))

    PolygraftError.__init__ = kept  # type: ignore[method-assign]


def pytest_sessionfinish(session: Any) -> None:
    (Path(os.environ[ERRORS]) / f"{os.getpid()}.json").write_text(json.dumps(sorted(_said)))


def _without_places(text: str) -> str:
    text = re.sub(r"\S*/pytest-of-\w+/pytest-\d+(/popen-gw\d+)?/[\w.-]+", "<tmp>", text)
    text = text.replace(str(ROOT), "<root>").replace(str(Path.home()), "<home>")
    return re.sub(r"/tmp/tmp\w+", "<tmp>", text)


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(Path(sys.argv[2]))
    else:
        old, new = (json.loads(gzip.decompress(Path(name).read_bytes())) for name in sys.argv[2:4])
        print(*compare(old, new), sep="\n")

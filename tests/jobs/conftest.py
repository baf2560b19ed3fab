"""A tiny study, and all that a run of it leaves, to be compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polygraft import pipeline
from polygraft.jobs import SideBySide
from polygraft.recipe.reading import dump_recipe, parse_recipe
from polygraft.runs.records import read_record

TIMES = {"git_commit", "seconds", "train_seconds", "started", "peak_memory_bytes", "part_started", "minutes", "machine"}


@pytest.fixture
def study(tiny_study, monkeypatch) -> dict[str, Any]:
    """Three arms, two seeds; the transfer of `direct` depends on no seed, since nothing is held out at random."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    short = tiny_study["finetune"]
    tiny_study["text"]["validation_file"] = tiny_study["text"]["train_file"]
    arms = {
        "plain": {},
        "direct": {"transfer": {"mode": "recentre"}, "adapt_target": short},
        "detour": {"adapt": short, "transfer": {"mode": "repair"}, "adapt_target": short},
    }
    return tiny_study | {"arms": arms, "seeds": [1, 2], "verdict": {"treatment": "detour", "control": "direct"}}


@pytest.fixture
def long_study(study) -> dict[str, Any]:
    """Two chains that train long enough to be ended meanwhile, with checkpoints only where they are stopped."""
    how = study["finetune"] | {"budget": {"steps": 400}, "save_steps": 1000, "eval_steps": 1000}
    arms = {"a": {"finetune": how}, "b": {"finetune": how | {"learning_rate": 1e-4}}}
    return study | {"arms": arms, "seeds": [1], "verdict": None}


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    def _run(data: dict[str, Any], how: SideBySide) -> dict[str, Any]:
        recipe = parse_recipe(data, "test")
        return pipeline.run(recipe, recipe_text=dump_recipe(recipe), how=how)

    return _run


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(inner) for key, inner in value.items() if key not in TIMES}
    return [_untimed(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def untimed() -> Callable[[Any], Any]:
    return _untimed


@pytest.fixture(scope="session")
def results() -> Callable[[Path], dict[str, Any]]:
    """All that a run leaves in its stages' folders, byte for byte, times and its own place aside."""

    def _results(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(path for path in folder.glob("*/seed-*/*/**/*") if path.is_file()):
            name = str(path.relative_to(folder))
            if path.suffix in (".json", ".jsonl"):
                text = path.read_text().replace(str(folder.parent), "OUT")
                lines = text.splitlines() if path.suffix == ".jsonl" else [text]
                found[name] = [_untimed(json.loads(line)) for line in lines]
            elif path.name != "README.md":  # which says how long it took
                found[name] = path.read_bytes()
        return found

    return _results


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it does not come"
            time.sleep(0.05)

    return _wait_for


@pytest.fixture(scope="session")
def training() -> Callable[[Path, str], bool]:
    """Whether an arm is in the middle of its fine-tuning: steps were done, and more are to come."""

    def _training(folder: Path, arm: str) -> bool:
        stage = folder / arm / "seed-1" / "finetune"
        begun = (stage / "metrics.jsonl").exists() and '"loss"' in (stage / "metrics.jsonl").read_text()
        return begun and read_record(stage)["status"] == "running"

    return _training

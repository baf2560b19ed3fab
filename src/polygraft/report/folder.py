"""Read a run folder into plain values, tolerantly: what is missing or unreadable becomes a note, never a crash."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from polygraft.errors import DataError

STAGES = ("add_languages", "adapt", "transfer", "warm_up", "adapt_target", "finetune", "evaluate")
ALL_LANGUAGES = "all"
PLACEBO = "+"  # in the name of a folder: no arm, but a placebo of one, which is never fine-tuned
LEAD = "lead"


def number(value: object) -> float | None:
    """The finite number that `value` is, or None (booleans, NaN, infinities and everything else)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: object) -> dict[str, Any]:
    """`value` as a dict with string keys, empty if it is not a mapping."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


@dataclass
class Reader:
    """Reads the files of one run and keeps a sentence for each that could not be read."""

    root: Path
    notes: list[str] = field(default_factory=list)

    def _text(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self.note(path, f"could not be read ({type(error).__name__})")
            return None

    def note(self, path: Path, what: str) -> None:
        """Remember that `path` has a problem, named relative to the run folder."""
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        self.notes.append(f"{name} {what}.")

    def json(self, path: Path) -> dict[str, Any]:
        """The JSON object in `path`; {} if there is none."""
        text = self._text(path)
        if text is None:
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            self.note(path, "is not valid JSON and was left out")
            return {}
        if not isinstance(value, dict):
            self.note(path, "does not hold a JSON object and was left out")
        return mapping(value)

    def jsonl(self, path: Path) -> list[dict[str, Any]]:
        """The JSON objects in `path`, one per line; broken lines are counted in a note."""
        rows, broken = [], 0
        # Only \n separates lines here: str.splitlines would also cut at U+2028 inside a text.
        for line in (self._text(path) or "").split("\n"):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                broken += 1
        if broken:
            self.note(path, f"has {broken} broken {'line' if broken == 1 else 'lines'}, left out")
        return rows

    def yaml(self, path: Path) -> tuple[dict[str, Any], str | None]:
        """The YAML mapping in `path` and its text; ({}, None) if there is none."""
        text = self._text(path)
        if text is None:
            self.note(path, "is missing")
            return {}, None
        try:
            return mapping(yaml.safe_load(text)), text
        except (yaml.YAMLError, RecursionError):
            self.note(path, "is not valid YAML; it is shown as it is")
            return {}, text


@dataclass(frozen=True)
class Stage:
    """One stage of one arm and seed: what stage.json and metrics.jsonl say."""

    arm: str
    seed: int
    name: str
    path: Path
    record: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def status(self) -> str:
        """What stage.json says; "unfinished" for a folder without one; "not run" without a folder."""
        if self.record:
            return str(self.record.get("status", "done"))
        return "unfinished" if self.path.is_dir() else "not run"

    @property
    def finished(self) -> bool:
        return self.status not in ("unfinished", "not run", "running", "failed", "interrupted")

    @property
    def settings(self) -> dict[str, Any]:
        return mapping(self.record.get("settings"))

    @property
    def result(self) -> dict[str, Any]:
        return mapping(self.record.get("result"))


@dataclass(frozen=True)
class SeedRun:
    """One arm under one seed: its stages in order, scores, predictions and transfer files."""

    arm: str
    seed: int
    stages: list[Stage]
    scores: dict[str, Any]
    predictions: list[dict[str, Any]]
    plan: dict[str, Any]
    diagnostics: dict[str, Any]

    def system(self, name: str) -> dict[str, Any]:
        """The scores of "model" or "lead": {language: {metric: …}}."""
        return mapping(mapping(self.scores.get("systems")).get(name))


@dataclass(frozen=True)
class Arm:
    """A variant of the recipe and its runs, one per seed."""

    name: str
    index: int
    runs: list[SeedRun]


@dataclass(frozen=True)
class Run:
    """Everything a report is made from."""

    name: str
    recipe: dict[str, Any]
    recipe_text: str | None
    arms: list[Arm]
    verdict: dict[str, Any]
    diagnosis: dict[str, Any]
    notes: list[str]

    @property
    def seed_runs(self) -> list[SeedRun]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def stages(self) -> list[Stage]:
        return [stage for run in self.seed_runs for stage in run.stages]


def sections_of(recipe: dict[str, Any], arm: str) -> dict[str, Any]:
    """The recipe with what the arm says in place of its own, section by section."""
    return recipe | mapping(mapping(recipe.get("arms")).get(arm))


def expected_stages(recipe: dict[str, Any], arm: str) -> list[str]:
    """The stages that the recipe gives this arm, in order."""
    sections = sections_of(recipe, arm)
    return [name for name in STAGES if sections.get(name) is not None or name in ("finetune", "evaluate")]


def _seed_number(path: Path) -> int | None:
    head, _, digits = path.name.partition("-")
    return int(digits) if head == "seed" and digits.isdecimal() and digits.isascii() else None


def _seeds_on_disk(arm_dir: Path) -> set[int]:
    if not arm_dir.is_dir():
        return set()
    return {seed for path in arm_dir.iterdir() if path.is_dir() and (seed := _seed_number(path)) is not None}


def _arm_names(root: Path, recipe: dict[str, Any]) -> list[str]:
    """The recipe's arms in its order (without arms: `main`), then others that are on disk."""
    named = list(mapping(recipe.get("arms"))) or ["main"]
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and _seeds_on_disk(path))
    found = [name for name in found if PLACEBO not in name]
    if not recipe and found:
        return found
    return named + [name for name in found if name not in named]


def _read_seed(reader: Reader, recipe: dict[str, Any], arm: str, seed: int) -> SeedRun:
    folder = reader.root / arm / f"seed-{seed}"
    expected = expected_stages(recipe, arm)
    stages = []
    for name in STAGES:
        path = folder / name
        if name not in expected and recipe:
            if path.is_dir():
                reader.note(path, "is not of this recipe; it is left alone and not counted")
        elif name in expected or path.is_dir():
            stages.append(
                Stage(arm, seed, name, path, reader.json(path / "stage.json"), reader.jsonl(path / "metrics.jsonl"))
            )
    evaluate, transfer = folder / "evaluate", folder / "transfer"
    # The diagnostics may be a file of their own or only stand in the stage's result.
    in_result = next((stage.result.get("diagnostics") for stage in stages if stage.name == "transfer"), None)
    return SeedRun(
        arm=arm,
        seed=seed,
        stages=stages,
        scores=reader.json(evaluate / "scores.json"),
        predictions=reader.jsonl(evaluate / "predictions.jsonl"),
        plan=reader.json(transfer / "plan.json"),
        diagnostics=reader.json(transfer / "diagnostics.json") or mapping(in_result),
    )


def _notes_on_unfinished(arms: list[Arm]) -> list[str]:
    notes = []
    for arm in arms:
        for run in arm.runs:
            missing = [f"{stage.name} ({stage.status})" for stage in run.stages if not stage.finished]
            if missing:
                notes.append(f"Arm {arm.name}, seed {run.seed}, is incomplete: {', '.join(missing)}.")
            elif not run.scores:
                notes.append(f"Arm {arm.name}, seed {run.seed}, has no scores.json.")
    return notes


def _notes_on_comparability(arms: list[Arm]) -> list[str]:
    """A note when arms were not scored on the same number of documents: their scores do not compare."""
    counts = {run.scores.get("documents") for arm in arms for run in arm.runs if run.scores}
    known = sorted(str(count) for count in counts)
    return [f"The arms were scored on different numbers of documents ({', '.join(known)})."] if len(known) > 1 else []


def read_run(run_dir: Path) -> Run:
    """Read `run_dir` (outputs/<name>). Raises DataError if it is no folder."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir} is not a folder: give the folder of a run, such as outputs/<recipe name>.")
    reader = Reader(run_dir)
    recipe, recipe_text = reader.yaml(run_dir / "recipe.yaml")
    declared = recipe.get("seeds", [1])
    seeds = {seed for seed in declared if isinstance(seed, int)} if isinstance(declared, list) else {1}
    arms = []
    for index, name in enumerate(_arm_names(run_dir, recipe)):
        arm_seeds = sorted(seeds | _seeds_on_disk(run_dir / name)) if recipe else sorted(_seeds_on_disk(run_dir / name))
        arms.append(Arm(name, index, [_read_seed(reader, recipe, name, seed) for seed in arm_seeds]))
    verdict, diagnosis = reader.json(run_dir / "verdict.json"), reader.json(run_dir / "diagnose.json")
    notes = reader.notes + _notes_on_unfinished(arms) + _notes_on_comparability(arms)
    return Run(str(recipe.get("name") or run_dir.resolve().name), recipe, recipe_text, arms, verdict, diagnosis, notes)

"""A run's folder in types: the recipe says which arms, seeds and stages there are; their files say how far they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from polygraft.errors import DataError
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes, load_recipe
from polygraft.recipe.stages import STAGES, stages_of
from polygraft.report import files
from polygraft.report.files import DiagnosisFile, LoggedLine, PlanFile, Record, Result, ScoresFile, VerdictFile
from polygraft.runs.records import DONE, RECIPE_FILE, STAGE_FILE, left_over
from polygraft.scoring.forgetting import Restored

ALL_LANGUAGES = "all"
TITLES = {stage.name: stage.title for stage in STAGES}


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of one arm and seed: what stage.json and metrics.jsonl say; no record of one that has not begun."""

    arm: str
    seed: int
    name: str
    record: Record | None
    lines: list[LoggedLine]

    @property
    def status(self) -> str:
        return self.record.status if self.record else "not run"

    @property
    def finished(self) -> bool:
        return self.status == DONE

    @property
    def result(self) -> Result:
        return self.record.result if self.record else Result()


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One arm under one seed: its stages in order, and what those that are done left behind."""

    arm: str
    seed: int
    folder: Path
    stages: Mapping[str, StageRun]
    scores: ScoresFile | None
    restored: Restored | None
    plan: PlanFile | None
    diagnostics: Mapping[str, int | float]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A variant of the recipe and its runs, one per seed."""

    name: str
    index: int
    recipe: Recipe
    runs: list[SeedRun]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a report is made from; `has_text` says whether texts of the data may be shown."""

    recipe: Recipe
    recipe_text: str
    arms: list[Arm]
    verdict: VerdictFile | None
    diagnosis: DiagnosisFile | None
    notes: list[str]
    has_text: bool = True

    @property
    def seed_runs(self) -> list[SeedRun]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def stages(self) -> list[StageRun]:
        return [stage for run in self.seed_runs for stage in run.stages.values()]

    @property
    def records(self) -> list[tuple[StageRun, Record]]:
        """The stages that have begun."""
        return [(stage, stage.record) for stage in self.stages if stage.record]


def read_run(run_dir: Path) -> Run:
    """Read `run_dir` (outputs/<name>).

    Raises:
        DataError: it is not the folder of a run, or a file in it is not as this version writes it.
        RecipeError: its recipe is not one of this version.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir} is not a folder: give the folder of a run, such as outputs/<recipe name>.")
    path = run_dir / RECIPE_FILE
    if not path.is_file():
        raise DataError(f"{run_dir} has no {path.name}: give the folder of a run, such as outputs/<recipe name>.")
    recipe = load_recipe(path)
    arms = [
        Arm(name=name, index=index, recipe=arm, runs=[read_seed(run_dir, name, arm, seed) for seed in recipe.seeds])
        for index, (name, arm) in enumerate(arm_recipes(recipe).items())
    ]
    left = [
        f"{path.relative_to(run_dir)} is not of this recipe; it is left alone and not counted."
        for path in left_over(run_dir, {arm.name: arm.recipe for arm in arms}, recipe.seeds)
    ]
    verdict, diagnosis = run_dir / files.VERDICT, run_dir / files.DIAGNOSIS
    return Run(
        recipe=recipe,
        recipe_text=path.read_text(encoding="utf-8"),
        arms=arms,
        verdict=files.read(verdict, VerdictFile) if verdict.exists() else None,
        diagnosis=files.read(diagnosis, DiagnosisFile) if diagnosis.exists() else None,
        notes=[*left, *_unfinished(arms), *_incomparable(arms)],
    )


def read_seed(run_dir: Path, arm: str, recipe: Recipe, seed: int) -> SeedRun:
    """Read what an arm has under one seed.

    Raises:
        DataError: a file is not as this version writes it.
    """
    folder = run_dir / arm / f"seed-{seed}"
    stages = {name: _read_stage(folder / name, arm, seed) for name in stages_of(recipe)}
    scored, transferred = stages["evaluate"].finished, "transfer" in stages and stages["transfer"].finished
    measured = "forgetting" in stages and stages["forgetting"].finished
    transfer = folder / "transfer"
    return SeedRun(
        arm=arm,
        seed=seed,
        folder=folder,
        stages=stages,
        scores=files.read_scores(folder / "evaluate" / files.SCORES) if scored else None,
        restored=Restored.load(folder / "forgetting") if measured else None,
        plan=files.read(transfer / files.PLAN, PlanFile) if transferred else None,
        diagnostics=files.read(transfer / files.DIAGNOSTICS, dict[str, int | float]) if transferred else {},
    )


def _read_stage(folder: Path, arm: str, seed: int) -> StageRun:
    path = folder / STAGE_FILE
    return StageRun(
        arm=arm,
        seed=seed,
        name=folder.name,
        record=files.read(path, Record) if path.exists() else None,
        lines=files.read_lines(folder / files.METRICS),
    )


def _unfinished(arms: list[Arm]) -> Iterator[str]:
    for run in (run for arm in arms for run in arm.runs):
        missing = [f"{stage.name} ({stage.status})" for stage in run.stages.values() if not stage.finished]
        if missing:
            yield f"Arm {run.arm}, seed {run.seed}, is incomplete: {', '.join(missing)}."


def _incomparable(arms: list[Arm]) -> Iterator[str]:
    """A note when arms were not scored on the same number of documents: their scores do not compare."""
    counts = {run.scores.documents for arm in arms for run in arm.runs if run.scores}
    if len(counts) > 1:
        yield f"The arms were scored on different numbers of documents ({', '.join(map(str, sorted(counts)))})."

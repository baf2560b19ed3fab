"""What is known of a checkpoint or an exported model, from files: its stages, origins, languages, scores, verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from polygraft.data.files import assert_known_format
from polygraft.errors import DataError
from polygraft.inference.engine import EXPORT_FILE
from polygraft.models.recorded import KEY as LANGUAGES
from polygraft.publishing.licences import Origin
from polygraft.publishing.origins import DoneStage, lineage, origins
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes, load_recipe
from polygraft.report import files
from polygraft.report.files import Record, ScoresFile, VerdictFile
from polygraft.report.folder import ALL_LANGUAGES, SeedRun, read_seed
from polygraft.runs.fingerprints import fingerprint_of
from polygraft.runs.records import DONE, RECIPE_FILE, STAGE_FILE
from polygraft.scoring.metrics import shown_first
from polygraft.settings import Evaluate

Direction = tuple[str, str]
"""The codes of what is read and what is written."""


@dataclass(frozen=True, kw_only=True)
class InRun:
    """Where in a run a checkpoint is: the whole recipe, that of its arm, and what there is of its seed."""

    recipe: Recipe
    of_arm: Recipe
    run: SeedRun
    verdict: VerdictFile | None


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model's folder, and what its files and those around it say.

    Attributes:
        folder: what is described, a checkpoint or what was exported of one.
        original: the checkpoint that was exported; the same as `folder` where nothing was, or where it is gone.
        exported: the content of export.json, None of a checkpoint.
        place: its place in a run, if it is in one.
        evaluated: settings and scores of its evaluation, if there was one.
    """

    folder: Path
    original: Path
    exported: dict[str, Any] | None
    stages: Sequence[DoneStage]
    origins: Sequence[Origin]
    place: InRun | None
    evaluated: tuple[Record, ScoresFile] | None

    @classmethod
    def of(cls, folder: Path) -> ModelFacts:
        """Read all that there is.

        Raises:
            DataError: a file is not as this version writes it.
        """
        folder = folder.resolve()
        stages, exported = lineage(folder), read_json(folder / EXPORT_FILE)
        original = folder
        if exported:
            assert_known_format(folder / EXPORT_FILE, exported)
            ended = stages[-1:]
            original = next((stage.before(name) for stage in ended for name in stage.models), folder)
            original = original if original.is_dir() else folder
        place = _place(original)
        return cls(
            folder=folder,
            original=original,
            exported=exported or None,
            stages=stages,
            origins=origins(stages),
            place=place,
            evaluated=_in_run(place.run) if place else _beside(original),
        )

    @property
    def title(self) -> str:
        if self.place:
            return f"{self.place.recipe.name} · {self.place.run.arm}"
        return self.original.parent.name if self.original.name == "finetune" else self.original.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json; of an exported model without one its languages alone."""
        return read_json(self.original / "config.json")

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        return read_json(self.folder / "tokenizer_config.json")

    @property
    def tuned(self) -> Record | None:
        """The fine-tuning that it went through, the last one."""
        return next((stage.record for stage in reversed(self.stages) if stage.record.stage == "finetune"), None)

    @property
    def scores(self) -> ScoresFile | None:
        return self.evaluated[1] if self.evaluated else None

    @property
    def evaluation(self) -> Evaluate:
        """How its outputs are made, as far as that is known."""
        if self.place:
            return self.place.of_arm.evaluate
        given = self.evaluated[0].settings if self.evaluated else {}
        return Evaluate.model_validate({name: given[name] for name in Evaluate.model_fields if name in given})

    @property
    def shown_first(self) -> list[str]:
        """The scores that matter most."""
        return shown_first(self.place.recipe.verdict if self.place else None)

    @cached_property
    def directions(self) -> list[Direction]:
        """What is read and written: in each language or direction that was scored, else as the checkpoint records it.

        Raises:
            DataError: neither says so.
        """
        if self.scores:
            named = [name.rpartition("-") for name in sorted(self.scores.systems.model) if name != ALL_LANGUAGES]
            return [(source or target, target) for source, _, target in named]
        kept = (self.exported or {}).get("languages") or self.config.get(LANGUAGES) or {}
        sources, targets = (kept.get(f"{side}s", kept.get(side, ())) for side in ("source", "target"))
        found = [(source, target) for source, target in kept.get("directions", ())]
        if not found and len(targets) == 1:
            found = [(source, targets[0]) for source in sources]
        found = found or [(code, code) for code in targets if code in sources]
        if not found:
            raise DataError(
                f"{self.folder}: does not record which languages it reads and writes, and was not evaluated. Write a "
                "README.md for it yourself, or fine-tune it first."
            )
        return found

    @property
    def translates(self) -> bool:
        return any(source != target for source, target in self.directions)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds, nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _place(folder: Path) -> InRun | None:
    """The place of <run>/<arm>/seed-<n>/finetune in its run; None of any other folder."""
    if len(folder.parents) < 3 or folder.name != "finetune" or not folder.parent.name.startswith("seed-"):
        return None
    run_dir, arm, seed = folder.parents[2], folder.parents[1].name, folder.parent.name.removeprefix("seed-")
    if not (run_dir / RECIPE_FILE).is_file():
        return None
    whole = load_recipe(run_dir / RECIPE_FILE)
    arms = arm_recipes(whole)
    if arm not in arms or not seed.isdecimal():
        return None
    path = run_dir / files.VERDICT
    verdict = files.read(path, VerdictFile) if path.exists() and whole.verdict else None
    if verdict and whole.verdict:  # one of before the recipe was changed says nothing of these seeds and arms
        compared = whole.verdict.treatment, whole.verdict.control, list(whole.seeds)
        verdict = verdict if (verdict.treatment, verdict.control, verdict.seeds) == compared else None
    return InRun(recipe=whole, of_arm=arms[arm], run=read_seed(run_dir, arm, arms[arm], int(seed)), verdict=verdict)


def _in_run(run: SeedRun) -> tuple[Record, ScoresFile] | None:
    record = run.stages["evaluate"].record
    return (record, run.scores) if record and run.scores else None


def _beside(folder: Path) -> tuple[Record, ScoresFile] | None:
    """The scores that `polygraft evaluate` left beside a checkpoint, if they are of it as it is now."""
    for path in sorted(folder.parent.glob(f"*/{files.SCORES}")):
        record = files.read(path.parent / STAGE_FILE, Record) if (path.parent / STAGE_FILE).is_file() else None
        if record and record.status == DONE and fingerprint_of(str(folder)) in record.inputs.values():
            return record, files.read_scores(path)
    return None

"""What a run will meet, found out before a second of it is spent: data, checkpoints, memory, disk and time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from polygraft import machine
from polygraft.checks.data import Beginnings, DataReport, examine
from polygraft.data.sources import label
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes
from polygraft.scoring.figures import apart

if TYPE_CHECKING:  # they import torch and transformers, which a wrong file name need not wait for
    from polygraft.checks.models import ModelReport
    from polygraft.checks.needs import Need

PROBE_TEXTS, PROBE_CHARACTERS = 100, 300


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was found. `problems` would stop a run, `warnings` would not.

    `stages` are per arm and for one seed, `diagnosis` per arm and placebo, if the recipe has one; `seconds` and
    `disk_bytes` are for all arms and seeds, `memory_bytes` is that of the hungriest stage.
    """

    recipe: str
    seeds: int
    data: DataReport
    models: tuple[ModelReport, ...]
    stages: dict[str, tuple[Need, ...]]
    diagnosis: dict[str, tuple[Need, ...]]
    memory_bytes: int
    available_memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(recipe: Recipe) -> Report:
    """Check a recipe's data, checkpoints, languages, versions, memory and disk.

    Raises:
        RecipeError: `report_to` names what is not installed.
        DataError: files that cannot be used, or languages that the target lacks.
        CheckpointError, TransferError: checkpoints that cannot be used, or not together.
    """
    from polygraft.training.trackers import assert_installed

    assert_installed(recipe.report_to)
    arms = arm_recipes(recipe)
    data, beginnings = examine(arms)
    from polygraft.checks.models import check_languages, model_warnings, open_models
    from polygraft.checks.stages import Stages

    opened = open_models(arms)
    for arm in arms.values():
        check_languages(_declared(arm, data), arm, opened[arm.target])
    warnings = [*data.warnings, *model_warnings(arms, opened, _probe_texts(arms, beginnings))]
    estimate = Stages(opened, beginnings=beginnings)
    stages = {arm: estimate.of_arm(arm, recipe) for arm, recipe in arms.items()}
    diagnosis = estimate.of_diagnosis(arms, recipe.diagnose) if recipe.diagnose else {}
    warnings += estimate.warnings
    folder = Path(recipe.output_dir) / recipe.name
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.isdir(path))
    per_seed = [need for needs in stages.values() for need in needs]
    final = sum(need.disk_bytes for need in per_seed) * len(recipe.seeds)
    beside = max((need.disk_peak_bytes - need.disk_bytes for need in per_seed), default=0)
    needed = max(need.memory_bytes for need in per_seed)
    available, free = machine.available_bytes(), shutil.disk_usage(existing).free
    problems = (
        *_version_problems(),
        *_memory_problems(stages, available),
        *_disk_problems(final + beside, free, existing),
        *_folder_problems(folder, existing, arms),
    )
    return Report(
        recipe=recipe.name,
        seeds=len(recipe.seeds),
        data=data,
        models=tuple(model.report for model in opened.values()),
        stages=stages,
        diagnosis=diagnosis,
        memory_bytes=needed,
        available_memory_bytes=available,
        disk_bytes=final + beside,
        free_disk_bytes=free,
        seconds=seconds_of(stages) * len(recipe.seeds) + seconds_of(diagnosis),
        machine=machine.describe(),
        versions=machine.versions(),
        problems=problems,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def seconds_of(needs: Mapping[str, tuple[Need, ...]]) -> float:
    """What is known of the time that stages take."""
    return sum(need.seconds or 0.0 for of_one in needs.values() for need in of_one)


def _declared(recipe: Recipe, data: DataReport) -> dict[str, str]:
    """Each language that an arm's data is declared to be in and that the target must have: where it is declared."""
    files = {label(names) for names in (recipe.pairs.train_file, recipe.pairs.validation_file, recipe.pairs.test_file)}
    files |= {label(recipe.forgetting.test_file)} if recipe.forgetting else set()
    compared = recipe.transfer is not None and recipe.transfer.compares_states
    if recipe.text and (recipe.adapt_target or recipe.warm_up or compared):
        files |= {label(names) for names in (recipe.text.train_file, recipe.text.validation_file)}
    return {report.declared: report.declared_by for report in data.language if report.file in files}


def _probe_texts(arms: Mapping[str, Recipe], beginnings: Beginnings) -> list[str]:
    """Texts of the user's to compare the tokenizers of source and target on."""
    text = next((recipe.text for recipe in arms.values() if recipe.text), None)
    texts = beginnings[text.train_file, (text.text_column,)].columns[0][:PROBE_TEXTS] if text else []
    return [text[:PROBE_CHARACTERS].strip() for text in texts]


def _version_problems() -> Iterator[str]:
    for text in requires("polygraft") or ():
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            yield f"{needed.name} is not installed: pip install '{needed}'."
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            yield f"{needed.name} {installed} is installed, but polygraft needs {needed.specifier}."


def _memory_problems(stages: Mapping[str, tuple[Need, ...]], available: int) -> Iterator[str]:
    for arm, needs in stages.items():
        for need in needs:
            if need.memory_bytes > available:
                needed, free = apart(need.memory_bytes / 1e9, available / 1e9)
                size = f"needs about {needed} GB of memory, and {free} GB are free"
                yield f"arm {arm}, {need.stage}: {size}. {_remedy(need)}"


def _remedy(need: Need) -> str:
    if need.batch_size is None:
        return "Use a machine with more memory, or smaller models."
    if need.proposed_batch_tokens:
        return f"Set {need.stage}.per_device_train_batch_tokens to {need.proposed_batch_tokens}."
    if need.proposed_batch_size:
        size = f"Set {need.stage}.per_device_train_batch_size to {need.proposed_batch_size}"
        return f"{size} and gradient_accumulation_steps to make up for it."
    if need.stage == "evaluate":
        return "Lower evaluate.per_device_eval_batch_size or evaluate.num_beams."
    return f"Set {need.stage}.trim_vocabulary to true, shorten its texts, or use smaller models."


def _folder_problems(folder: Path, existing: Path, arms: Mapping[str, Recipe]) -> Iterator[str]:
    """Make the folders that a run would make, in a hidden one that is removed again, and write into them."""
    if in_the_way := [path for path in folder.absolute().parents if os.path.isfile(path)]:
        yield f"{folder}: nothing can be written there ({in_the_way[0]} is a file). Choose another output_dir."
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".polygraft-", dir=existing) as hidden:
            for arm in arms:
                stage = Path(
                    hidden, *folder.absolute().relative_to(existing.absolute()).parts, arm, "seed-1", "evaluate"
                )
                stage.mkdir(parents=True)
                (stage / "predictions.jsonl").write_bytes(bytes(2**16))
    except OSError as error:
        yield f"{folder}: nothing can be written there ({error.strerror}). Choose another output_dir."


def _disk_problems(needed: int, free: int, folder: Path) -> Iterator[str]:
    if needed > free:
        written, left = apart(needed / 1e9, free / 1e9)
        size = f"{written} GB will be written, and {left} GB are free"
        yield f"{folder}: {size}. Free space, choose another output_dir, or use fewer seeds."

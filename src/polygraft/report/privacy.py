"""What of a run a page shows of people and machines: no folders ever; without text, nothing that comes from the data.

A page without text has no documents, outputs, references or ids, no names of files, columns, local checkpoints or
machines, and not the recipe as it was written. Strings are shown that polygraft's own settings can have, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from polygraft.nano import PREFIX
from polygraft.recipe.reading import json_schema
from polygraft.report.files import Record
from polygraft.report.folder import Run, SeedRun, StageRun
from polygraft.runs.fingerprints import is_of_hub

HIDDEN = "not shown"
MACHINE = ("platform", "python", "cpus", "device")  # as machine.describe has it; no names among them
_FOLDERS = re.compile(r"""(?:(?<=[\s'"\[({,=])|^)(?:~|[A-Za-z]:)?[/\\](?:[^'",\]\n]*[/\\])""", re.MULTILINE)
_CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,8})?")
_OWN_STAGE = re.compile(r"([^/\\]+)[/\\]seed-\d+[/\\](?:adapt|transfer|warm_up|adapt_target|finetune)$")
_HASH = re.compile(r"[0-9a-f]{64}")


def without_folders(text: str, instead: str = "") -> str:
    """Of absolute paths only their last parts: the rest holds on one machine, and may name its user."""
    return _FOLDERS.sub(instead, text)


def without_text(run: Run) -> Run:
    """The run as far as it may be shown to those who may not see its data."""
    names = {arm.name for arm in run.arms}
    arms = [replace(arm, runs=[_seed_run(one, names) for one in arm.runs]) for arm in run.arms]
    hub = {name for _, record in run.records for name, mark in record.inputs.items() if is_of_hub(name, mark)}
    models = {side: _model(getattr(run.recipe, side), hub) for side in ("source", "target")}
    diagnosis = run.diagnosis
    if diagnosis and diagnosis.layers:
        sides = {side: _model(getattr(diagnosis.layers, side), hub) for side in ("source", "target")}
        diagnosis = diagnosis.model_copy(update={"layers": diagnosis.layers.model_copy(update=sides)})
    recipe = run.recipe.model_copy(update=models)
    return replace(run, recipe=recipe, recipe_text="", arms=arms, diagnosis=diagnosis, has_text=False)


def _model(name: str | None, hub: set[str]) -> str | None:
    """A model's name on the hub or in the package; of a checkpoint elsewhere only that it is one."""
    return name if name is None or name in hub or name.startswith(PREFIX) else "a local checkpoint"


def _seed_run(run: SeedRun, arms: Container[str]) -> SeedRun:
    return replace(run, stages={name: _stage(stage, arms) for name, stage in run.stages.items()})


def _stage(stage: StageRun, arms: Container[str]) -> StageRun:
    if stage.record is None:
        return stage
    record: Record = stage.record
    changed = {
        "settings": _mapping(record.settings),
        "data": [_mapping(part) for part in record.data],
        "inputs": dict(_inputs(record.inputs, arms)),
        "machine": {name: value for name, value in record.machine.items() if name in MACHINE},
    }
    return replace(stage, record=record.model_copy(update=changed))


def _inputs(inputs: Mapping[str, str], arms: Container[str]) -> Iterator[tuple[str, str]]:
    """Files and checkpoints by number; models of the hub, bundled ones and stages of this run by name."""
    for number, (name, mark) in enumerate(inputs.items(), 1):
        stage = _OWN_STAGE.search(name)
        if name.startswith("file:"):  # the mark of a data set on the hub has its name
            yield f"file:input {number}", mark if _HASH.fullmatch(mark) else HIDDEN
        elif name.startswith(PREFIX) or is_of_hub(name, mark):
            yield name, mark
        else:
            yield (stage.group() if stage and stage[1] in arms else f"input {number}"), mark


def _mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(name, value) for name, value in values.items()}


def _value(name: str, value: Any) -> Any:
    """Numbers, and words that polygraft's own settings can have; language codes under names of languages."""
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list):
        return [_value(name, item) for item in value]
    if not isinstance(value, str) or value in _own_words():
        return value
    is_code = name.removesuffix("s").endswith(("lang", "language")) and _CODE.fullmatch(value)
    return value if is_code else HIDDEN


@cache
def _own_words() -> frozenset[str]:
    """All that a recipe's schema names as a value or a default."""
    return frozenset(_words_of(json_schema()))


def _words_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        named = [*schema.get("enum", ()), schema.get("const"), schema.get("default")]
        yield from (word for word in named if isinstance(word, str))
        for inner in schema.values():
            yield from _words_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _words_of(inner)

"""What a checkpoint was made from: its stages, back to the models and texts at their beginning, by their stage.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from polygraft.data.hub import PREFIX as HUB
from polygraft.data.sources import DATA_FIELDS
from polygraft.errors import CheckpointError
from polygraft.models.checkpoints import split_revision
from polygraft.nano import PREFIX as BUNDLED
from polygraft.publishing.licences import Origin, hub_id, licence, licence_of_text
from polygraft.report import files
from polygraft.report.files import Record
from polygraft.runs.fingerprints import is_of_hub
from polygraft.runs.records import STAGE_FILE

FILE = "file:"
MANY_FILES = 3  # of one folder; more are named together


@dataclass(frozen=True)
class DoneStage:
    """A stage's folder and what its stage.json says."""

    folder: Path
    record: Record

    @property
    def models(self) -> dict[str, str]:
        """The checkpoints that it read, and their fingerprints; that which it changed first."""
        found = [(name, mark) for name, mark in self.record.inputs.items() if not name.startswith(FILE)]
        return dict(reversed(found) if self.record.stage == "transfer" else found)  # which names its target last

    @property
    def texts(self) -> Iterator[tuple[str, str]]:
        """The files and data sets that it trained on, or that chose its vocabulary, and their fingerprints."""
        read = iter([(name, mark) for name, mark in self.record.inputs.items() if name.startswith(FILE)])
        for section in self.record.data:
            for field in DATA_FIELDS:
                for name, mark in islice(read, int(section.get(f"{field}s", 0))):
                    if field == "train_file":
                        yield name.removeprefix(FILE), mark

    def before(self, name: str) -> Path:
        """Where a checkpoint that it read lies: under its name, or beside the stage, if all were moved."""
        named = Path(name).resolve()
        elsewhere = name.startswith(BUNDLED) or is_of_hub(name, self.models[name])
        return named if named.exists() or elsewhere else self.folder.parent / Path(name).name


def lineage(folder: Path) -> list[DoneStage]:
    """Return the stages that a checkpoint went through, each after those whose results it took; [] where none is known.

    Raises:
        DataError: a stage.json is not as this version writes it.
    """
    found: dict[Path, DoneStage] = {}

    def walk(place: Path) -> None:
        path = place / STAGE_FILE
        if place not in found and path.is_file():
            stage = DoneStage(place, files.read(path, Record))
            for name in reversed(stage.models):
                walk(stage.before(name))
            found[place] = stage

    walk(folder.resolve())
    return list(found.values())


def origins(stages: list[DoneStage]) -> list[Origin]:
    """Return the models and the texts that a checkpoint was made from; first the model that it once was."""
    begun = {stage.folder for stage in stages}
    models = {
        name: mark
        for stage in reversed(stages)
        for name, mark in stage.models.items()
        if stage.before(name) not in begun
    }
    return [_model(*one) for one in models.items()] + list(_texts(stages))


def _model(name: str, mark: str) -> Origin:
    hub, commit = (split_revision(name)[0], mark.rpartition("@")[2]) if is_of_hub(name, mark) else (None, None)
    try:
        states = (licence(f"{hub}@{commit}") if hub else None) or licence(name)
    except CheckpointError:  # a folder that is gone
        states = None
    return Origin(shareable(name), "model", states, hub=hub, commit=commit)


def _texts(stages: list[DoneStage]) -> Iterator[Origin]:
    texts = {name: mark for stage in stages for name, mark in stage.texts}
    inside = Counter(Path(name).parent for name in texts)
    told: set[Path] = set()
    for name, mark in texts.items():
        folder = Path(name).parent
        if name.startswith(HUB):  # its fingerprint is its name, with the commit
            yield Origin(name, "text", licence_of_text(mark), *hub_id(mark))
        elif inside[folder] <= MANY_FILES or name.startswith(BUNDLED):
            yield Origin(shareable(name), "text", licence_of_text(name))
        elif folder not in told:
            told.add(folder)
            yield Origin(f"{folder.name}/ ({inside[folder]} files)", "text", licence_of_text(name))


def shareable(value: Any) -> Any:
    """Return a value without what is true on one machine alone: of a path that leads out, its last part remains."""
    if isinstance(value, dict):
        return {key: shareable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shareable(item) for item in value]
    if not isinstance(value, str):
        return value
    outside = value.startswith(("/", "~")) or ".." in Path(value).parts or value[1:3] in (":\\", ":/")
    return value.replace("\\", "/").rstrip("/").rpartition("/")[2] if outside else value

"""Which files of a folder are published: by name those that the model is loaded from, and what is asked for besides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from polygraft.errors import CheckpointError, RecipeError
from polygraft.inference.engine import is_exported
from polygraft.models import bottleneck
from polygraft.models.checkpoints import PICKLED, WEIGHTS
from polygraft.publishing.card import CARD_NAME
from polygraft.publishing.origins import shareable

CONFIGURATION = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt"),
)
ADAPTER = tuple(f"{bottleneck.FOLDER}/{name}" for name in (bottleneck.CONFIG, bottleneck.WEIGHTS))
EXPORTED = (
    *("config.json", "export.json", "model.bin"),
    *(f"{side}_vocabulary.{ending}" for side in ("shared", "source", "target") for ending in ("json", "txt")),
)
NOTES_OF_PATHS = {"_name_or_path", "name_or_path", "base_model_name_or_path"}
"""What libraries write into configurations: where a model was loaded from."""
REASONS = (
    ("stage.json", "names files and folders of this machine"),
    ("checkpoints/*", "states of training"),
    ("adapter/*", "merged into the weights"),
    ("runs/*", "a log"),
    ("metrics.jsonl", "a log"),
    ("evaluate/*", "holds texts of the test data"),
    ("*.jsonl", "may hold texts"),
    ("*.pt", "a state of training"),
    ("*.bin", "is pickled, or a state of training"),
)
"""Why a file is left out, by the first pattern that fits it."""


@dataclass(frozen=True, kw_only=True)
class PushedFile:
    """A file that is published: its path in the repository, and where it lies; `content` if that had to be changed."""

    path: str
    file: Path
    content: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.stat().st_size if self.content is None else len(self.content)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files that stay here, of one kind: what they are called together, how large they are, and why."""

    path: str
    files: int
    size: int
    reason: str


def find_model(folder: Path) -> Path:
    """Return the folder of the one model in the folder of a run, of one of its seeds, of a checkpoint or an export.

    Raises:
        CheckpointError: there is none.
        RecipeError: there are several.
    """
    for place in (folder, folder / "finetune"):
        if (place / "config.json").is_file():
            return place
    found = sorted(path.parent for path in folder.glob("*/seed-*/finetune/config.json"))
    if not found:
        raise CheckpointError(
            f"{folder}: there is no model in it. Give the folder of a checkpoint, a seed or an export."
        )
    if len(found) > 1:
        names = ", ".join(str(path.parent) for path in found)
        raise RecipeError(f"{folder}: holds {len(found)} models, and one is published. Name it: {names}.")
    return found[0]


def select(model: Path, include: Sequence[str] = ()) -> tuple[list[PushedFile], list[LeftOut]]:
    """Return what is published of a model's folder, and what is not.

    Args:
        include: patterns of more files, below the model's folder or below that of its seed: `metrics.jsonl`,
            `evaluate/*`.

    Raises:
        CheckpointError: weights that are not safetensors, or that are not whole.
        RecipeError: a pattern without a file.
    """
    allowed = _allowed(model)
    root = model.parent if model.parent.name.startswith("seed-") else model
    everything = sorted(path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root)))
    matched: set[str] = set()
    uploads, left = [], []
    for file in everything:
        path = file.relative_to(model if file.is_relative_to(model) else root).as_posix()
        names = {path, file.relative_to(root).as_posix()}
        wanted = {pattern for pattern in include if any(fnmatchcase(name, pattern) for name in names)}
        matched |= wanted
        if wanted or (file.is_relative_to(model) and path in allowed):
            uploads.append(PushedFile(path=path, file=file, content=_without_paths(file)))
        else:
            left.append(file)
    if unmatched := [pattern for pattern in include if pattern not in matched]:
        raise RecipeError(f"polygraft push: --include {unmatched[0]}: no file in {root} has such a name.")
    if twice := {one.path for one in uploads if [other.path for other in uploads].count(one.path) > 1}:
        raise RecipeError(f"polygraft push: --include: two files would be called {min(twice)}. Name fewer of them.")
    return uploads, list(_together(left, model, root))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _allowed(model: Path) -> set[str]:
    """The names of the files that a model is loaded from, and its card."""
    if is_exported(str(model)):
        return {*EXPORTED, *TOKENIZER, CARD_NAME}
    single, index = (model / name for name in WEIGHTS)
    if single.is_file():
        weights = {single.name}
    elif index.is_file():
        weights = {index.name, *json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        if missing := sorted(name for name in weights if not (model / name).is_file()):
            raise CheckpointError(f"{model}: {missing[0]} is missing, which {index.name} names.")
    else:
        pickled = " its weights are pickled (.bin), and" * any((model / name).is_file() for name in PICKLED)
        raise CheckpointError(
            f"{model}:{pickled} only safetensors are published. polygraft and transformers write them when they save."
        )
    adapter = set(ADAPTER) if bottleneck.saved_settings(model / bottleneck.FOLDER) else set()
    return {*CONFIGURATION, *TOKENIZER, *weights, *adapter, CARD_NAME}


def _without_paths(file: Path) -> bytes | None:
    """A configuration without notes of where things lie on this machine; None if there is none in it."""
    if file.name not in (*CONFIGURATION, "tokenizer_config.json", bottleneck.CONFIG):
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    clean = _cleaned(content)
    return None if clean == content else (json.dumps(clean, indent=2, ensure_ascii=False) + "\n").encode()


def _cleaned(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: shareable(value) if key in NOTES_OF_PATHS else _cleaned(value) for key, value in content.items()}


def _together(left: Sequence[Path], model: Path, root: Path) -> Iterator[LeftOut]:
    """An entry for each file beside the weights, and one for each folder."""
    groups: dict[str, list[Path]] = {}
    for file in left:
        place = model if file.is_relative_to(model) else root
        first, *below = file.relative_to(place).parts
        shown = (place.relative_to(root) / first).as_posix()
        groups.setdefault(f"{shown}/" if below else shown, []).append(file)
    for name, files in groups.items():
        path = name.removeprefix(f"{model.relative_to(root).as_posix()}/")
        reason = next((why for pattern, why in REASONS if fnmatchcase(path, pattern)), "no part of the model")
        yield LeftOut(path=name, files=len(files), size=sum(file.stat().st_size for file in files), reason=reason)

"""Test and validation pairs, set apart from one file of pairs: into files beside the recipe, never into the user's.

Rows with the same input, or of one family, stay together. Which part they go to follows from a hash of the input or
family: the same pairs are parted in the same way, in whichever order they come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from polygraft.data.files import write_atomically
from polygraft.data.reading import blank_columns, iter_rows
from polygraft.data.sources import Names, label, sources
from polygraft.errors import DataError
from polygraft.settings import PairData

SHARE = 0.1  # of all pairs, for testing and for validation each
LEAST, MOST = 100, 1000  # test pairs wanted, and enough; validation pairs are at most as many
SMALLEST_SHARE = 0.2  # of few pairs no more than this is taken for either
FEWEST = 20
SPLITS = {
    "test": re.compile(r"(^|[^a-z])test([^a-z]|$)"),
    "validation": re.compile(r"(^|[^a-z])(validation|valid|val|dev)([^a-z]|$)"),
    "train": re.compile(r"(^|[^a-z])train(ing)?([^a-z]|$)"),
}
"""What files of each split are called."""


class Part(NamedTuple):
    """The rows of a split, and how many they are."""

    name: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Named:
    """Files of pairs by the split that their names tell; what tells none is `train`."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def by_name(names: Names) -> Named:
    """Sort files into splits by what they are called: train.jsonl, dev.jsonl, test.jsonl.

    Raises:
        DataError: files that are not there.
    """
    found: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for source in sources(names):
        words = re.split(r"[/\\]", source.name.lower())[-1]
        split = next((split for split, called in SPLITS.items() if called.search(words)), "train")
        found[split].append(source.name)
    if not found["train"]:  # a single file called test.jsonl is what the user has
        return Named(train=tuple(source.name for source in sources(names)), validation=(), test=())
    return Named(**{split: tuple(files) for split, files in found.items()})


def divide(names: Names, columns: Sequence[str], family: str | None, wanted: Sequence[str]) -> list[Part]:
    """Set parts of pairs apart: `wanted` ("test", "validation"), then what is left, "train".

    Pairs that are repeated word for word are kept once.

    Raises:
        DataError: files that cannot be read, or too few different inputs.
    """
    groups: dict[bytes, list[dict[str, Any]]] = {}
    seen: set[tuple[str, ...]] = set()
    extra = [family] if family else []
    for _, row in iter_rows(names, [*columns, *extra]):
        if blank_columns(row, columns):
            continue
        words = tuple(" ".join(row[column].split()) for column in columns)
        if words not in seen:
            seen.add(words)
            groups.setdefault(_key(row, words[0], family), []).append(row)
    total = len(seen)
    if len(groups) < FEWEST:
        kind = f"different values of '{family}'" if family else "different inputs"
        raise DataError(
            f"{label(names)}: {len(groups)} {kind} are too few to set test pairs apart from. "
            f"Have at least {FEWEST}, or name files of their own: --test-file, --validation-file."
        )
    aim = min(MOST, max(round(SHARE * total), min(LEAST, int(SMALLEST_SHARE * total))))
    parts = _parts(groups, dict.fromkeys(wanted, aim))
    if empty := [part.name for part in parts if not part.rows]:
        raise DataError(
            f"{label(names)}: nothing is left for {empty[0]}, since '{family}' has few values. Name another."
        )
    return parts


def _key(row: Mapping[str, Any], text: str, family: str | None) -> bytes:
    return blake2b((row[family].strip() or text if family else text).encode(), digest_size=16).digest()


def _parts(groups: Mapping[bytes, list[dict[str, Any]]], aims: Mapping[str, int]) -> list[Part]:
    """Fill the parts one after the other; a group that is larger than a part should be is trained on."""
    parts = {name: list[dict[str, Any]]() for name in (*aims, "train")}
    for _, rows in sorted(groups.items()):
        open_ = [name for name, aim in aims.items() if len(parts[name]) < aim and len(rows) <= aim]
        parts[open_[0] if open_ else "train"] += rows
    return [Part(name, rows) for name, rows in parts.items()]


def write_parts(parts: Sequence[Part], folder: Path, columns: Sequence[str]) -> dict[str, str]:
    """Write each part as `folder`/NAME.jsonl, the columns called text and summary; return the files by split."""
    folder.mkdir(parents=True, exist_ok=True)
    called = (PairData.model_fields["text_column"].default, PairData.model_fields["summary_column"].default)
    files = {}
    for part in parts:
        path = folder / f"{part.name}.jsonl"
        rows = ({"id": row["id"], **dict(zip(called, (row[c] for c in columns), strict=True))} for row in part.rows)
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        files[part.name] = path.as_posix()
    return files

"""Data sets that the library `datasets` reads: those of the Hugging Face hub, and folders of `save_to_disk`.

Both are Arrow files on disk, mapped into memory: rows come a thousand at a time, however many there are. From the hub
a data set is downloaded once; offline (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE) it is taken from the cache, and nothing
is asked of the network. No code of a data set is ever run: `datasets` can do no such thing since its version 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from polygraft.data.tables import BATCH_ROWS, table_rows, wanted_columns
from polygraft.errors import DataError

PREFIX = "hf://datasets/"
FORM = f"{PREFIX}OWNER/NAME[@REVISION][:CONFIGURATION][:SPLIT]"
_NAME = re.compile(
    r"(?P<path>[^:@/]+(?:/[^:@/]+)?)(?:@(?P<revision>[^:]+))?(?::(?P<config>[^:]+))??(?::(?P<split>[^:]+))?"
)
_ONE, _SEVERAL = "state.json", "dataset_dict.json"  # what save_to_disk leaves in a folder


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / _ONE).is_file() or (folder / _SEVERAL).is_file()


def check_saved(folder: Path, name: str) -> None:
    """Refuse a folder of several splits, naming them."""
    if not (folder / _ONE).is_file():
        splits = [f"{name.rstrip('/')}/{path.parent.name}" for path in sorted(folder.glob(f"*/{_ONE}"))]
        raise DataError(f"{name}: is a data set of several splits. Name one: {', '.join(splits) or 'it has none'}.")


def saved_rows(
    folder: Path, name: str, columns: Sequence[str], whole: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, cells) of a folder of `Dataset.save_to_disk`; `whole` as in `tables.read_parquet`."""
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the library says of a folder that is not whole
        raise DataError(f"{name}: cannot be read by datasets.load_from_disk: {_first_line(error)}") from None
    yield from _rows(data, name, columns, whole)


def hub_rows(name: str, columns: Sequence[str], whole: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, cells) of a hub data set called as in `FORM`; `whole` as in `tables.read_parquet`."""
    yield from _rows(_load(name)[0], name, columns, whole)


def hub_identity(name: str) -> str:
    """Return what is in a hub data set: its name, configuration and split, and the commit that it is of."""
    return _load(name)[1]


def _rows(data: Any, name: str, columns: Sequence[str], whole: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = wanted_columns(data.features.arrow_schema, name, columns, whole)
    first = 1
    for batch in data.select_columns(wanted).with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from table_rows(batch, name, first)
        first += batch.num_rows


@lru_cache(maxsize=16)
def _load(name: str) -> tuple[Any, str]:
    """Load a hub data set; returns it and its identity.

    Raises:
        DataError: a name that is none, or a data set, configuration, split or revision that cannot be had.
    """
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if found is None:
        raise DataError(f"{name}: is not the name of a hub data set. Write {FORM}.")
    path, revision, config, split = found["path"], found["revision"], found["config"], found["split"]
    if Path(path).exists():
        raise DataError(
            f"{name}: `datasets` would read what lies at {path} here. Name that, or start in another folder."
        )
    import datasets

    try:
        builder = datasets.load_dataset_builder(path, config, revision=revision)
        builder.download_and_prepare()
    except Exception as error:  # network, hub, cache and configurations: each fails in its own way
        offline = " (offline: only what is in the cache can be had)" if datasets.config.HF_HUB_OFFLINE else ""
        raise DataError(f"{name}: cannot be loaded{offline}: {_first_line(error)} The form is {FORM}.") from None
    commit = str(builder.hash)
    if revision and datasets.config.HF_HUB_OFFLINE and not commit.startswith(revision):
        reason = f"the cache has commit {commit}, and offline '{revision}' cannot be looked up"
        raise DataError(f"{name}: {reason}. Name the revision by its commit, or go online.")
    splits = sorted(builder.info.splits or {})
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        asked = f"there is no split '{split}'" if split else "which split is not said"
        examples = ", ".join(f"{name.removesuffix(f':{split}')}:{one}" for one in splits)
        raise DataError(f"{name}: {asked}. Write {examples}.")
    identity = f"{PREFIX}{path}@{commit}:{builder.config.name}:{split}"
    return builder.as_dataset(split=split), identity


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    first = " ".join(text.split())[:300]
    return first if first.endswith(".") else f"{first}."

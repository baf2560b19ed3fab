"""Write files and folders so that a reader sees the old content or the new one, never a half; one writer at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from polygraft.errors import DataError, PolygraftError


@contextlib.contextmanager
def appearing_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; when the block ends, the file is on the disk and has its own name.

    A failure leaves nothing behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed run left is overwritten
    try:
        yield temporary
        _sync_one(temporary)  # else a power cut may leave the new name with no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    # What no encoding can hold (a lone surrogate from a JSON escape) must not cost the file.
    content = text.encode(errors="replace")
    with appearing_file(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to write into; when the block ends, what is in it is on the disk and then in `folder`.

    A new `folder` appears whole, by renaming. In one that exists, each file and folder replaces that of its name. If
    the block fails, nothing appears.
    """
    hidden = folder.with_name(f".{folder.name}.new") if not folder.exists() else folder / ".new"
    shutil.rmtree(hidden, ignore_errors=True)  # of a run that was killed
    hidden.mkdir(parents=True)
    try:
        yield hidden
        sync(hidden)
        if folder.exists():
            for entry in sorted(hidden.iterdir()):
                if entry.is_dir():
                    shutil.rmtree(folder / entry.name, ignore_errors=True)
                os.replace(entry, folder / entry.name)
            hidden.rmdir()
            _sync_one(folder)
        else:
            os.replace(hidden, folder)
            _sync_one(folder.parent)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def remove(folder: Path) -> None:
    """Remove a folder, if it is there; one that is killed while doing so leaves nothing under its name."""
    hidden = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        os.rename(folder, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def sync(folder: Path) -> None:
    """Have everything in a folder written to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_one(Path(parent) / name)
        _sync_one(Path(parent))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


lock_patience_seconds = 0.0
"""How long `only_one` waits: in processes of jobs a while, since one of a run that has ended may yet be saving."""


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder, which need not exist yet: no other process can hold it meanwhile, and a dead one holds nothing.

    Raises:
        PolygraftError: another process has it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(place.absolute(), timeout=0, is_singleton=True)  # one object per path: held twice by this process
    try:
        lock.acquire(timeout=lock_patience_seconds)
    except Timeout:
        raise PolygraftError(
            f"{folder}: another run of polygraft is working in it. Wait for its end, or name another output folder."
        ) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            place.unlink(missing_ok=True)
        lock.release()


RESULT_FORMAT = 1
"""Of stage.json, scores.json, verdict.json and diagnose.json: raised when a field is renamed, removed or redefined."""


def assert_known_format(path: Path, content: Mapping[str, Any]) -> None:
    """Raise DataError for a result of a newer polygraft; older ones have no number, or a smaller one."""
    found = content.get("format", 0)
    if not isinstance(found, int) or found > RESULT_FORMAT:
        raise DataError(
            f"{path}: has format {found}, and this polygraft reads up to {RESULT_FORMAT}. A newer polygraft wrote it: "
            "install that, or name another output folder."
        )

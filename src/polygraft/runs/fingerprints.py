"""What tells whether the inputs of a stage are the same: their contents, not their names."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from polygraft.data.hub import PREFIX, hub_identity
from polygraft.data.sources import local_path

# What a checkpoint is loaded from, and what lies beside it and is not read.
LOADED = {".safetensors", ".json", ".model", ".bin", ".pt", ".txt", ".jinja", ".tiktoken"}
BESIDE = {"stage.json", "plan.json", "diagnostics.json", "scores.json", "measured.json", "training_args.bin"}


def fingerprint_of(name: str) -> str:
    """Fingerprint a data file by its content, a checkpoint by all that it is loaded from, a hub's by its commit."""
    from polygraft.inference.engine import is_exported
    from polygraft.models.checkpoints import commit_of, resolve

    if name.startswith("file:"):
        file = name.removeprefix("file:")
        return hub_identity(file) if file.startswith(PREFIX) else _hash_files([local_path(file)])
    folder = Path(name if is_exported(name) else resolve(name))
    if not folder.is_dir():
        return f"{name}@{commit_of(name)}"
    paths = (path for pattern in ("*", "adapter/*") for path in folder.glob(pattern))
    return _hash_files(sorted(path for path in paths if path.suffix in LOADED and path.name not in BESIDE))


def is_of_hub(name: str, mark: str) -> bool:
    """Return whether the fingerprint of an input is of a model on the hub: name and commit, not a hash."""
    return mark.rpartition("@")[0] == name


def _hash_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(path.name.encode())
        digest.update(_hash_file(path, state.st_ino, state.st_size, state.st_mtime_ns))
    return digest.hexdigest()


@functools.cache
def _hash_file(path: Path, *state: int) -> bytes:
    """Hash a file's content, once per run as long as its inode, size and time of change stay what they are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

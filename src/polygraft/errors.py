"""Errors that a user can do something about. Each message names the value, where it came from, and the remedy.

`cli.py` prints the message without a traceback and exits with the class's `exit_code`.
"""

from __future__ import annotations

import re

# What torch, safetensors, C++ and threads say on a CPU, where they raise RuntimeError or OSError.
_NO_MEMORY = re.compile(
    r"not enough memory|[Cc]annot allocate memory|unable to mmap|std::bad_alloc|can't start new thread"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, of whatever library, says that there is no memory left."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (not isinstance(error, PolygraftError) and bool(_NO_MEMORY.search(str(error))))
    )


def is_panic(error: BaseException) -> bool:
    """Return whether it is a panic of Rust, as tokenizers has of damaged files: no Exception, no class to import."""
    return type(error).__name__ == "PanicException"


class PolygraftError(Exception):
    """The base of all errors raised on purpose."""

    exit_code = 1


class RecipeError(PolygraftError):
    """A recipe, a setting or a command line that cannot be carried out as written."""

    exit_code = 2


class DataError(PolygraftError):
    """A file of the user's that is missing, unreadable, empty, or lacks what the recipe says is in it."""

    exit_code = 3


class CheckpointError(PolygraftError):
    """A model folder or name that cannot be loaded, or whose contents are not what the stage needs."""


class TransferError(PolygraftError):
    """A pair of checkpoints between which a method cannot transfer anything."""

"""The processes of one run (`torchrun`, `accelerate launch`): one decides and writes, the others learn of it.

The process of rank 0 is the main one: it alone owns the folders, writes files and prints. What it decides the others
are told; what fails in one fails in all. With a single process all of this is nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from polygraft.errors import PolygraftError

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # the others wait while the main process transfers or evaluates; launchers end dead runs


_alone = False  # whether the main process is at what it does alone: nothing in it waits for the others


def count() -> int:
    """Return how many processes share the run, or what the main one does alone."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Return whether this is the process that decides and writes."""
    return rank() == 0


@functools.cache
def _group() -> Any:
    """The group in which Python objects are exchanged, on the CPU whatever trains."""
    import torch
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # starts the processes' group as Trainer would
    # gloo's threads have to end before the interpreter does: else some exits were SIGABRT, with all work done
    atexit.register(torch.distributed.destroy_process_group)
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def agreed(value: T) -> T:
    """Return the main process's value in all processes."""
    if count() == 1:
        return value
    import torch.distributed

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, group=_group())
    return box[0]


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        import torch.distributed

        torch.distributed.barrier(group=_group())


def by_main(work: Callable[[], T]) -> T:
    """Have the main process alone do `work`; return its result, or raise its error, in all processes."""
    global _alone
    if count() == 1:
        return work()
    value, error = None, None
    if is_main():
        _alone = True
        try:
            value = work()
        except Exception as raised:
            error = raised
        finally:
            _alone = False
    value, told = agreed((value, portable(error)))
    if error is not None:
        raise error
    if told is not None:
        raise _said(told)
    return value  # type: ignore[return-value]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Have all processes go on after the block, or none: what fails in one of them is raised in all."""
    if count() == 1:
        yield
        return
    import torch.distributed

    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    found: list[Exception | None] = [None] * count()
    torch.distributed.all_gather_object(found, portable(error), group=_group())
    first = next((one for one in found if one is not None), None)
    if first is not None:
        raise (error or first) if is_main() else _said(first)


def portable(error: Exception | None) -> Exception | None:
    """The error as it can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return PolygraftError(f"{type(error).__name__}: {error}")
    return error


def _said(error: Exception) -> Exception:
    """Mark an error that the main process prints, so that this one need not."""
    error.said_by_main = True  # type: ignore[attr-defined]
    return error

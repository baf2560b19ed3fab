"""What is sent to the process of a job, what it does, and what it answers. Imports nothing that takes long."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraft import machine, processes, progress
from polygraft.data import files

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_FOR_PREDECESSORS = 60.0
# Of every process of jobs: without transformers' bars; numpy's products by one thread, PyTorch's threads by the job.
ENVIRONMENT = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What of a machine a job takes while it runs."""

    threads: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is to be done, what it gets, and the file that takes what is said meanwhile."""

    function: Callable[[], Any]
    portion: Portion
    log: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a call came to: a value, or an error."""

    value: Any = None
    error: Exception | None = None


def answer(call: Call, report: Callable[[float], None]) -> Ended:
    """Do what a call says; `report` hears at times which share of it is done."""
    import torch

    torch.set_num_threads(call.portion.threads)
    machine.forget_peak()  # of the job before
    last = time.monotonic()

    def listen(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            report(share)

    progress.listener, files.lock_patience_seconds = listen, SECONDS_FOR_PREDECESSORS
    with _said_into(call.log):
        try:
            return Ended(value=call.function())
        except Exception as error:
            traceback.print_exc()
            return Ended(error=processes.portable(error))
        finally:
            progress.listener = None
            gc.collect()
            machine.return_freed_memory()  # which the next job beside this process may need


@contextlib.contextmanager
def _said_into(log: Path) -> Iterator[None]:
    """Append to `log` what this process says in the block, libraries included."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(number) for number in (1, 2)]
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)

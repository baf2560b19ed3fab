"""Processes of this machine that jobs run in, seen from the one that gives them out.

A worker (worker.py) imports what stages need once, and runs one call after another. Its standard input is a pipe that
closes when this process ends, however it ends; then the worker ends as at SIGTERM, with what it had saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Hashable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from types import TracebackType

from polygraft.errors import PolygraftError
from polygraft.jobs.calls import ENVIRONMENT, Call, Ended

SECONDS_BETWEEN_LOOKS = 1.0
DEVICES = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A process that runs calls."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment, path = environment, {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.connection, there = Pipe()
        self.process = subprocess.Popen(  # -P: what this process imports, not what lies in the current folder
            [sys.executable, "-P", "-m", "polygraft.jobs.worker", str(there.fileno())],
            pass_fds=[there.fileno()], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env=ENVIRONMENT | os.environ | path | dict(environment),
        )  # fmt: skip
        there.close()
        self.busy = False

    def send(self, call: Call) -> None:
        """Give it something to do; a dead one answers with its death."""
        self.busy = True
        with contextlib.suppress(ConnectionError):
            self.connection.send(call)

    def hear(self) -> float | Ended:
        """Return what it says: the share of its call that is done, or what the call came to."""
        try:
            said = self.connection.recv()
        except (EOFError, ConnectionError):
            code = self.process.wait()
            if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # so is this process, which hears of it in a moment
                interrupted = KeyboardInterrupt()
                interrupted.exit_code = code  # type: ignore[attr-defined]
                raise interrupted from None
            said = Ended(error=PolygraftError(f"its process {_death(code)}. Run again to go on."))
        self.busy = not isinstance(said, Ended)
        return said


def _death(code: int) -> str:
    if code >= 0:
        return f"ended by itself, with exit code {code}"
    memory = ", as where memory is short" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{memory}"


class Workers:
    """A number of workers, who take turns on the devices where there are any; use as a context manager."""

    def __init__(self, count: int, devices: Sequence[str]) -> None:
        self.workers = [Worker({DEVICES: devices[n % len(devices)]} if devices else {}) for n in range(count)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """End all as at SIGTERM: trainings save where they are. What interrupts the waiting ends them at once."""
        for worker in self.workers:
            worker.process.terminate()
        try:
            for worker in self.workers:
                worker.process.wait()
        except BaseException:
            for worker in self.workers:
                worker.process.kill()
            raise

    def call(self, call: Call) -> Worker:
        """Have an idle worker do something; one that has died is replaced."""
        place, worker = next((place, one) for place, one in enumerate(self.workers) if not one.busy)
        if worker.process.poll() is not None:
            self.workers[place] = worker = Worker(worker.environment)
        worker.send(call)
        return worker

    def hear(self) -> list[tuple[Hashable, float | Ended]]:
        """Wait a moment for what busy workers say."""
        busy = {worker.connection: worker for worker in self.workers if worker.busy}
        return [(busy[heard], busy[heard].hear()) for heard in wait(list(busy), SECONDS_BETWEEN_LOOKS)]  # type: ignore[index]

"""A process that runs the calls it is sent: `python -m polygraft.jobs.worker DESCRIPTOR` (workers.py starts it)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from polygraft import processes, progress
from polygraft.jobs.workers import Call, Ended
from polygraft.training import stopping

SECONDS_BETWEEN_REPORTS = 0.5


def main(connection: Connection) -> None:
    """Run calls until there are none, or this process is told to end, or the one that started it is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal's Ctrl-C reaches all; the dispatcher's process passes it on
    signal.signal(signal.SIGTERM, stopping.raise_stopped)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import polygraft.runs.arms  # noqa: F401  (what takes long to import, before there is work)

        while True:
            connection.send(_do(connection.recv(), connection))
    except (EOFError, ConnectionError):
        return
    except stopping.Stopped as stopped:
        sys.exit(stopped.exit_code)


def _end_with_parent() -> None:
    """End as at SIGTERM when standard input closes: its other end is the parent's."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _do(call: Call, connection: Connection) -> Ended:
    import torch

    torch.set_num_threads(call.threads)
    last = time.monotonic()

    def report(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            connection.send(share)

    progress.listener = report
    with _said_into(call.log):
        try:
            return Ended(value=call.function())
        except Exception as error:
            traceback.print_exc()
            return Ended(error=processes.portable(error))


@contextlib.contextmanager
def _said_into(log: Path) -> Iterator[None]:
    """Append to `log` what this process says, libraries included."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))

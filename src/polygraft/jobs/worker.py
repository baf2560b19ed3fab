"""A process that runs the calls it is sent: `python -m polygraft.jobs.worker DESCRIPTOR` (workers.py starts it)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

from polygraft.jobs.calls import answer
from polygraft.training import stopping


def main(connection: Connection) -> None:
    """Run calls until there are none, or this process is told to end, or the one that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all, and the parent passes it on
    signal.signal(signal.SIGTERM, stopping.raise_stopped)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import polygraft.runs.arms  # noqa: F401  (what takes long to import, before there is work)

        while True:
            connection.send(answer(connection.recv(), connection.send))
    except (EOFError, ConnectionError):
        return
    except stopping.Stopped as stopped:
        sys.exit(stopped.exit_code)


def _end_with_parent() -> None:
    """End as at SIGTERM when standard input closes: its other end is the parent's."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))

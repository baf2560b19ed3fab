"""Progress of long work: a bar on a terminal, plain lines elsewhere; both with the time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from polygraft import processes

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the share that is done; use as a context manager around the work."""

    def __init__(self, title: str) -> None:
        self.title, self.started, self.last_line = title, time.monotonic(), time.monotonic()
        self.first_share: float | None = None
        self.note = ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
        )
        console = Console(stderr=True, quiet=not processes.is_main())
        self.bar = Bar(*columns, TimeRemainingColumn(), console=console) if console.is_terminal else None

    def __enter__(self) -> Progress:
        self.started = self.last_line = time.monotonic()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=1.0, note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, share: float, tokens: int | None = None) -> None:
        """Show that `share` (0 to 1) of the work is done, and how many tokens were read."""
        now = time.monotonic()
        if self.first_share is None:  # a resumed run starts in the middle: what was done before took no time now
            self.first_share = share
        if tokens is not None:
            self.note = f"{tokens:,} tokens"
        if self.bar:
            self.bar.update(self.task, completed=share, note=self.note)
        elif processes.is_main() and (share >= 1.0 or now - self.last_line >= SECONDS_BETWEEN_LINES):
            self.last_line = now
            done = share - self.first_share
            left = f", {clock((1 - share) * (now - self.started) / done)} left" if done > 0 and share < 1 else ""
            note = f", {self.note}" if self.note else ""
            print(
                f"{self.title}: {share:.0%}{note}, {clock(now - self.started)} passed{left}",
                file=sys.stderr,
                flush=True,
            )


def clock(seconds: float) -> str:
    """Format a duration: 0:07, 12:30, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

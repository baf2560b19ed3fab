"""Progress of long work: a bar on a terminal, plain lines elsewhere; both with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from polygraft import processes

SECONDS_BETWEEN_LINES = 10.0
listener: Callable[[float], None] | None = None
"""Who is told the share that is done, besides the user: in a process of several jobs the one who shows them all."""


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

    def __enter__(self) -> Self:
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
        if listener:
            listener(share)
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


class Overview(Progress):
    """Progress of a whole whose parts are worked on side by side: on a terminal each has a bar of its own."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.bars: dict[str, TaskID] = {}

    def show(self, share: float, parts: Mapping[str, float]) -> None:
        """Show the share of the whole that is done, and that of each part that is worked on."""
        if self.bar is None:
            self.note = ", ".join(f"{name} {done:.0%}" for name, done in parts.items())
        else:
            for name in self.bars.keys() - parts.keys():
                self.bar.remove_task(self.bars.pop(name))
            for name, done in parts.items():
                if name not in self.bars:
                    self.bars[name] = self.bar.add_task(f"  {name}", total=1.0, note="")
                self.bar.update(self.bars[name], completed=done)
        self.update(share)


def clock(seconds: float) -> str:
    """Format a duration: 0:07, 12:30, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

"""Being told to stop: Ctrl-C and SIGTERM end the work at the next place from which it can go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from polygraft import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The user, or a scheduler, asked the run to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.exit_code = 128 + number  # 130 for Ctrl-C, 143 for SIGTERM, as shells have it
        super().__init__(signal.Signals(number).name)


class Request:
    """Whether a signal asked to stop, and which."""

    signal: int = 0

    def heed(self) -> None:
        """Raise Stopped if it did."""
        if self.signal:
            raise Stopped(self.signal)


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """End at once: the handler where nothing has to be saved."""
    raise Stopped(number)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Remember, in the block, a signal that asks to stop, for the block to heed; a second Ctrl-C stops at once.

    In a thread that is not the main one signals cannot be caught; then nothing is changed.
    """
    request = Request()

    def remember(number: int, frame: FrameType | None) -> None:
        if request.signal and number == signal.SIGINT and processes.count() == 1:
            raise Stopped(number)
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[signal.Signals, Any] = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

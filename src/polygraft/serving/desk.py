"""A model at work: one thread, which decodes together what waits alike, while the event loop goes on answering."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polygraft.data.dataset import tokenize
from polygraft.errors import PolygraftError
from polygraft.serving.limits import Refusal
from polygraft.serving.shelf import ServedModel
from polygraft.settings import Generate

logger = logging.getLogger(__name__)


class Made(NamedTuple):
    """What became of a text: its outputs, the best first, the tokens of text and outputs, and whether it was cut."""

    outputs: list[str]
    output_tokens: list[int]
    source_tokens: int
    cut: bool


@dataclass(eq=False)
class Waiting:
    """Texts that wait for the model; `answer` gets what becomes of them, and the seconds that it took."""

    texts: Sequence[str]
    source: str
    target: str
    settings: Generate
    answer: asyncio.Future[tuple[list[Made], float]]
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What those have in common that are decoded together."""
        return self.target, self.settings


class Desk:
    """One model, its thread, and what waits for it."""

    def __init__(self, model: ServedModel, batch: int) -> None:
        self.model, self.batch = model, batch
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="decoding")
        self.waiting: deque[Waiting] = deque()
        self.filled = asyncio.Event()

    async def ask(
        self, texts: Sequence[str], languages: tuple[str, str], settings: Generate, patience: float | None = None
    ) -> tuple[list[Made], float]:
        """Return what becomes of texts, and the seconds of decoding; `languages` are the codes of text and output.

        Raises:
            Refusal: the model did not begin with it within `patience` seconds, or failed.
        """
        one = Waiting(texts, *languages, settings, asyncio.get_running_loop().create_future())
        self.waiting.append(one)
        self.filled.set()
        try:
            async with asyncio.timeout(patience):
                await one.begun.wait()
            return await one.answer
        except TimeoutError:
            raise Refusal(503, f"the model was busy for {patience:.0f} s. Try again later.") from None
        finally:
            with contextlib.suppress(ValueError):  # it is no longer waited for
                self.waiting.remove(one)

    async def work(self) -> None:
        """Decode what comes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self.filled.wait()
            if not (batch := self._next()):
                self.filled.clear()
                continue
            await loop.run_in_executor(self.thread, self._decode, batch, loop)

    def close(self) -> None:
        """Let the thread end with what it is at."""
        self.thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> list[Waiting]:
        """The first that waits, and those like it, as many as there is room for in a batch."""
        if not self.waiting:
            return []
        first, room = self.waiting.popleft(), self.batch
        chosen, room = [first], room - len(first.texts)
        for one in [one for one in self.waiting if one.kind == first.kind]:
            if len(one.texts) <= room:
                self.waiting.remove(one)
                chosen, room = [*chosen, one], room - len(one.texts)
        for one in chosen:
            one.begun.set()
        return chosen

    def _decode(self, batch: list[Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Decode in the model's thread; where several fail together, each is tried alone, so that one cannot harm."""
        began = time.monotonic()
        try:
            made = self._made(batch)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._decode([one], loop)
                return
            loop.call_soon_threadsafe(_refuse, batch[0], _said_of(error))
            return
        for one in batch:
            mine, made = made[: len(one.texts)], made[len(one.texts) :]
            loop.call_soon_threadsafe(_answer, one, (mine, time.monotonic() - began))

    def _made(self, batch: list[Waiting]) -> list[Made]:
        settings, engine = batch[0].settings, self.model.engine
        texts = [text for one in batch for text in one.texts]
        sources = [one.source for one in batch for _ in one.texts]
        outputs = engine.decode(texts, sources, [batch[0].target] * len(texts), settings)
        longest = engine.longest(settings)
        lengths = [len(ids) + 2 for ids in tokenize(engine.tokenizer, texts)]  # with </s> and the language
        return [
            Made(some, [len(ids) for ids in tokenize(engine.tokenizer, some)], length, length > longest)
            for some, length in zip(outputs, lengths, strict=True)
        ]


def _said_of(error: Exception) -> Refusal:
    """What a client is told: of an error on purpose its words, of another nothing but that there was one."""
    if isinstance(error, PolygraftError):
        return Refusal(422, str(error))
    logger.error("decoding failed", exc_info=error)
    return Refusal(500, "the model failed on this text; the server's log has more.")


def _answer(one: Waiting, found: tuple[list[Made], float]) -> None:
    if not one.answer.done():  # else nobody waits for it any more
        one.answer.set_result(found)


def _refuse(one: Waiting, refusal: Refusal) -> None:
    if not one.answer.done():
        one.answer.set_exception(refusal)

"""What the user is told of the data while they are used, each sentence once per process: on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any

from polygraft.errors import DataError

MOSTLY = 0.5
SAMPLE_TEXTS = 1000
_BATCH = 100


@cache
def say(sentence: str) -> None:
    """Print a sentence, the first time that it is said; of several processes only the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(sentence, file=sys.stderr, flush=True)


class Unwritable:
    """Counts texts that are mostly ``<unk>`` to a tokenizer: more than half of their characters, white space aside."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.unknown = tokenizer, tokenizer.unk_token_id
        self.texts = self.lost = 0

    def add(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        """Take texts in, and the ids that they were tokenized to."""
        self.texts += len(texts)
        if self.unknown is None:
            return
        # Unknown characters in a row are one <unk>, so that only offsets tell how many there were.
        doubtful = [text for text, row in zip(texts, ids, strict=True) if self.unknown in row]
        for start in range(0, len(doubtful), _BATCH):
            self.lost += sum(map(self._mostly_lost, *self._spans(doubtful[start : start + _BATCH])))

    def _spans(self, texts: Sequence[str]) -> tuple[Sequence[str], list[list[tuple[int, int]]]]:
        """The places in each text that became <unk>."""
        found = self.tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
            verbose=False,
        )  # fmt: skip
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return texts, [[span for i, span in zip(*pair, strict=True) if i == self.unknown] for pair in pairs]

    @staticmethod
    def _mostly_lost(text: str, spans: Sequence[tuple[int, int]]) -> bool:
        lost = sum(len("".join(text[start:end].split())) for start, end in spans)
        return lost > MOSTLY * len("".join(text.split()))

    def warning(self, name: str, column: str, model: str = "the model") -> str | None:
        """Return a sentence on how many texts there were, None for none.

        Raises:
            DataError: all of them.
        """
        if not self.lost:
            return None
        where = f"{name}: '{column}' is mostly <unk> in {self.lost} of {self.texts} rows"
        what = f"{where}: the tokenizer of {model} does not know its characters"
        remedy = "`polygraft rank` finds a model that does."
        if self.lost == self.texts:
            raise DataError(f"{what}, and nothing is left to read. {remedy}")
        return f"{what}. They are used as they are. {remedy}"

    def report(self, name: str, column: str) -> None:
        """Say the warning, if there is one; raises as `warning` does."""
        if sentence := self.warning(name, column):
            say(sentence)


def count_unwritable(tokenizer: Any, texts: Iterable[str], name: str, column: str) -> None:
    """Tokenize the first thousand texts and say what `Unwritable` finds in them."""
    sample = list(islice((text for text in texts if text.strip()), SAMPLE_TEXTS))
    if sample:
        counter = Unwritable(tokenizer)
        counter.add(sample, tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"])
        counter.report(name, column)

"""Where source and target read the same token of the same text, and batches of such texts for both.

The source reads ``<s> X </s>``; mBART-50 ``[lang] X </s>``, mBART-cc25 ``X </s> [lang]``, one position earlier. What is
compared are token strings, so that a document which the two tokenizers split differently in one place still counts
everywhere else. Special tokens are left out: ``<s>`` and a language code have no common meaning, and ``<unk>`` hides
what it stands for.

B documents, S source positions, T target positions, N aligned tokens.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygraft.data.dataset import tokenize
from polygraft.data.languages import to_code
from polygraft.data.layout import Layout, pad_rows

PER_PASS = 2048  # texts kept of one pass over a file, where not all are wanted
CHUNK = 256  # documents tokenized at a time: a text may hold far more tokens than are wanted


@dataclass(frozen=True, eq=False, kw_only=True)
class Aligned:
    """A document, or a piece of one, as both models read it: ids with special tokens, and where both have one token.

    `number` is the document's place in the shuffled order; `source_places` and `target_places` are int64 [N] positions
    in the two lists of ids, ascending.
    """

    number: int
    source: list[int]
    target: list[int]
    source_places: np.ndarray
    target_places: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Padded documents: ids and masks int64 [B, S] and [B, T]; places int64 [N] in the flattened ids."""

    source_ids: Tensor
    source_mask: Tensor
    target_ids: Tensor
    target_mask: Tensor
    source_places: Tensor
    target_places: Tensor


def align(
    source: Any,
    target: Any,
    texts: Collection[str],
    languages: Collection[str | None],
    max_length: int,
    tokens: int | None,
    *,
    seed: int = 0,
    grafted: bool = False,
) -> list[Aligned]:
    """Align documents, in an order shuffled with `seed`, until they have `tokens` aligned tokens (None: all documents).

    Args:
        source, target: the tokenizers.
        languages: of each text, as the user writes them.
        max_length: longer documents are cut into pieces, special tokens included.
        grafted: the source reads as before the target's decoder: in the target's layout, with its ``<s>`` for the
            language code. The special tokens then correspond, and count.

    Raises:
        DataError: a language that the target does not have.
    """
    ids_of = {name: target.convert_tokens_to_ids(to_code(name, target)) for name in set(languages)}
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    shuffled = _shuffled(texts, languages, order, in_order=tokens is not None)
    documents: list[Aligned] = []
    found, room = 0, max_length - 2
    while chunk := list(islice(shuffled, CHUNK)):
        both = [tokenize(side, [text for _, text, _ in chunk]) for side in (source, target)]
        for (number, _, language), ids, target_ids in zip(chunk, *both, strict=True):
            for place in range(0, len(ids), room):
                pieces = ids[place : place + room], target_ids[place : place + room]
                document = _align(number, source, target, *pieces, ids_of[language], grafted)
                if len(document.source_places):
                    documents.append(document)
                    found += len(document.source_places)
                if tokens is not None and found >= tokens:
                    return documents
    return sorted(documents, key=lambda document: document.number)


def _shuffled(
    texts: Collection[str], languages: Collection[str | None], order: Sequence[int], in_order: bool
) -> Iterator[tuple[int, str, str | None]]:
    """Yield (place in `order`, text, language) of all texts: in one pass as they are read, or in that order.

    The latter takes a pass for every 2,048 texts, which are held in memory; usually few of all are asked for.
    """
    step = PER_PASS if in_order else len(order) or 1
    for start in range(0, len(order), step):
        place_of = {i: place for place, i in enumerate(order[start : start + step], start)}
        wanted = (
            (place_of[i], text, language)
            for i, (text, language) in enumerate(zip(texts, languages, strict=True))
            if i in place_of
        )
        yield from sorted(wanted) if in_order else wanted


def _align(
    number: int, source: Any, target: Any, ids: list[int], target_ids: list[int], code: int, grafted: bool
) -> Aligned:
    """Match the tokens of a piece, and add the special ones of both sides."""
    layout = Layout.of(target)
    places = _common_places(_ordinary(source, ids), _ordinary(target, target_ids))
    read = layout.wrap(target_ids, code)
    target_places = places[:, 1] + int(layout.language_first)
    if grafted:
        source_read = layout.wrap(ids, source.cls_token_id)
        source_places = places[:, 0] + int(layout.language_first)
        special = [[0 if layout.language_first else len(one) - 2, len(one) - 1] for one in (source_read, read)]
        source_places, target_places = (
            np.sort(np.concatenate([mine, more]))
            for mine, more in zip((source_places, target_places), special, strict=True)
        )
    else:
        source_read, source_places = [source.cls_token_id, *ids, source.sep_token_id], places[:, 0] + 1
    return Aligned(
        number=number, source=source_read, target=read, source_places=source_places, target_places=target_places
    )


def _ordinary(tokenizer: Any, ids: list[int]) -> list[str | None]:
    """Return token strings, None for special tokens."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [None if i in special else token for i, token in zip(ids, tokens, strict=True)]


def _common_places(source: Sequence[str | None], target: Sequence[str | None]) -> np.ndarray:
    """Return int64 [N, 2], ascending: places of the same token in both; None stands for a token without a meaning."""
    blocks = [(0, 0, len(source))]
    if source != target:  # rare: a longest common subsequence, greedy by blocks
        blocks = list(SequenceMatcher(None, source, target, autojunk=False).get_matching_blocks())
    pairs = [(i + k, j + k) for i, j, length in blocks for k in range(length) if source[i + k] is not None]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def batches(documents: Sequence[Aligned], source_pad: int, target_pad: int, max_tokens: int) -> Iterator[Batch]:
    """Yield batches of like length, longest first, of at most `max_tokens` source positions (or one document)."""
    order = sorted(documents, key=lambda document: -len(document.source))
    while order:
        count = max(1, max_tokens // len(order[0].source))
        yield make_batch(order[:count], source_pad, target_pad)
        order = order[count:]


def make_batch(documents: Sequence[Aligned], source_pad: int, target_pad: int) -> Batch:
    """Pad documents on the right; places are in their order."""
    source_ids = pad_rows([document.source for document in documents], source_pad)
    target_ids = pad_rows([document.target for document in documents], target_pad)
    source_width, target_width = source_ids.shape[1], target_ids.shape[1]
    source_places = [row * source_width + document.source_places for row, document in enumerate(documents)]
    target_places = [row * target_width + document.target_places for row, document in enumerate(documents)]
    return Batch(
        source_ids=source_ids,
        source_mask=(source_ids != source_pad).long(),
        target_ids=target_ids,
        target_mask=(target_ids != target_pad).long(),
        source_places=torch.from_numpy(np.concatenate(source_places)),
        target_places=torch.from_numpy(np.concatenate(target_places)),
    )

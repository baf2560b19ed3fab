"""Outputs beside each other: which words the reference has, and which the other arm's output has not."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from polygraft.scoring.tokens import cut


class _Piece(NamedTuple):
    """Text that is marked alike: of words that the reference has in this order, and that only this output has."""

    text: str
    expected: bool
    alone: bool


def marked(text: str, reference: str, other: str | None = None) -> Markup:
    """`text` as HTML: in <b> what `reference` has in the same order, whatever its case; in <mark> what `other` has not.

    Only words are compared. What stands between two words that are marked is marked like them.
    """
    pieces = cut(text)
    words = [piece for piece, is_word in pieces if is_word]
    expected = _common([word.casefold() for word in words], [word.casefold() for word in _words(reference)])
    shared = set(range(len(words))) if other is None else _common(words, _words(other))
    flags = [(place in expected, place not in shared) for place in range(len(words))]
    return _html(_between(pieces, flags))


def _words(text: str) -> list[str]:
    return [piece for piece, is_word in cut(text) if is_word]


def _common(mine: Sequence[str], others: Sequence[str]) -> set[int]:
    """The places in `mine` of what both have in the same order."""
    blocks = SequenceMatcher(None, mine, others, autojunk=False).get_matching_blocks()
    return {place for block in blocks for place in range(block.a, block.a + block.size)}


def _between(pieces: Sequence[tuple[str, bool]], flags: Sequence[tuple[bool, bool]]) -> list[_Piece]:
    found: list[_Piece] = []
    place = 0
    for text, is_word in pieces:
        before = flags[place - 1] if place else (False, False)
        after = flags[place] if place < len(flags) else (False, False)
        expected, alone = after if is_word else (before[0] and after[0], before[1] and after[1])
        found.append(_Piece(text, expected, alone))
        place += is_word
    return found


def _html(pieces: Sequence[_Piece]) -> Markup:
    parts: list[Markup] = []
    for alone, run in groupby(pieces, key=lambda piece: piece.alone):
        inner = Markup("").join(
            Markup("<b>{}</b>" if expected else "{}").format("".join(piece.text for piece in same))
            for expected, same in groupby(run, key=lambda piece: piece.expected)
        )
        parts.append(Markup("<mark>{}</mark>").format(inner) if alone else inner)
    return Markup("").join(parts)

"""Documents as a model reads them: pieces of tokens that know which characters, and which word, each token stands for.

Characters and words are the text's own, so that figures of models with different tokenizers are about the same things.

T tokens, C characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polygraft.errors import CheckpointError
from polygraft.scoring.tokens import is_unspaced

WORD_CHARACTERS = 16  # longer words (addresses, compounds) count as several
UNSPACED_CHARACTERS = 4  # so do scripts without spaces between words


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive tokens of one document, without special tokens; all arrays [T].

    Attributes:
        document: its number among the texts.
        ids: int64.
        characters: int64, how many characters each stands for, a space before it included; over all pieces of a
            document they add up to its length.
        words: int64, ascending: the number of the word that each belongs to.
        spelling: float64, bits to add to the token's own: 0, or for <unk> what it would take to spell it out.
    """

    document: int
    ids: np.ndarray
    characters: np.ndarray
    words: np.ndarray
    spelling: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def cut(tokenizer: Any, texts: Sequence[str], max_tokens: int, spell_unknown: bool = False) -> list[Piece]:
    """Tokenize `texts` and cut them into pieces of equal length, at most `max_tokens`.

    A tokenizer that says <unk> has told nothing about the characters behind it. With `spell_unknown` each of them is
    charged log2 of the number of different characters in `texts`, the cost of naming one: else, beside another
    tokenizer, little knowledge would look like a good guess.

    Raises:
        CheckpointError: the tokenizer does not know which characters its tokens stand for.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"a {type(tokenizer).__name__} does not tell which characters its tokens stand for, so that nothing can be "
            "measured per character. Save the checkpoint with a tokenizer.json."
        )
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    unknown = tokenizer.unk_token_id
    spelling_bits = math.log2(max(2, len(set().union(*texts)))) if spell_unknown else 0.0
    pieces = []
    for document, (text, ids, offsets) in enumerate(
        zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ):
        if not ids:
            continue
        ids_T = np.asarray(ids, dtype=np.int64)
        # What a tokenizer drops between two tokens belongs to the second; what it drops at the end, to the last.
        ends_T = np.maximum.accumulate(np.asarray(offsets, dtype=np.int64)[:, 1])
        words_T = np.maximum.accumulate(word_numbers(text)[np.maximum(ends_T - 1, 0)])
        ends_T[-1] = len(text)
        characters_T = np.diff(ends_T, prepend=0)
        spelling_T = np.where(ids_T == unknown, characters_T * spelling_bits, 0.0)
        for part in np.array_split(np.arange(len(ids_T)), -(-len(ids_T) // max_tokens)):
            piece = Piece(
                document=document,
                ids=ids_T[part],
                characters=characters_T[part],
                words=words_T[part],
                spelling=spelling_T[part],
            )
            pieces.append(piece)
    return pieces


def word_numbers(text: str) -> np.ndarray:
    """Return the number of the word that each character belongs to, int64 [C]; spaces belong to the word after them.

    Words end at white space, and after 16 characters, or 4 in scripts without spaces (Han, kana, Thai, …).
    """
    numbers = np.zeros(len(text), dtype=np.int64)
    word = size = 0
    for place, character in enumerate(text):
        limit = UNSPACED_CHARACTERS if is_unspaced(character) else WORD_CHARACTERS
        if (character.isspace() and size) or size >= limit:
            word, size = word + 1, 0
        numbers[place] = word
        size += not character.isspace()
    return numbers

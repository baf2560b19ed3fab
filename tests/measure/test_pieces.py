"""Tokens, the characters they stand for, and the words they belong to."""

import math

import numpy as np
import pytest

from polygraft.errors import CheckpointError
from polygraft.measure.pieces import cut, word_numbers

WORDS = {
    "words and the spaces before them": ("ab cd, e", "00111122"),
    "a space in front": (" ab", "000"),
    "every 16 characters of a long word": ("a" * 16 + "b" * 3 + " c", "0" * 16 + "111" + "22"),
    "every 4 in a script without spaces": ("日本語版が 開発", "00001222"),
    "both in one word": ("C言語入門ab", "0000111"),
}


@pytest.mark.parametrize(("text", "numbers"), WORDS.values(), ids=WORDS)
def test_words(text, numbers):
    assert "".join(map(str, word_numbers(text))) == numbers


@pytest.mark.parametrize("max_tokens", [5, 64])
def test_every_character_belongs_to_one_token(xlmr_tokenizer, sentences, max_tokens):
    pieces = cut(xlmr_tokenizer, sentences, max_tokens)
    for document, text in enumerate(sentences):
        mine = [piece for piece in pieces if piece.document == document]
        assert max(map(len, mine)) <= max_tokens
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
        assert (
            np.concatenate([piece.ids for piece in mine]).tolist()
            == xlmr_tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        assert sum(piece.characters.sum() for piece in mine) == len(text)


def test_a_token_belongs_to_its_own_word(xlmr_tokenizer):
    (piece,) = cut(xlmr_tokenizer, ["The library reads files."], 64)
    ends, words = np.cumsum(piece.characters), ["The", "library", "reads", "files."]
    tokens = xlmr_tokenizer.convert_ids_to_tokens(piece.ids.tolist())
    for number, word in enumerate(words):
        assert "".join(t for t, w in zip(tokens, piece.words, strict=True) if w == number).strip("▁") == word
    assert ends[-1] == 24


def test_unknown_tokens_are_spelled_out_on_demand(xlmr_tokenizer):
    texts = ["The files ☃☄", "It"]
    assert not any(piece.spelling.any() for piece in cut(xlmr_tokenizer, texts, 64))
    piece, other = cut(xlmr_tokenizer, texts, 64, spell_unknown=True)
    unknown = piece.ids == xlmr_tokenizer.unk_token_id
    assert unknown.any()
    assert (piece.spelling[unknown] == piece.characters[unknown] * math.log2(len(set("".join(texts))))).all()
    assert not piece.spelling[~unknown].any()
    assert not other.spelling.any()


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(CheckpointError, match="Slow does not tell which characters"):
        cut(Slow(), ["a"], 8)

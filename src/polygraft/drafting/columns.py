"""Which columns hold the texts: by their names first, then by what is in them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from polygraft.data.languages import LANGUAGE_CODE, meaning_of
from polygraft.data.reading import iter_rows
from polygraft.data.sources import Names, label, sources
from polygraft.errors import DataError

LOOKED_AT = 200  # rows of each file
NAMELESS = ("lines", ".json")  # lines have no names; and without one, a table under a key would pass for a row
TEXTS = (
    "text", "document", "article", "source", "src", "source_text", "input", "input_text", "body", "content", "dialogue",
    "original", "description",
)  # fmt: skip
"""Names of columns of inputs, the likelier first."""
SUMMARIES = (
    "summary", "highlights", "abstract", "target", "tgt", "target_text", "output", "translation", "synopsis", "tldr",
    "headline", "title", "reference",
)  # fmt: skip
"""Names of columns of outputs, the likelier first."""
FAMILIES = ("family", "family_id", "group", "group_id", "cluster", "cluster_id")
NO_LANGUAGE = {"id", "no", "to"}  # what these columns hold, though Indonesian, Norwegian and Tongan have such codes
OTHER_SEPARATORS = {";", "\t", "|"}  # in a header: of a file that is called .csv
SPACED = 0.5  # share of a column's cells that have several words, or letters of a script without spaces
UNSPACED = 0x0E00  # from Thai on


@dataclass(frozen=True)
class SeenColumn:
    """A column's name, as recipes have it (nested ones with dots), and the first of its cells that are not blank."""

    name: str
    cells: list[str]

    @property
    def median(self) -> float:
        """Characters of the median cell."""
        return statistics.median(map(len, self.cells)) if self.cells else 0.0

    @property
    def last(self) -> str:
        """The innermost part of a nested name, in small letters."""
        return self.name.rpartition(".")[2].lower()

    @property
    def is_text(self) -> bool:
        """Whether most cells are more than one word, and they are not all the same few."""
        worded = sum(len(cell.split()) > 1 or any(ord(c) >= UNSPACED for c in cell) for cell in self.cells)
        return worded > SPACED * len(self.cells) and len(set(self.cells)) > len(self.cells) / 4

    @property
    def language(self) -> str | None:
        """The language that its name is the code of, if it is one."""
        is_code = len(self.last) == 2 or LANGUAGE_CODE.match(self.name.rpartition(".")[2])
        return self.last if is_code and self.last not in NO_LANGUAGE and meaning_of(self.last) else None


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """The columns of pairs, why they were taken, and their languages where the columns are called after these."""

    text: str
    summary: str
    why: str
    languages: tuple[str | None, str | None] = (None, None)
    family: str | None = None


def look(names: Names) -> list[SeenColumn]:
    """Return the columns of text that files have, in their order, with their first rows' cells.

    Raises:
        DataError: files that cannot be read, or that hold no text.
    """
    cells: dict[str, list[str]] = {}
    for source in sources(names):
        asked = source.parts or (("text",) if source.kind in NAMELESS else ())
        for _, _, row in islice(source.rows(asked, whole=True), LOOKED_AT):
            for name, value in _leaves(row):
                cells.setdefault(name, []).append(value)
    found = [SeenColumn(name, values) for name, values in cells.items() if values]
    if not found:
        raise DataError(f"{label(names)}: holds no text. Name a file that does.")
    return found


def _leaves(row: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """The cells of a row that hold text, nested ones by their dotted names."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        elif isinstance(value, str) and value.strip():
            yield f"{above}{key}", value


def text_column(names: Names, wished: str | None = None) -> str:
    """Return the column of plain text: the one wished for, one with such a name, else the longest.

    Raises:
        DataError: files that hold no text.
    """
    columns = look(names)
    if wished and any(column.name == wished for column in columns):
        return wished
    if named := _named(columns, TEXTS):
        return named.name
    return max(columns, key=lambda column: (column.is_text, column.median)).name


def pair_columns(names: Names, text: str | None, summary: str | None, family: str | None) -> PairColumns:
    """Return the columns of input and output; those that are given are taken as they are.

    Raises:
        DataError: files that cannot be read, a given column that is not there, or fewer than two columns of text.
    """
    columns = look(names)
    for given in filter(None, (text, summary, family)):
        if not any(column.name == given for column in columns):
            found = ", ".join(f"'{column.name}'" for column in columns)
            raise DataError(f"{label(names)}: there is no column '{given}' of text. Columns here: {found}.")
    family = family or next((column.name for column in columns if column.last in FAMILIES), None)
    left = [column for column in columns if column.name not in (text, summary, family) and column.last != "id"]
    pair = _pair(columns, left, text, summary)
    if pair is None:
        if len(columns) == 1 and set(columns[0].name) & OTHER_SEPARATORS:
            next(iter_rows(names, TEXTS[:1]), None)  # refused with what it seems to be separated by
        found = ", ".join(f"'{column.name}'" for column in columns)
        reason = f"pairs need two columns of text, input and output, but its columns of text are {found}"
        raise DataError(
            f"{label(names)}: {reason}. Name the files of pairs, or say --text-column and --summary-column."
        )
    first, second, why = pair
    return PairColumns(
        text=first.name, summary=second.name, why=why, languages=(first.language, second.language), family=family
    )


def _pair(
    columns: Sequence[SeenColumn], left: Sequence[SeenColumn], text: str | None, summary: str | None
) -> tuple[SeenColumn, SeenColumn, str] | None:
    """The two columns and why these; None where there are not two."""
    given = {column.name: column for column in columns}
    first, second = given.get(text or ""), given.get(summary or "")
    if first and second:
        return first, second, "as given"
    coded = [column for column in left if column.language]
    if first is None and second is None and len(coded) == 2:
        return coded[0], coded[1], "called after their languages"
    named_first, named_second = first or _named(left, TEXTS), second or _named(left, SUMMARIES)
    if named_first and named_second and named_first is not named_second:
        return named_first, named_second, "by their names"
    texts = sorted((column for column in left if column.is_text), key=lambda column: -column.median)
    if first or second:
        other = next(iter(texts), None)
        found = (first or other, second or other)
        return (found[0], found[1], "the other one by its content") if found[0] and found[1] else None
    if len(texts) < 2 or len(coded) > 2:  # of three languages, which two?
        return None
    return texts[0], texts[1], "the longer is the input"


def _named(columns: Iterable[SeenColumn], names: Sequence[str]) -> SeenColumn | None:
    """The column with the likeliest of the names."""
    ranked = [column for column in columns if column.last in names]
    return min(ranked, key=lambda column: names.index(column.last), default=None)

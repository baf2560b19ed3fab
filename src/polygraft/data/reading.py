"""Read rows from the data that users have, and say exactly what is wrong with those that cannot be read.

What a name stands for is found out in `sources`; each format has a reader in a file of its own. docs/files.md has the
table of what each format accepts and refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from polygraft.data.cells import attempt, text_of
from polygraft.data.notices import say
from polygraft.data.sources import Names, Source, label, listed, sources
from polygraft.errors import DataError


class Place(NamedTuple):
    """Where a row is: `number` is that of its line or row in the source of that name, `source` counts from 0."""

    name: str
    unit: str
    number: int
    source: int

    def __str__(self) -> str:
        return f"{self.name}, {self.unit} {self.number}"


WholeRow = tuple[Place, dict[str, Any], dict[str, str] | DataError]
"""(place, all cells, the texts that were asked for, or why they cannot be read)"""


class RowList(list[dict[str, Any]]):
    """Rows in memory; `name` is what messages call the files that they are from."""

    def __init__(self, rows: Sequence[dict[str, Any]], name: str) -> None:
        super().__init__(rows)
        self.name = name


def read_rows(names: Names, columns: Sequence[str], filled: Sequence[str] = ()) -> RowList:
    """Return the rows as dictionaries of `columns` and "id", without those that are blank in one of `filled`.

    `filled` is the first column unless said; where it is said, the other columns name languages and must not be blank.
    A file of lines has one column, whatever the requested name. A row's id is its own, if it has one, else its number
    from 1; of several files it begins with the file's place: "2:17".

    Raises:
        DataError: as `iter_rows` does, or no row is left.
    """
    return RowList(list(filled_rows(names, columns, filled)), label(names))


class Rows:
    """The rows that `read_rows` returns, read anew at every pass, so that memory holds one at a time."""

    def __init__(
        self, names: Names, columns: Sequence[str], filled: Sequence[str] = (), wanted: np.ndarray | None = None
    ) -> None:
        """Check and count the rows; `wanted` (bool) are those among them to keep."""
        self.names, self.columns, self.filled, self.name = names, columns, filled, label(names)
        self.wanted = np.ones(sum(1 for _ in self._rows()), dtype=bool) if wanted is None else wanted

    def _rows(self) -> Iterator[dict[str, Any]]:
        return filled_rows(self.names, self.columns, self.filled)

    def __len__(self) -> int:
        return int(self.wanted.sum())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row, wanted in zip(self._rows(), self.wanted, strict=True) if wanted)

    def subset(self, wanted: np.ndarray) -> Rows:
        """Return some of the rows: `wanted` (bool), one for each of these."""
        chosen = self.wanted.copy()
        chosen[chosen] = wanted
        return Rows(self.names, self.columns, self.filled, chosen)


def iter_rows(names: Names, columns: Sequence[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield (place, row) for every row, also for those with blanks; nothing is said of them.

    Raises:
        DataError: no such file, unknown format, not UTF-8, a file that is damaged or not as its format has it, a
            missing or non-text column (with the columns there are), or nothing in the first column of any row.
    """
    found = sources(names)
    filled = False
    for index, source in enumerate(found):
        for place, row in _source_rows(source, index, columns, several=len(found) > 1):
            filled = filled or bool(row[columns[0]].strip())
            yield place, row
    if not filled:
        raise _no_text(label(names), columns[0])


def blank_columns(row: dict[str, Any], filled: Sequence[str]) -> list[str]:
    """Return those of the columns that a row has nothing in."""
    return [column for column in filled if not row[column].strip()]


def _source_rows(
    source: Source, index: int, columns: Sequence[str], several: bool
) -> Iterator[tuple[Place, dict[str, Any]]]:
    for count, (unit, number, cells) in enumerate(source.rows(columns), 1):
        place = Place(source.name, unit, number, index)
        assert isinstance(cells, dict)  # as rows are read strictly
        row = row_texts(cells, columns, place)
        own = cells.get("id")
        name = str(count if own is None else own)
        row["id"] = f"{index + 1}:{name}" if several else name
        yield place, row


def row_texts(cells: Mapping[str, Any], columns: Sequence[str], place: Place) -> dict[str, str]:
    """Return the text of each column; raises DataError with the place where there is none."""
    try:
        return {column: text_of(cells, column) for column in columns}
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None


def whole_rows(names: Names, columns: Sequence[str], strict: bool) -> Iterator[WholeRow]:
    """Yield (place, all cells of a row, its texts in `columns`) for every row, blank ones included.

    Without `strict` a row that cannot be read has, in place of its texts, the error that it would raise.

    Raises:
        DataError: as `iter_rows` does, but that of no text.
    """
    for index, source in enumerate(sources(names)):
        for unit, number, cells in source.rows(columns, whole=True, strict=strict):
            place = Place(source.name, unit, number, index)
            if isinstance(cells, DataError):
                yield place, {}, cells
            else:
                yield place, cells, attempt(partial(row_texts, cells, columns, place), strict)


def filled_rows(names: Names, columns: Sequence[str], filled: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows in which `filled` (by default the first column) are not blank; then say how many were."""
    needed = filled or columns[:1]
    languages = [column for column in columns if column not in needed] if filled else []
    blanks: dict[str, dict[str, int]] = {}
    rows: dict[str, int] = {}
    left = 0
    for place, row in iter_rows(names, columns):
        rows[place.name] = rows.get(place.name, 0) + 1
        blank = blank_columns(row, needed)
        for column in blank:
            counts = blanks.setdefault(place.name, {})
            counts[column] = counts.get(column, 0) + 1
        if not blank:
            if missing := blank_columns(row, languages):
                raise DataError(f"{place}: column '{missing[0]}' is blank, and has to name a language. Fill it.")
            left += 1
            yield row
    for name, counts in blanks.items():
        for column, number in counts.items():
            if number == rows[name] and len(rows) == 1:
                raise _no_text(name, column)
            say(f"{name}: {number} of {rows[name]} rows have a blank '{column}' and are left out.")
    if not left:
        raise DataError(f"{label(names)}: no row has all of {', '.join(needed)}. Name the right columns.")


def _no_text(name: str, column: str) -> DataError:
    return DataError(
        f"{name}: holds no text in '{column}'. At least one row is needed: name the right column, or fill it."
    )


__all__ = [
    "Names", "Place", "RowList", "Rows", "blank_columns", "filled_rows", "iter_rows", "label", "listed", "read_rows",
    "row_texts", "whole_rows",
]  # fmt: skip

"""Outputs of any toolkit: read from files of any format, one file per seed, and laid side by side by document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polygraft.data.cells import MISSING, cell, no_column
from polygraft.data.reading import Place, row_texts, whole_rows
from polygraft.errors import DataError
from polygraft.settings import OutputScoring

LOSS_COLUMNS = ("loss_nats", "reference_tokens")


@dataclass(frozen=True, kw_only=True)
class OutputRow:
    """One document as scores see it (`scoring.counts.Document`); what is None is not known.

    Attributes:
        key: its id, None where the file has none.
        place: where it was read, for messages.
        numbers: scores that came with it, and those of LOSS_COLUMNS.
    """

    key: str | None
    place: Place
    prediction: str
    reference: str | None
    source: str | None
    lang: str | None
    numbers: Mapping[str, float]

    @property
    def loss_nats(self) -> float:
        return self.numbers["loss_nats"]

    @property
    def reference_tokens(self) -> float:
        return self.numbers["reference_tokens"]


def read(file: str, scoring: OutputScoring) -> list[OutputRow]:
    """Read one file.

    Raises:
        DataError: it cannot be read, is empty, lacks a column, has a number that is none, or two rows of one id.
    """
    found = whole_rows(file, [scoring.prediction_column], strict=True)
    rows = [_output(place, cells, scoring) for place, cells, _ in found]
    if not rows:
        raise DataError(f"{file}: holds no rows. Name the file that has the outputs.")
    _check_keys(file, rows)
    return rows


def _output(place: Place, cells: Mapping[str, Any], scoring: OutputScoring) -> OutputRow:
    def text(column: str | None, usual: str) -> str | None:
        if column is None and cell(cells, usual) is MISSING:
            return None
        name = column or usual
        return row_texts(cells, [name], place)[name]

    column = scoring.id_column
    key = cell(cells, column or "id")
    if column and key in (MISSING, None, ""):
        raise DataError(f"{place}: {no_column(cells, column) if key is MISSING else 'the id is blank. Fill it.'}")
    lang = scoring.lang or text(scoring.lang_column, "lang")
    wanted = [*scoring.score_column, *(name for name in LOSS_COLUMNS if all(name in cells for name in LOSS_COLUMNS))]
    return OutputRow(
        key=None if key in (MISSING, None, "") else str(key),
        place=place,
        prediction=row_texts(cells, [scoring.prediction_column], place)[scoring.prediction_column],
        reference=text(scoring.reference_column, "reference"),
        source=text(scoring.source_column, "source"),
        lang=lang or None,
        numbers={name: _number(place, cells, name) for name in wanted},
    )


def _number(place: Place, cells: Mapping[str, Any], column: str) -> float:
    value = cell(cells, column)
    if value is MISSING:
        raise DataError(f"{place}: {no_column(cells, column)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise DataError(f"{place}: column '{column}' holds {str(value)[:60]!r}, but a number was expected.")
    return number


def _check_keys(file: str, rows: Sequence[OutputRow]) -> None:
    """Either all rows have an id, each its own, or none has."""
    keyless = [row for row in rows if row.key is None]
    if keyless and len(keyless) < len(rows):
        raise DataError(f"{keyless[0].place}: has no id, but other rows of {file} have. Fill it, or remove the column.")
    first: dict[str, OutputRow] = {}
    for row in rows if not keyless else ():
        other = first.setdefault(str(row.key), row)
        if other is not row:
            raise DataError(f"{row.place}: has the id '{row.key}' of {other.place}. Give each document its own.")


def with_references(file: str, rows: list[OutputRow], beside: list[OutputRow] | None) -> list[OutputRow]:
    """The rows with their references, of which those `beside` count more; by id where both have ids, else by order.

    Raises:
        DataError: there are none, or not one for each row.
    """
    if beside is None:
        missing = [row for row in rows if row.reference is None]
        if missing:
            remedy = "Name their column (--reference-column), or a file that has them (--references)."
            raise DataError(f"{missing[0].place}: there is no column 'reference' to score by. {remedy}")
        return rows
    matched = _matched(file, rows, beside)
    return [replace(row, reference=other.prediction) for row, other in zip(rows, matched, strict=True)]


def aligned(files: Sequence[str], read_rows: Sequence[list[OutputRow]]) -> list[list[OutputRow]]:
    """The rows of all files in the order of the first one.

    Raises:
        DataError: the files do not have the same documents, or these not the same references, sources or languages.
    """
    first = read_rows[0]
    found = [first]
    for file, rows in zip(files[1:], read_rows[1:], strict=True):
        if (first[0].key is None) != (rows[0].key is None):
            with_ids, without = (files[0], file) if first[0].key else (file, files[0])
            raise DataError(f"{without}: has no ids, but {with_ids} has. Give both, or none, the column.")
        found.append(_matched(files[0], first, rows))
        for one, other in zip(first, found[-1], strict=True):
            for field in ("reference", "source", "lang"):
                mine, theirs = getattr(one, field), getattr(other, field)
                if mine is not None and theirs is not None and mine != theirs:
                    said = f"its {field} is {theirs[:60]!r}, but {mine[:60]!r} in {one.place}"
                    raise DataError(f"{other.place}: {said}. Systems are compared on the same documents.")
    return found


def _matched(file: str, rows: Sequence[OutputRow], others: list[OutputRow]) -> list[OutputRow]:
    """Those of `others` that belong to each of `rows`."""
    name = others[0].place.name
    if rows[0].key is not None and others[0].key is not None:
        by_key = {row.key: row for row in others}
        if lacking := [row for row in rows if row.key not in by_key]:
            raise DataError(f"{name}: lacks the document '{lacking[0].key}' of {lacking[0].place}. {_SAME}")
        if extra := by_key.keys() - {row.key for row in rows}:
            place = by_key[min(extra, key=str)].place
            raise DataError(f"{place}: the document '{min(extra, key=str)}' is not in {file}. {_SAME}")
        return [by_key[row.key] for row in rows]
    if len(rows) != len(others):
        raise DataError(f"{name}: {len(others)} rows, but {file} has {len(rows)}. {_SAME}")
    return others


_SAME = "All files must have the same documents."

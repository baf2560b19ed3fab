"""Cells by their columns' names, also nested ones (`translation.en`), and what is said of those that are not right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from polygraft.errors import DataError

T = TypeVar("T")
MISSING = object()
Cells = dict[str, Any] | DataError
"""What a reader gives for a row: its cells, or what is wrong with it, where such rows do not end the reading."""


def attempt(read: Callable[[], T], strict: bool) -> T | DataError:
    """Return what `read` does; where it raises DataError, that error, unless `strict`."""
    try:
        return read()
    except DataError as error:
        if strict:
            raise
        return error


def cell(row: Mapping[str, Any], column: str) -> Any:
    """Return a row's cell: that of the column itself, else the one that a dotted name leads to; MISSING without one."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
        value = value[key]
    return value


def known_columns(row: Mapping[str, Any]) -> str:
    """List the names that a row's cells have, nested ones as they are asked for."""
    names: list[str] = []
    for key, value in row.items():
        inside = [f"'{key}.{inner}'" for inner in value] if isinstance(value, Mapping) and value else [f"'{key}'"]
        names += inside
    return ", ".join(names) or "none"


def no_column(row: Mapping[str, Any], column: str) -> str:
    """Say that there is no such column, and which there are."""
    return f"there is no column '{column}'. Columns here: {known_columns(row)}. Name the right one."


def top_names(row: Mapping[str, Any], name: str, columns: Sequence[str]) -> list[str]:
    """Return the outermost names that `columns` and `id` need; `row` has all names that there are.

    Raises:
        DataError: a column that is not there.
    """
    for column in columns:
        if cell(row, column) is MISSING:
            raise DataError(f"{name}: {no_column(row, column)}")
    wanted = [column if column in row else column.partition(".")[0] for column in (*columns, "id")]
    return [column for column in dict.fromkeys(wanted) if column in row]


def check_names(names: Sequence[str], name: str, place: str) -> None:
    """Refuse two columns of one name; columns without a name do no harm, since nobody can ask for them."""
    twice = [column for column, number in Counter(names).items() if number > 1 and column.strip()]
    if twice:
        raise DataError(f"{name}, {place}: two columns are called '{twice[0]}'. Rename or remove one.")


def text_of(row: Mapping[str, Any], column: str) -> str:
    """Return a row's text in a column; a null is a blank.

    Raises:
        ValueError: no such column, no text, or text that no tokenizer takes; the reason alone.
    """
    value = cell(row, column)
    if value is None:
        return ""
    if value is MISSING:
        raise ValueError(no_column(row, column))
    if not isinstance(value, str):
        raise ValueError(f"column '{column}' holds {json.dumps(value, default=str)[:60]}, but text was expected.")
    if "\0" in value:
        place = value.index("\0") + 1
        raise ValueError(f"column '{column}', character {place}: a NUL, which no text has. Remove it.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = ascii(value[error.start])
            reason = f"column '{column}' holds {half}, half of a character, which no tokenizer takes. Remove it."
            raise ValueError(reason) from None
    return value

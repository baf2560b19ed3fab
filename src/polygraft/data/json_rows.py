"""Rows of .json and .jsonl files.

A .jsonl file has one object per line and is read as a stream. A .json file has that too, or is one array of objects, or
one object with the rows under one of its keys; these two are read whole, into about four times the size of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from polygraft.data.cells import MISSING, Cells, attempt, cell
from polygraft.data.compression import text_lines
from polygraft.errors import DataError

Row = tuple[str, int, Cells]
"""(unit, number, cells): the place is "line 3" where each line is a row, "row 3" in an array."""
ONE_PER_LINE = "Each line of a .jsonl file is one JSON object; a file that is one array or object is called .json."
BY_ROW = "Write it by row: one object per line, or an array of objects (pandas: to_json(…, orient='records'))."


def read_jsonl(path: Path, name: str, columns: Sequence[str], strict: bool = True) -> Iterator[Row]:
    """Yield the rows of a .jsonl file; without `strict` a broken line is the error that it would raise.

    Raises:
        DataError: a line that is not a JSON object, or what `text_lines` raises.
    """
    return _by_line(text_lines(path, name, strict), name, ONE_PER_LINE, strict)


def read_json(path: Path, name: str, columns: Sequence[str], strict: bool = True) -> Iterator[Row]:
    """Yield the rows of a .json file, whichever of its layouts it has; `strict` as in `read_jsonl`.

    Raises:
        DataError: broken JSON, rows that are no objects, a file by column, or what `text_lines` raises.
    """
    filled = ((number, line) for number, line in text_lines(path, name, strict) if line.strip())
    first = next(filled, None)
    if first is None:
        return
    second = next(filled, None)
    lines = chain((first,), () if second is None else (second,), filled)
    if second is not None and first[1].lstrip().startswith("{") and _is_json(first[1]):
        yield from _by_line(lines, name, "This file has one JSON object per line.", strict)
        return
    before, padded = 0, []
    for number, line in lines:  # blank lines count, so that errors are placed right
        padded.append("\n" * (number - before - 1) + line)
        before = number
    content = _parse("".join(padded), name, 1, "")
    for number, row in enumerate(_rows_in(content, name, columns), 1):
        what = f"{name}, row {number}: expected an object with named columns"
        yield "row", number, attempt(partial(_object, row, what, ""), strict)


def _by_line(lines: Iterable[tuple[int, str]], name: str, remedy: str, strict: bool) -> Iterator[Row]:
    def read(line: str, number: int) -> dict[str, Any]:
        row = _parse(line.rstrip("\r\n"), name, number, remedy)
        return _object(row, f"{name}, line {number}: expected a JSON object with named columns", f" {remedy}")

    for number, line in lines:
        if line.strip():
            yield "line", number, attempt(partial(read, line, number), strict)


def _object(row: Any, what: str, remedy: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{what}, got {_short(row)}.{remedy}")
    return row


def _parse(text: str, name: str, line: int, remedy: str) -> Any:
    """Read JSON that begins in a line of a file."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        number = line + error.lineno - 1
        if error.msg == "Extra data" and not remedy:
            remedy = "More follows after the first value: write one object per line, or one array of objects."
        written = text.strip()
        shown = "" if "\n" in written else f": {written[:80]!r}"
        end = f" {remedy}" if remedy else ""
        place = f"{name}, line {number}, column {error.colno}"
        raise DataError(f"{place}: broken JSON ({error.msg}){shown}.{end}") from None
    except RecursionError:
        raise DataError(f"{name}, line {line}: is nested too deeply. {BY_ROW}") from None
    except ValueError as error:  # a repeated key, or a number of thousands of digits
        raise DataError(f"{name}, line {line}: {error}.") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"one object has the key '{twice}' twice: rename or remove one")
    return row


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _rows_in(content: Any, name: str, columns: Sequence[str]) -> list[Any]:
    """Return the rows of a file that is one value: an array, a single row, or an object that has them under a key."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise DataError(f"{name}: expected objects with named columns, got {_short(content)}. {BY_ROW}")
    if all(cell(content, column) is not MISSING for column in columns):
        if any(isinstance(cell(content, column), list | dict) for column in columns):
            raise DataError(f"{name}: is by column: '{columns[0]}' holds the cells of all rows. {BY_ROW}")
        return [content]
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    tables = [key for key, value in lists.items() if value and all(isinstance(row, Mapping) for row in value)]
    if len(tables) == 1:
        return lists[tables[0]]
    if len(tables) > 1:
        raise DataError(
            f"{name}: has rows under several keys, {_quoted(tables)}. Write those that you mean into a file alone."
        )
    found = f"its keys are {_quoted(list(content))}, and none has a list of objects"
    raise DataError(f"{name}: rows with the column '{columns[0]}' were expected, but {found}. {BY_ROW}")


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(f"'{key}'" for key in keys[:5]) + (", …" if len(keys) > 5 else "")


def _short(value: Any) -> str:
    return repr(json.dumps(value, ensure_ascii=False, default=str)[:60])

"""Read rows from the files that users have, and say exactly what is wrong with those that cannot be read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polygraft.errors import DataError
from polygraft.nano import bundled

FORMATS = (".txt", ".jsonl", ".json", ".csv", ".parquet")


def find_file(name: str) -> Path:
    """Resolve a file name or a bundled ``polygraft/sample/…`` name; raise DataError when there is no such file."""
    path = bundled(name) or Path(name)
    if not path.exists():
        raise DataError(f"{name}: no such file (looked in {Path.cwd()}). Check the spelling, or give an absolute path.")
    if path.is_dir():
        raise DataError(f"{name}: is a folder. Give one file: {', '.join(FORMATS)}.")
    if path.suffix not in FORMATS:
        raise DataError(f"{name}: unknown format '{path.suffix}'. Known formats: {', '.join(FORMATS)}.")
    return path


def read_rows(name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a file as dictionaries that all have `columns`; those whose first column is blank are dropped.

    A ``.txt`` file has one document per line and the single column ``text``, whatever the requested name. Every row
    gets an ``id``: its own, if it has one, else its number in the file from 1.

    Raises:
        DataError: as `iter_rows` does.
    """
    return [row for _, row in iter_rows(name, columns) if row[columns[0]].strip()]


class Rows:
    """The rows of a file that have text, read anew at every pass, so that memory holds one at a time."""

    def __init__(self, name: str, columns: Sequence[str], wanted: np.ndarray | None = None) -> None:
        """Check and count the rows, as `read_rows` reads them; `wanted` (bool) are those among them to keep."""
        self.name, self.columns = name, columns
        self.wanted = np.ones(sum(1 for _ in self._filled()), dtype=bool) if wanted is None else wanted

    def _filled(self) -> Iterator[dict[str, Any]]:
        return (row for _, row in iter_rows(self.name, self.columns) if row[self.columns[0]].strip())

    def __len__(self) -> int:
        return int(self.wanted.sum())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row, wanted in zip(self._filled(), self.wanted, strict=True) if wanted)

    def subset(self, wanted: np.ndarray) -> Rows:
        """Return some of the rows: `wanted` (bool), one for each of these."""
        chosen = self.wanted.copy()
        chosen[chosen] = wanted
        return Rows(self.name, self.columns, chosen)


def iter_rows(name: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) for every row of a file, also for those that `read_rows` drops.

    Raises:
        DataError: no such file, unknown format, not UTF-8, broken JSON (with its line), a missing or non-text column
            (with the columns there are), or nothing in the first column of any row.
    """
    path = find_file(name)
    filled = False
    for number, (line, row) in enumerate(_read(path, columns[0]), start=1):
        for column in columns:
            if problem := _column_problem(row, column):
                raise DataError(f"{name}, line {line}: {problem}")
        filled = filled or bool(row[columns[0]].strip())
        yield line, {**row, "id": str(row.get("id", number))}
    if not filled:
        raise DataError(f"{name}: holds no text. At least one row with a filled column '{columns[0]}' is needed.")


def _column_problem(row: dict[str, Any], column: str) -> str | None:
    if column not in row:
        known = ", ".join(f"'{key}'" for key in row) or "none"
        return f"there is no column '{column}'. Columns here: {known}. Name the right one in the recipe."
    value = row[column]
    if not isinstance(value, str):
        return f"column '{column}' holds {json.dumps(value, default=str)[:60]}, but text was expected."
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        return f"column '{column}' holds {half}, half of a character, which no tokenizer takes. Remove it."
    return None


def _read(path: Path, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row)."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins its UTF-8 files with a mark
            if path.suffix == ".txt":
                yield from ((n, {text_column: line.rstrip("\r\n")}) for n, line in enumerate(file, 1))
            elif path.suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _parse_json(line, path, number)
            elif path.suffix == ".json":
                yield from _read_json_array(file.read(), path)
            else:
                reader = csv.DictReader(file)
                yield from ((reader.line_num, row) for row in reader)
    except UnicodeDecodeError as error:
        place = _line_of_byte(path, error)
        raise DataError(f"{path}, {place}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file that can be read: {error}.") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it.") from None


def _line_of_byte(path: Path, error: UnicodeDecodeError) -> str:
    """Find the line of the first undecodable byte; the decoder itself only knows its place in a read buffer."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as inner:
                return f"line {number}, byte {inner.start + 1} (0x{line[inner.start]:02x})"
    return f"byte {error.start}"


def _parse_json(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}, column {error.colno}: broken JSON ({error.msg}): {line.strip()[:80]!r}. "
            "Each line of a .jsonl file is one JSON object."
        ) from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected a JSON object with named columns, got {line.strip()[:60]!r}.")
    return row


def _read_json_array(content: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A .json file is an array of objects; one object per line is understood too, since many files are named so."""
    if not content.lstrip().startswith("["):
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                yield number, _parse_json(line, path, number)
        return
    try:
        rows = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg}).") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {number}: expected an object with named columns, got {str(row)[:60]!r}.")
        yield number, row


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from enumerate((row for batch in file.iter_batches(batch_size=1000) for row in batch.to_pylist()), 1)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None

"""Write rows with a column of outputs, one at a time, in the formats that are read: the rows of a file, and more.

A row is what `reading.whole_rows` gave, with all its columns; its outputs are one text, or several.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from polygraft.data.compression import create_bytes, split_endings
from polygraft.data.files import appearing_file
from polygraft.data.sources import FORMATS, Names, sources
from polygraft.data.tables import BATCH_ROWS, schema_of
from polygraft.errors import DataError

COLUMNAR = (".parquet", ".arrow")


class Writer(ABC):
    """Writes rows and their outputs into an open file; of `count` outputs each, in the column `column`."""

    def __init__(self, file: IO[bytes], column: str, count: int) -> None:
        self.file, self.column, self.count = file, column, count

    @abstractmethod
    def write(self, row: Mapping[str, Any], outputs: Sequence[str]) -> None:
        """Add a row."""

    def close(self) -> None:  # noqa: B027 (most have nothing left)
        """Write what is left to write; the file stays open."""

    def named(self, row: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """The row with its outputs in a column: one text, or a list."""
        return {**row, self.column: outputs[0] if self.count == 1 else list(outputs)}


class LinesWriter(Writer):
    """The outputs alone, each in one line, so that line n belongs to input n."""

    def write(self, row: Mapping[str, Any], outputs: Sequence[str]) -> None:
        for output in outputs:
            self.file.write((" ".join(output.split()) + "\n").encode(errors="replace"))


class JsonlWriter(Writer):
    """An object per line."""

    def write(self, row: Mapping[str, Any], outputs: Sequence[str]) -> None:
        self.file.write(_json_line(self.named(row, outputs)) + b"\n")


class JsonWriter(Writer):
    """One array, an object per line in it."""

    begun = False

    def write(self, row: Mapping[str, Any], outputs: Sequence[str]) -> None:
        self.file.write((b",\n" if self.begun else b"[\n") + _json_line(self.named(row, outputs)))
        self.begun = True

    def close(self) -> None:
        self.file.write(b"\n]\n" if self.begun else b"[]\n")


def _json_line(row: Mapping[str, Any]) -> bytes:
    """A row as it was read, also with what is no UTF-8 in other columns, or half of a character from an escape."""
    try:
        return json.dumps(row, ensure_ascii=False, default=str).encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return json.dumps(row, default=str).encode()


class CsvWriter(Writer):
    """Cells under a header; several outputs have a column each."""

    separator = ","

    def __init__(self, file: IO[bytes], column: str, count: int) -> None:
        super().__init__(file, column, count)
        self.text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True)
        self.writer = csv.writer(self.text, delimiter=self.separator, lineterminator="\n")
        self.header: list[str] = []

    def write(self, row: Mapping[str, Any], outputs: Sequence[str]) -> None:
        if not self.header:
            self.header = [*row, *output_columns(self.column, self.count)]
            self.writer.writerow(self.header)
        self.writer.writerow([*row.values(), *outputs])

    def close(self) -> None:
        self.text.detach()


class TsvWriter(CsvWriter):
    """The same between tabs."""

    separator = "\t"


class TableWriter(Writer):
    """A Parquet or Arrow file with the types of the columns that were read."""

    def __init__(self, file: IO[bytes], column: str, count: int, *, schema: Any, open_: Callable[..., Any]) -> None:
        import pyarrow

        super().__init__(file, column, count)
        kind = pyarrow.string() if count == 1 else pyarrow.list_(pyarrow.string())
        self.schema = schema.remove_metadata().append(pyarrow.field(column, kind))  # what libraries say of old columns
        self.writer, self.rows = open_(file, self.schema), list[dict[str, Any]]()

    def write(self, row: Mapping[str, Any], outputs: Sequence[str]) -> None:
        self.rows.append(self.named(row, outputs))
        if len(self.rows) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        self.writer.write_table(pyarrow.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []

    def close(self) -> None:
        self._flush()
        self.writer.close()


WRITERS: dict[str, type[Writer]] = {
    ".txt": LinesWriter, ".jsonl": JsonlWriter, ".json": JsonWriter, ".csv": CsvWriter, ".tsv": TsvWriter,
}  # fmt: skip


def output_columns(column: str, count: int) -> list[str]:
    """Return what the columns of several outputs are called where each is a cell of its own."""
    return [column] if count == 1 else [f"{column}_{number}" for number in range(1, count + 1)]


def assert_writable(path: Path, names: Names, column: str, count: int) -> None:
    """Raise DataError where `writer` cannot write rows that are read from `names`, before anything is computed."""
    found, (ending, _) = sources(names), split_endings(path.name)
    if ending not in FORMATS:
        raise DataError(f"{path}: unknown format '{ending}'. Outputs are written as {', '.join(FORMATS)}.")
    if ending == ".txt" and count > 1:
        raise DataError(f"{path}: a file of lines has room for one output per input, not {count}. Name a .jsonl file.")
    kinds = {source.kind for source in found}
    tables = len(found) == 1 and kinds <= set(COLUMNAR)
    if ending in COLUMNAR and not tables:
        raise DataError(f"{path}: {ending} files are written of one that is .parquet or .arrow. Name a .jsonl file.")
    if ending in (".csv", ".tsv") and not (len(found) == 1 and kinds <= {".csv", ".tsv", "lines"}):
        raise DataError(f"{path}: {ending} files are written of one that is .csv, .tsv or lines. Name a .jsonl file.")
    if any(path.resolve() == one.resolve() for source in found for one in source.paths):
        raise DataError(f"{path}: is the input, and would be lost. Name another output file.")
    if path.is_dir():
        raise DataError(f"{path}: is a folder. Name a file.")


@contextmanager
def writer(path: Path, names: Names, column: str, count: int) -> Iterator[Writer]:
    """Open a writer in the format of `path`, which appears whole when the block ends; `assert_writable` has approved.

    `names` is what the rows are read from.
    """
    ending, compression = split_endings(path.name)
    with appearing_file(path) as temporary, create_bytes(temporary, compression) as file:
        columnar = ending in COLUMNAR
        rows = _table(file, column, count, names, ending) if columnar else WRITERS[ending](file, column, count)
        yield rows
        rows.close()


def _table(file: IO[bytes], column: str, count: int, names: Names, ending: str) -> TableWriter:
    import pyarrow
    import pyarrow.parquet

    (source,) = sources(names)
    open_ = pyarrow.parquet.ParquetWriter if ending == ".parquet" else pyarrow.ipc.new_file
    schema = schema_of(source.paths[0], source.name)
    return TableWriter(file, column, count, schema=schema, open_=open_)

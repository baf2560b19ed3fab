"""Rows of columnar files, Parquet and Arrow: only the columns that are asked for, a thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from polygraft.data.cells import check_names, top_names
from polygraft.data.compression import open_seekable, split_endings
from polygraft.errors import DataError

BATCH_ROWS = 1000
_MAGIC = b"ARROW1"


def read_parquet(
    path: Path, name: str, columns: Sequence[str], whole: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, cells) of a Parquet file; `whole` rows have cells that were not asked for, too.

    Raises:
        DataError: not a Parquet file, or a column that it does not have.
    """
    import pyarrow
    import pyarrow.parquet

    with open_seekable(path, name) as opened:
        try:
            with pyarrow.parquet.ParquetFile(opened) as file:
                wanted = wanted_columns(file.schema_arrow, name, columns, whole)
                yield from _rows(file.iter_batches(batch_size=BATCH_ROWS, columns=wanted), name)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _unreadable(name, "a Parquet", error) from None


def read_arrow(
    path: Path, name: str, columns: Sequence[str], whole: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, cells) of an Arrow IPC file or stream; `whole` as in `read_parquet`.

    Raises:
        DataError: not an Arrow file, or a column that it does not have.
    """
    import pyarrow

    with open_seekable(path, name) as opened:
        try:
            schema, batches = _open_arrow(opened)
            wanted = wanted_columns(schema, name, columns, whole)
            yield from _rows((batch.select(wanted) for batch in batches), name)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _unreadable(name, "an Arrow", error) from None


def table_rows(table: Any, name: str, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, cells) of a pyarrow table or batch whose first row is number `first`.

    Raises:
        DataError: bytes that are called text and are not UTF-8.
    """
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError:
        raise DataError(f"{name}, row {first + _bad_row(table)}: not UTF-8. Write the file again from UTF-8.") from None
    yield from enumerate(rows, first)


def _open_arrow(opened: IO[bytes]) -> tuple[Any, Iterator[Any]]:
    """Open either of the two layouts: the file, which has an index at its end, or the stream."""
    import pyarrow.ipc

    magic = opened.read(len(_MAGIC))
    opened.seek(0)
    if magic == _MAGIC:
        reader = pyarrow.ipc.open_file(opened)
        return reader.schema, map(reader.get_batch, range(reader.num_record_batches))
    stream = pyarrow.ipc.open_stream(opened)
    return stream.schema, iter(stream)


def schema_of(path: Path, name: str) -> Any:
    """Return the pyarrow schema of a Parquet or Arrow file that can be read."""
    import pyarrow.parquet

    with open_seekable(path, name) as opened:
        if split_endings(path.name)[0] == ".parquet":
            return pyarrow.parquet.read_schema(opened)
        return _open_arrow(opened)[0]


def wanted_columns(schema: Any, name: str, columns: Sequence[str], whole: bool) -> list[str]:
    """Return the columns to read, of those of a pyarrow schema: `columns` and "id", or if `whole` all.

    Raises:
        DataError: one of `columns` that is not there, or two columns of one name.
    """
    check_names(schema.names, name, "row 1")
    needed = top_names({field.name: empty_value(field.type) for field in schema}, name, columns)
    return schema.names if whole else needed


def empty_value(kind: Any) -> Any:
    """A value that has the names which a column's type has inside it: {"en": None, "uk": None} for a struct of two."""
    import pyarrow

    return {field.name: empty_value(field.type) for field in kind} if pyarrow.types.is_struct(kind) else None


def _rows(batches: Iterator[Any], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    first = 1
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield from table_rows(part := batch.slice(start, BATCH_ROWS), name, first)
            first += part.num_rows


def _bad_row(table: Any) -> int:
    for row in range(table.num_rows):
        try:
            table.slice(row, 1).to_pylist()
        except UnicodeDecodeError:
            return row
    return 0


def _unreadable(name: str, kind: str, error: Exception) -> DataError:
    return DataError(f"{name}: not {kind} file that can be read: {str(error).splitlines()[0]} Write it again.")

"""Files that are sent: their rows, read as those of any file, and written with outputs in the format that they had.

Only formats of plain text are taken: a compressed or columnar file may be a thousand times what was sent.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraft.data.reading import whole_rows
from polygraft.data.writing import WRITERS, output_columns
from polygraft.errors import DataError
from polygraft.serving.limits import Refusal
from polygraft.serving.messages import FileRequest
from polygraft.settings import Serve

COLUMN = "prediction"
MEDIA_TYPES = {
    "txt": "text/plain", "csv": "text/csv", "tsv": "text/tab-separated-values", "json": "application/json",
    "jsonl": "application/jsonl",
}  # fmt: skip
Row = tuple[dict[str, Any], str]
"""(all cells, the text)"""


class Pieces:
    """Writes rows, and gives what was written so far piece by piece."""

    def __init__(self, ending: str, count: int) -> None:
        self.buffer = io.BytesIO()
        self.writer = WRITERS[ending](self.buffer, COLUMN, count)

    def written(self, part: Sequence[Row], outputs: Sequence[Sequence[str]]) -> bytes:
        """Write rows; return them as the bytes of the file."""
        for (cells, _), some in zip(part, outputs, strict=True):
            self.writer.write(cells, some)
        return self._taken()

    def rest(self) -> bytes:
        """Return what ends the file."""
        self.writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        content = self.buffer.getvalue()
        self.buffer.seek(0)
        self.buffer.truncate()
        return content


@dataclass(frozen=True)
class SentFile:
    """A file that was sent; `skipped` are the rows that could not be read."""

    rows: list[Row]
    skipped: int
    ending: str

    def parts(self, size: int) -> Iterator[list[Row]]:
        """Yield so many rows at a time."""
        for first in range(0, len(self.rows), size):
            yield self.rows[first : first + size]

    def writer(self, count: int) -> Pieces:
        """Return what writes them with `count` outputs each."""
        return Pieces(self.ending, count)


def assert_taken(wish: FileRequest) -> None:
    """Raise Refusal for a format that is not taken, or that has no room for the outputs."""
    if wish.format not in MEDIA_TYPES:
        taken = f"files of {', '.join(MEDIA_TYPES)} are taken, uncompressed"
        raise Refusal(415, f"format: {taken}; `polygraft generate` reads all others.")
    if wish.format == "txt" and (wish.num_return_sequences or 1) > 1:
        raise Refusal(422, "a file of lines has room for one output per text: num_return_sequences must be 1.")


def read_upload(body: bytes, wish: FileRequest, server: Serve) -> SentFile:
    """Read all rows of a file that was sent.

    Raises:
        Refusal: too many rows, or what is wrong with the file or a row.
    """
    count = wish.num_return_sequences or 1
    with tempfile.TemporaryDirectory(prefix="polygraft-") as folder:
        path = Path(folder) / f"file.{wish.format}"
        path.write_bytes(body)
        try:
            return _rows(path, wish, server, {COLUMN, *output_columns(COLUMN, count)})
        except DataError as error:
            raise Refusal(422, str(error).replace(f"{folder}/", "")) from None


def _rows(path: Path, wish: FileRequest, server: Serve, new: set[str]) -> SentFile:
    columns = ["text" if wish.format == "txt" else wish.text_column]
    rows, skipped = list[Row](), 0
    for place, cells, texts in whole_rows(str(path), columns, not wish.skip_bad_rows):
        if len(rows) + skipped == server.max_file_rows:
            raise Refusal(413, f"The file has more than {server.max_file_rows:,} rows.")
        if isinstance(texts, DataError):
            skipped += 1
            continue
        if taken := sorted(new & set(cells)):
            raise Refusal(422, f"the file has a column '{taken[0]}' already. Rename it, so that it is not lost.")
        if len(text := texts[columns[0]]) > server.max_text_characters:
            raise Refusal(413, f"{place.unit} {place.number}: longer than {server.max_text_characters:,} characters.")
        rows.append((cells, text))
    if not any(text.strip() for _, text in rows):
        raise Refusal(422, f"the file has no text in '{columns[0]}' that can be read.")
    return SentFile(rows, skipped, path.suffix)

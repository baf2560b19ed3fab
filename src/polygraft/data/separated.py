"""Rows of .csv and .tsv files, strictly: every row has as many cells as the header, every quoted cell is closed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from polygraft.data.cells import Cells, attempt, check_names, no_column
from polygraft.data.compression import text_lines
from polygraft.data.notices import say
from polygraft.errors import DataError

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_LONGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131,072


def read_separated(
    path: Path, name: str, columns: Sequence[str], separator: str, strict: bool = True
) -> Iterator[tuple[int, Cells]]:
    """Yield (line that the row begins on, cells) of a file whose first row names the columns.

    Cells may be quoted as RFC 4180 has it, in .tsv files too; blank lines are skipped. Without `strict` a row with more
    or fewer cells than the header is the error that it would raise.

    Raises:
        DataError: more or fewer cells than the header, a quote that is not closed, two columns of one name, a column
            that is not there (with the likely separator, if it is another one), or what `text_lines` raises.
    """
    rows = _records(path, name, separator, strict)
    line, header, _ = next(rows, (1, [], []))
    if not header:
        return
    check_names(header, name, f"line {line}")
    other = _other_separator(header, separator)
    hint = f" Is it separated by {SEPARATORS[other]}? {_RENAME[other]}" if other else ""
    for column in columns:
        if column not in header:
            raise DataError(f"{name}, line {line}: {no_column(dict.fromkeys(header), column)}{hint}")

    def named(line: int, cells: list[str]) -> dict[str, str]:
        if len(cells) != len(header):
            mark = SEPARATORS[separator]
            more = f" Put text that has {mark} or a line's end in it in double quotes."
            remedy = hint or (more if len(cells) > len(header) else " Write the cells that are missing, empty or not.")
            raise DataError(f"{name}, line {line}: the row has {len(cells)} cell(s), the header {len(header)}.{remedy}")
        return dict(zip(header, cells, strict=True))

    doubtful: list[int] = []
    for line, cells, lines in rows:
        if len(lines) > 1 and all(one.count(separator) == len(header) - 1 for one in lines):
            doubtful.append(line)
        yield line, attempt(partial(named, line, cells), strict)
    if doubtful:
        rows_said = f"{len(doubtful)} row(s) of several lines, each of which could be a row (first: line {doubtful[0]})"
        say(f"{name}: {rows_said}. See whether a single quote joins them.")


_RENAME = {
    ",": "Then call it .csv.",
    "\t": "Then call it .tsv.",
    ";": "Write it with commas or tabs.",
    "|": "Write it with commas or tabs.",
}


def _records(path: Path, name: str, separator: str, strict: bool) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield (line, cells, the lines that they are on) of every row that is not blank."""
    csv.field_size_limit(_LONGEST_CELL)
    feed = _Feed(path, name, strict)
    reader = csv.reader(feed, delimiter=separator, strict=True)
    while True:
        feed.lines.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, {_quote_problem(feed, separator, str(error))}") from None
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield feed.first_line, cells, feed.lines


class _Feed:
    """The lines of a file, of which those of the present row are kept, to say where its quotes are."""

    def __init__(self, path: Path, name: str, strict: bool) -> None:
        self._source = text_lines(path, name, strict)
        self.number = 0
        self.lines: list[str] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._source)
        self.lines.append(line)
        return line

    @property
    def first_line(self) -> int:
        return self.number - len(self.lines) + 1


def _quote_problem(feed: _Feed, separator: str, error: str) -> str:
    """Name the line of the last quote that opened a cell, and what is wrong with it."""
    text = "".join(feed.lines)
    opened = _last_opened(text, separator)
    if opened is None:
        return f"line {feed.number}: not a row that can be read: {error}."
    line = feed.first_line + len(re.findall(r"\r\n|\r|\n", text[:opened]))
    remedy = 'Quote the whole cell, and write each quote in it twice: "She said ""yes"", and left".'
    if "end of data" in error:
        return f"line {line}: a quoted cell that opens here is not closed. {remedy}"
    return f"line {line}: a quoted cell that opens here closes in line {feed.number}, and text follows. {remedy}"


def _last_opened(text: str, separator: str) -> int | None:
    """Return the place of the last quote that opens a cell."""
    ends = re.compile(f"[{re.escape(separator)}\r\n]")
    place, opened = 0, None
    while place < len(text):
        if text[place] == '"':
            opened = place
            closing = re.compile(r'(?:[^"]++|"")*+"').match(text, place + 1)
            if closing is None:
                return opened
            place = closing.end()
            if place < len(text) and not ends.match(text, place):
                return opened
        end = ends.search(text, place)
        if end is None:
            return opened
        place = end.end()
    return opened


def _other_separator(header: Sequence[str], separator: str) -> str | None:
    """Return what the header seems to be separated by, if it is one cell and has other separators in it."""
    if len(header) > 1:
        return None
    counts = {other: header[0].count(other) for other in SEPARATORS if other != separator}
    most = max(counts, key=lambda other: counts[other])
    return most if counts[most] else None

"""Files as bytes and as lines of text, compressed or not; the one place that knows encodings and where a line ends.

A line ends at ``\\n``, ``\\r\\n`` or a lone ``\\r``, in every format of text, and nowhere else: U+2028, U+2029, U+0085,
form feeds and the like are part of the text. A byte order mark at the beginning of a file is not. NUL is refused.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from polygraft.errors import DataError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",  # before UTF-16, whose mark theirs begins with
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip


def split_endings(name: str) -> tuple[str, str]:
    """Return the endings of a file's name that tell format and compression, in small letters: (".csv", ".gz")."""
    path = Path(name.lower())
    if path.suffix in COMPRESSIONS:
        return path.with_suffix("").suffix, path.suffix
    return path.suffix, ""


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading what is inside its compression, as a stream."""
    compression = split_endings(path.name)[1]
    if compression == ".gz":
        return io.BufferedReader(gzip.open(path))
    if compression == ".bz2":
        return bz2.open(path)
    if compression == ".xz":
        return lzma.open(path)
    if compression == ".zst":
        import pyarrow  # Python has zstd of its own from 3.14 on

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


@contextmanager
def create_bytes(path: Path, compression: str) -> Iterator[IO[bytes]]:
    """Open a new file for writing, through one of COMPRESSIONS or "" for none."""
    if compression == ".zst":
        import pyarrow

        with pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd") as file:
            yield file
        return
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with openers.get(compression, open)(path, "wb") as file:
        yield file


@contextmanager
def open_seekable(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file for reading anywhere in it; a compressed one is unpacked into a temporary file on disk."""
    with readable(path, name), open_bytes(path) as file:
        if not split_endings(path.name)[1]:
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(file, unpacked, 1 << 20)
            unpacked.seek(0)
            yield unpacked


@contextmanager
def readable(path: Path, name: str) -> Iterator[None]:
    """Turn what can go wrong while a file is read into a DataError."""
    try:
        yield
    except PermissionError:
        raise DataError(f"{name}: no permission to read it.") from None
    except (FileNotFoundError, IsADirectoryError):
        raise
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        compression = split_endings(path.name)[1]
        if not compression:
            raise
        if isinstance(error, EOFError) or "runcated" in str(error):
            raise DataError(
                f"{name}: is cut off: the compressed data end too early. Fetch or write it again."
            ) from None
        reason = f"its content is not what {compression} stands for, or is damaged ({error})"
        raise DataError(f"{name}: {reason}. Correct the ending, or write it again.") from None


def text_lines(path: Path, name: str, strict: bool = True) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line with its end) of a file, as a stream.

    Raises:
        DataError: not UTF-8 (with line, byte and a guess) or a NUL, if `strict`; or compressed data that are cut off or
            damaged.
    """
    with readable(path, name), open_bytes(path) as file:
        yield from decoded_lines(file, name, strict)


def decoded_lines(file: IO[bytes], name: str, strict: bool = True) -> Iterator[tuple[int, str]]:
    """Yield the lines of an opened file as `text_lines` does.

    Without `strict` a byte that is no UTF-8 is half of a character in its line (Python's "surrogateescape").
    """
    start = file.peek(4)[:4] if hasattr(file, "peek") else b""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            raise DataError(
                f"{name}, line 1, byte 1 (0x{start[0]:02x}): not UTF-8, but {encoding} by its byte order mark. "
                f"Convert it: iconv -f {encoding} -t UTF-8."
            )
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        for number, line in enumerate(text, 1):
            if strict:
                _assert_text(line, f"{name}, line {number}")
            yield number, line


def _assert_text(line: str, place: str) -> None:
    if "\0" in line:
        raise DataError(
            f"{place}, character {line.index(chr(0)) + 1}: a NUL, which no text has. "
            "The file is damaged, or UTF-16 without a byte order mark: save it as UTF-8."
        )
    if line.isascii():
        return
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte, before = ord(line[error.start]) - 0xDC00, len(line[: error.start].encode())
        raise DataError(
            f"{place}, byte {before + 1} (0x{byte:02x}): not UTF-8; perhaps Latin-1, Windows-1252 or another older "
            "encoding. Convert it from the encoding that it has: iconv -f WINDOWS-1252 -t UTF-8 if it is that."
        ) from None


def without_ends(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Take the ends off the lines."""
    return ((number, line.rstrip("\r\n")) for number, line in lines)

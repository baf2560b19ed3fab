"""What is done to good files to break them, as Hypothesis strategies: bytes, structure, and the files themselves.

Half of the inputs are changed in structure (a JSON value, a YAML key, a header of safetensors, a column), so that they
get past the first parser; the rest in bytes, or by what a file is.
"""

from __future__ import annotations

import copy
import csv
import functools
import gzip
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import yaml
from hypothesis import strategies as st

SCRIPT = "<script>polygraft()</script>"
TEXTS = (
    "", " ", "\0", "\n", "\ufeff", "../../../etc/passwd", "/etc/passwd", "~", "a\nb", SCRIPT, "{{ 7 * 7 }}", "%s {0}",
    "\u202eنص\u202c من اليمين", "🦜👩‍👩‍👧‍👦", "e\u0301" * 40, "\ud800", "x" * 70_000, "NaN",
    "-1", "1e999", "null", "no", "en_XX", "</s>", "<mask>", "__import__('os').system('true')", "|", "\t",
    '"', "'", "\u2028", "C:\\x", "ﬁ", "\x1b[2J",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e308, float("nan"), float("inf"), True, False)


def deep(depth: int, kind: str) -> Any:
    """A value that nests that deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


STRANGE = st.one_of(
    st.just(SCRIPT),
    st.just(SCRIPT),
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.none(),
    st.sampled_from(([], {}, [[]], {"": 1}, [None], ["a", 1], {"a": {"b": [1, {}]}})),
    st.builds(deep, st.sampled_from((3, 40, 300)), st.sampled_from(("list", "dict"))),
    st.integers(),
    st.text(max_size=20),
)
CHUNKS = st.one_of(
    st.sampled_from(TEXTS).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from((b"\xff\xfe", b"\xff", b"\0" * 9, b"[" * 3000, b'{"a":' * 3000, b"- " * 500, b"&a [*a]",
                     b"!!python/name:os.system ",
                     b"!!binary x", b"\r", b"\r\n\r\n", b"\xc3", b"\x1f\x8b\x08", b"PAR1",
                     b"---\n", b"...\n", b"<<: *x\n", b"%YAML 9.9\n")),
    st.binary(min_size=1, max_size=8),
)  # fmt: skip
FRACTION = st.integers(0, 9999).map(lambda number: number / 10_000)


def _splice(data: bytes, at: float, length: int, new: bytes) -> bytes:
    start = int(at * (len(data) + 1))
    return data[:start] + new + data[start + length :]


def _flip(data: bytes, at: float, bit: int) -> bytes:
    if not data:
        return data
    place = int(at * len(data))
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def _repeat(data: bytes, at: float, length: int) -> bytes:
    return _splice(data, at, 0, data[int(at * len(data)) :][:length])


def _move(data: bytes, at: float, to: float, length: int) -> bytes:
    piece, start = data[int(at * len(data)) :][:length], int(at * len(data))
    return _splice(data[:start] + data[start + length :], to, 0, piece)


BYTES: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
    st.builds(lambda at: lambda data: data[: int(at * len(data))], FRACTION),
    st.builds(lambda at, bit: lambda data: _flip(data, at, bit), FRACTION, st.integers(0, 7)),
    st.builds(lambda at, n, new: lambda data: _splice(data, at, n, new), FRACTION, st.integers(0, 9), CHUNKS),
    st.builds(lambda at, n: lambda data: _splice(data, at, n, b""), FRACTION, st.integers(1, 200)),
    st.builds(lambda at, to, n: lambda data: _move(data, at, to, n), FRACTION, FRACTION, st.integers(1, 60)),
    st.builds(lambda at, n: lambda data: _repeat(data, at, n), FRACTION, st.integers(1, 400)),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a value of JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inside for place in ((*path, key), *places(item, (*path, key)))]


Edit = Callable[[Any], Any]


def _edited(content: Any, at: float, do: str, strange: Any, name: str) -> Any:
    content = copy.deepcopy(content)
    paths = places(content)
    if not paths:
        return strange
    *before, last = paths[int(at * len(paths))]
    holder = content
    for key in before:
        holder = holder[key]
    if do == "remove":
        del holder[last]
    elif do == "rename" and isinstance(holder, dict):
        holder[name] = holder.pop(last)
    elif do == "wrap":
        holder[last] = [holder[last]]
    elif do == "add" and isinstance(holder, dict):
        holder[name] = strange
    elif do == "repeat" and isinstance(holder, list):
        holder.insert(last, holder[last])
    else:
        holder[last] = strange
    return content


EDIT: st.SearchStrategy[Edit] = st.builds(
    lambda at, do, strange, name: lambda content: _edited(content, at, do, strange, name),
    FRACTION,
    st.sampled_from(("set", "set", "set", "remove", "rename", "wrap", "add", "repeat")),
    STRANGE,
    st.sampled_from((*TEXTS, "auto_map", "id", "text", "summary", "lang", "vocab_size", "chat_template", "__class__")),
)  # fmt: skip


def _json_bytes(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


def edit_json(data: bytes, edit: Edit) -> bytes:
    return _json_bytes(edit(json.loads(data)))


def edit_lines(data: bytes, edit: Edit) -> bytes:
    """Rows of JSON: edited as one array, and written a line each again."""
    rows = edit([json.loads(line) for line in data.splitlines() if line.strip()])
    rows = rows if isinstance(rows, list) else [rows]
    return b"".join(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for row in rows)


def edit_yaml(data: bytes, edit: Edit) -> bytes:
    content = edit(yaml.safe_load(data))
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def edit_weights(data: bytes, edit: Edit) -> bytes:
    """The header of safetensors: names, types, shapes, offsets."""
    (length,) = struct.unpack("<Q", data[:8])
    header = _json_bytes(edit(json.loads(data[8 : 8 + length])))
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def edit_table(data: bytes, edit: Edit) -> bytes:
    """A Parquet file: its rows edited, with the types that pyarrow then finds; unchanged where it finds none."""
    rows = edit(pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist())
    try:
        table, out = pa.Table.from_pylist(rows), io.BytesIO()
        pyarrow.parquet.write_table(table, out)
    except (pa.ArrowException, UnicodeError, TypeError, AttributeError, OverflowError, RecursionError):
        return data
    return out.getvalue()


def edit_text(data: bytes, edit: Edit) -> bytes:
    """Lines of text, edited as an array of strings."""
    lines = edit(data.decode().split("\n"))
    return "\n".join(map(str, lines if isinstance(lines, list) else [lines])).encode("utf-8", "surrogatepass")


def edit_gzip(data: bytes, edit: Edit) -> bytes:
    return gzip.compress(edit_text(gzip.decompress(data), edit))


def edit_separated(data: bytes, edit: Edit, separator: str) -> bytes:
    """Rows of cells, header and all."""
    rows, out = edit(list(csv.reader(data.decode().splitlines(), delimiter=separator))), io.StringIO(newline="")
    for row in rows if isinstance(rows, list) else [rows]:
        csv.writer(out, delimiter=separator).writerow(row if isinstance(row, list) else [row])
    return out.getvalue().encode("utf-8", "surrogatepass")


EDITORS: dict[str, Callable[[bytes, Edit], bytes]] = {
    "json": edit_json,
    "jsonl": edit_lines,
    "yaml": edit_yaml,
    "safetensors": edit_weights,
    "parquet": edit_table,
    "txt": edit_text,
    "gz": edit_gzip,
    "csv": functools.partial(edit_separated, separator=","),
    "tsv": functools.partial(edit_separated, separator="\t"),
}
UNREADABLE = (
    ValueError, yaml.YAMLError, pa.ArrowException, struct.error, RecursionError, OSError, EOFError, zlib.error,
    csv.Error,
)  # fmt: skip
FILES = ("remove", "empty", "folder", "loop", "outside", "nowhere", "double")


def _replace(path: Path, what: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if what == "empty":
        path.write_bytes(b"")
    elif what == "folder":
        path.mkdir()
    elif what in ("loop", "outside", "nowhere"):
        path.symlink_to({"loop": path.name, "outside": "/etc/passwd", "nowhere": "../" * 40 + "none"}[what])
    elif what == "double":
        path.write_bytes(content * 2)


@st.composite
def breakages(draw: st.DrawFn, formats: dict[str, str]) -> Callable[[Path], None]:
    """What breaks one or two of a folder's files; `formats` has the format of each, by name ("" for bytes alone)."""
    steps: list[tuple[str, str, Any]] = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2)))):
        name = draw(st.sampled_from(sorted(formats)))
        ways = ["structure"] * 7 + ["bytes"] * 2 if formats[name] else ["bytes"] * 3
        how = draw(st.sampled_from([*ways, "file"]))
        steps.append((name, how, draw({"structure": EDIT, "bytes": BYTES, "file": st.sampled_from(FILES)}[how])))

    def break_folder(folder: Path) -> None:
        for name, how, do in steps:
            path = folder / name
            if path.is_symlink() or not path.is_file():
                continue  # the step before took it away
            if how == "file":
                _replace(path, do)
            elif how == "bytes":
                path.write_bytes(do(path.read_bytes()))
            else:
                path.write_bytes(_structured(path.read_bytes(), EDITORS[formats[name]], do))

    return break_folder


def _structured(data: bytes, editor: Callable[[bytes, Edit], bytes], edit: Edit) -> bytes:
    try:
        return editor(data, edit)
    except UNREADABLE:
        return data[:-1]  # the step before left nothing to edit


def fresh(good: Path, folder: Path) -> Path:
    """A copy of the good files in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(good, folder)

"""What each format accepts and refuses: docs/files.md says the same, row by row.

Written with the libraries that users write their files with (csv, json, pyarrow, gzip …), never with ours.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from polygraft.data.reading import iter_rows, read_rows
from polygraft.errors import DataError

# One text with everything that some reader takes for the end of a line, and one with all that CSV must quote.
ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\ufeffh"
PAIRS = [("перший", "1"), (ODD, "2"), ('said "yes", and left', ""), ("007", "null"), ("  spaces ", "2021-01-01")]
COLUMNS = ["text", "summary"]


def csv_bytes(pairs, delimiter=",", end="\n"):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows([COLUMNS, *pairs])
    return out.getvalue().encode()


def records(pairs):
    return [dict(zip(COLUMNS, pair, strict=True)) for pair in pairs]


def json_lines(pairs, end="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in records(pairs)).encode()


def parquet_bytes(pairs):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records(pairs)), out, row_group_size=2)
    return out.getvalue()


def arrow_bytes(pairs, new=pyarrow.ipc.new_file):
    out, table = io.BytesIO(), pyarrow.Table.from_pylist(records(pairs))
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


def indented(value):
    return json.dumps(value, ensure_ascii=False, indent=2).encode()


WRITERS = {
    "a.csv": csv_bytes,
    "a.tsv": lambda pairs: csv_bytes(pairs, "\t"),
    "crlf.csv": lambda pairs: csv_bytes(pairs, end="\r\n"),
    "cr.csv": lambda pairs: csv_bytes(pairs, end="\r"),
    "bom.csv": lambda pairs: b"\xef\xbb\xbf" + csv_bytes(pairs),
    "blank-lines.csv": lambda pairs: b"\n\n" + csv_bytes(pairs, end="\n\n"),
    "a.jsonl": json_lines,
    "crlf.jsonl": lambda pairs: json_lines(pairs, "\r\n"),
    "cr.jsonl": lambda pairs: json_lines(pairs, "\r"),
    "bom.jsonl": lambda pairs: b"\xef\xbb\xbf" + json_lines(pairs, "\n\n"),
    "lines.json": json_lines,
    "array.json": lambda pairs: indented(records(pairs)),
    "one-line.json": lambda pairs: json.dumps(records(pairs)).encode(),
    "bom.json": lambda pairs: b"\xef\xbb\xbf" + indented(records(pairs)),
    "wrapped.json": lambda pairs: indented({"version": "1.0", "data": records(pairs)}),
    "wrapped-one-line.json": lambda pairs: json.dumps({"rows": records(pairs), "n": [1]}).encode(),
    "a.parquet": parquet_bytes,
    "file.arrow": arrow_bytes,
    "stream.arrow": lambda pairs: arrow_bytes(pairs, pyarrow.ipc.new_stream),
}
COMPRESS = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.Codec("zstd").compress(data, asbytes=True),
}  # fmt: skip


def read(path, columns=("text", "summary")):
    return [tuple(row[column] for column in columns) for _, row in iter_rows(str(path), columns)]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_cells(tmp_path, name, compression):
    path = tmp_path / (name + compression)
    path.write_bytes(COMPRESS[compression](WRITERS[name](PAIRS)))
    assert read(path) == PAIRS
    capitals = tmp_path / (path.stem.partition(".")[0] + "2" + "".join(path.suffixes).upper())
    path.rename(capitals)
    assert read(capitals) == PAIRS


@pytest.mark.parametrize("name", WRITERS)
def test_cells_of_any_length(tmp_path, name):
    """csv's own limit is 131,072 characters."""
    pairs = [("слово " * 60_000, "1"), ("short", "x" * 200_000)]
    (tmp_path / name).write_bytes(WRITERS[name](pairs))
    assert read(tmp_path / name) == pairs


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_ends_at_these_and_nowhere_else(tmp_path, end):
    documents = ["one", ODD, "two", " three"]
    (tmp_path / "a.txt").write_bytes(("\ufeff" + end.join(documents)).encode())
    assert read(tmp_path / "a.txt", ["text"]) == [(document,) for document in documents]
    places = [str(place) for place, _ in iter_rows(str(tmp_path / "a.txt"), ["any"])]
    assert places == [f"{tmp_path}/a.txt, line {n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "crlf.csv", "bom.csv"])
def test_quoted_cells_hold_lines(tmp_path, name):
    pairs = [("first\nsecond\n\nthird", "1"), ("x", "2")]
    (tmp_path / name).write_bytes(WRITERS[name](pairs))
    assert read(tmp_path / name) == pairs
    lines = [place.number for place, _ in iter_rows(str(tmp_path / name), COLUMNS)]
    assert lines[1] - lines[0] == 4  # a row is where it begins


NESTED = [{"translation": {"en": "dog", "uk": "пес"}, "id": 7}, {"translation": {"en": "cat", "uk": "кіт"}, "id": 8}]


@pytest.mark.parametrize("name", ["a.jsonl", "lines.json", "array.json", "a.parquet", "file.arrow", "stream.arrow"])
def test_nested_columns_and_own_ids(tmp_path, name):
    path = tmp_path / name
    table = pyarrow.Table.from_pylist(NESTED)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, path)
    elif name.endswith(".arrow"):
        new = pyarrow.ipc.new_file if name == "file.arrow" else pyarrow.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        lines = "\n".join(json.dumps(row) for row in NESTED)
        path.write_text(json.dumps(NESTED) if name == "array.json" else lines)
    rows = read_rows(str(path), ["translation.en", "translation.uk"])
    assert rows == [
        {"translation.en": "dog", "translation.uk": "пес", "id": "7"},
        {"translation.en": "cat", "translation.uk": "кіт", "id": "8"},
    ]
    with pytest.raises(DataError, match=r"no column 'text'.*'translation.en', 'translation.uk', 'id'"):
        read_rows(str(path), ["text"])


def test_a_column_with_a_dot_in_its_name_comes_first(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a.b": "itself", "a": {"b": "inside"}}')
    assert read(tmp_path / "a.jsonl", ["a.b"]) == [("itself",)]


UTF16 = "text,summary\nслово,1\n".encode("utf-16")
REFUSED = {
    # cells
    "more.csv": (b"text,summary\nfine,1\nOn Monday, after a debate,2\n", ["line 3: the row has 3 cell(s), the header 2",
                                                                        "double quotes"]),
    "all-more.csv": (b"text,summary\na,b,1\nc,d,2\n", ["line 2: the row has 3 cell(s), the header 2"]),
    "fewer.csv": (b"text,summary\nfine,1\nlonely\n", ["line 3: the row has 1 cell(s), the header 2", "missing"]),
    "more.tsv": (b"text\tsummary\na\tb\tc\n", ["line 2: the row has 3 cell(s), the header 2", "a tab"]),
    "after-lines.csv": (b'text,summary\n"one\ntwo",1\na,b,c\n', ["line 4: the row has 3"]),
    # quotes
    "open.csv": (b'text,summary\nfine,1\n"Open,2\nnext,3\n', ["line 3: a quoted cell that opens here is not closed"]),
    "open-late.csv": (b'text,summary\n"one\ntwo","Open\nnext,3\n', ["line 3: a quoted cell that opens here is not cl"]),
    "swallows.csv": (b'text,summary\n"Open,1\nnext,2\n"quoted",3\n',
                     ["line 2: a quoted cell that opens here closes in line 4, and text follows"]),
    "after.csv": (b'text,summary\n"Yes" she said,1\n', ["line 2", "closes in line 2, and text follows", '""yes""']),
    "open.tsv": (b'text\tsummary\n"Open\t2\n', ["line 2: a quoted cell that opens here is not closed"]),
    # separators and headers
    "semi.csv": ("\ufefftext;summary\nа;б\n".encode(), ["line 1", "Is it separated by ';'?"]),
    "semi-commas.csv": (b"text;summary\na, b;c\n", ["Is it separated by ';'?"]),
    "tabs.csv": (b"text\tsummary\na\tb\n", ["Is it separated by a tab?", ".tsv"]),
    "pipes.csv": (b"text|summary\na|b\n", ["Is it separated by '|'?"]),
    "commas.tsv": (b"text,summary\na,b\n", ["Is it separated by ','?", ".csv"]),
    "twice.csv": (b"text,summary,text\na,b,c\n", ["line 1: two columns are called 'text'"]),
    "twice.jsonl": (b'{"text": "a", "summary": "1"}\n{"text": "a", "text": "b"}\n', ["line 2", "key 'text' twice"]),
    "column.csv": (b"text,title\na,b\n", ["line 1: there is no column 'summary'. Columns here: 'text', 'title'"]),
    # JSON
    "list.jsonl": (b'{"text": "a", "summary": "b"}\n["a", "b"]\n', ["line 2: expected a JSON object", '["a", "b"]']),
    "array.jsonl": (b'[{"text": "a", "summary": "b"}]', ["line 1", "is called .json"]),
    "broken.jsonl": (b'{"text": "a", "summary": "b"}\n{"text": "a"\n', ["line 2, column 13: broken JSON"]),
    "strings.json": (b'["a", "b"]', ["row 1: expected an object with named columns"]),
    "broken.json": (b'[\n{"text": "a", "summary": "b"},\n{"text": }]', ["line 3, column 10: broken JSON"]),
    "pretty.json": (b'{\n"text": "a", "summary": "b"}\n{\n"text": "a", "summary": "b"}', ["line 3", "object per line"]),
    "number.json": (b"3", ["expected objects"]),
    "columns.json": (b'{"text": {"0": "a", "1": "b"}, "summary": {"0": "c", "1": "d"}}', ["is by column", "orient"]),
    "lists.json": (b'{"text": ["a", "b"], "summary": ["c", "d"]}', ["is by column"]),
    "split.json": (b'{"columns": ["text", "summary"], "data": [["a", "b"]]}', ["none has a list of objects", "by row"]),
    "several.json": (b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}', ["several keys, 'train', 'test'"]),
    "deep.json": (b"[" * 100_000, ["nested too deeply"]),
    "missing.jsonl": (b'{"text": "a", "summary": "b"}\n{"text": "a"}\n', ["line 2: there is no column 'summary'"]),
    "list-cell.jsonl": (b'{"text": ["a"], "summary": "b"}', ["line 1: column 'text' holds [\"a\"], but text was"]),
    # encodings and damage
    "utf16.csv": (UTF16, ["line 1, byte 1 (0xff): not UTF-8, but UTF-16", "iconv -f UTF-16 -t UTF-8"]),
    "utf16.txt": (UTF16, ["but UTF-16"]),
    "utf16.json": ('[{"text": "a", "summary": "b"}]'.encode("utf-16-be"), ["line 1, character 1: a NUL", "UTF-16"]),
    "utf32.jsonl": (b"\xff\xfe\x00\x00", ["but UTF-32"]),
    "latin.csv": (b"text,summary\na,1\ncaf\xe9,2\n", ["line 3, byte 4 (0xe9): not UTF-8", "Windows-1252"]),
    "latin-cr.txt": (b"a\rb\rcaf\xe9\r", ["line 3, byte 4 (0xe9)"]),
    "nul.txt": (b"fine\na\x00b\n", ["line 2, character 2: a NUL"]),
    "nul.csv": (b"text,summary\na\x00b,1\n", ["line 2, character 2: a NUL"]),
    "nul.jsonl": (b'{"text": "a\\u0000b", "summary": "1"}', ["line 1: column 'text', character 2: a NUL"]),
    "half.jsonl": (b'{"text": "a\\ud83d", "summary": "1"}', ["line 1", "half of a character"]),
    "other.gz": (b"text", ["unknown format"]),
    "not.csv.gz": (b"text,summary\na,b\n", [".gz", "Correct the ending"]),
    "not.csv.zst": (b"text,summary\na,b\n", [".zst", "Correct the ending"]),
    "not.parquet": (b"text,summary\na,b\n", ["not a Parquet file"]),
    "not.arrow": (b"text,summary\na,b\n", ["not an Arrow file"]),
    "cut.arrow": (arrow_bytes(PAIRS, pyarrow.ipc.new_stream)[:-100], ["not an Arrow file that can be read"]),
    "cut.parquet": (parquet_bytes(PAIRS)[:-9], ["not a Parquet file that can be read"]),
    "a.xlsx": (b"PK", ["unknown format '.xlsx'", ".tsv", "{en,uk}"]),
    "train.en": (b"a\n", ["unknown format '.en'", "parallel ones together: 'train.{en,uk}'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_remedy(tmp_path, name):
    content, expected = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read(tmp_path / name, COLUMNS[:1] if name.endswith(".txt") else COLUMNS)
    message = str(error.value)
    assert message.startswith(str(tmp_path / name))
    for part in expected:
        assert part in message


@pytest.mark.parametrize("compression", [c for c in COMPRESS if c])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "array.json", "a.parquet", "stream.arrow"])
def test_cut_off_compressed_files(tmp_path, name, compression):
    draw = random.Random(1)  # so that there is something to compress
    whole = COMPRESS[compression](WRITERS[name]([(f"text {i} {draw.random()}", "s") for i in range(3000)]))
    path = tmp_path / (name + compression)
    for kept in (len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=r"is cut off"):
            read(path)


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_columnar_cells_that_are_no_text(tmp_path, name):
    def write(column):
        table = pyarrow.table({"text": column, "other": pyarrow.array([1] * len(column))})
        if name == "a.parquet":
            pyarrow.parquet.write_table(table, tmp_path / name)
        else:
            new = pyarrow.ipc.new_file if name == "file.arrow" else pyarrow.ipc.new_stream
            with new(str(tmp_path / name), table.schema) as writer:
                writer.write_table(table)

    for column, expected in [
        (pyarrow.array(["a", "b\0"]), "row 2: column 'text', character 2: a NUL"),
        (pyarrow.array([1, 2]), "row 1: column 'text' holds 1, but text was expected"),
        (pyarrow.array([b"a", b"b"]), "row 1: column 'text' holds"),
        (pyarrow.array([b"a", b"caf\xe9"]).cast(pyarrow.string(), safe=False), "row 2: not UTF-8"),
    ]:
        write(column)
        with pytest.raises(DataError) as error:
            read(tmp_path / name, ["text"])
        assert expected in str(error.value)
    write(pyarrow.array(["a", None, "b"]).dictionary_encode())  # as pandas writes categories; a null is a blank
    assert read(tmp_path / name, ["text"]) == [("a",), ("",), ("b",)]


def test_a_quote_that_may_join_rows_is_said(tmp_path, capsys):
    """Valid by RFC 4180, so that it is read; but each line could be a row, and 5" ends what another quote began."""
    (tmp_path / "a.csv").write_text('text,summary\na,1\n"Open,2\nnext,3\ndisk of 5",4\nb,5\n')
    assert read(tmp_path / "a.csv") == [("a", "1"), ("Open,2\nnext,3\ndisk of 5", "4"), ("b", "5")]
    said = "a.csv: 1 row(s) of several lines, each of which could be a row (first: line 3). See whether a single quote"
    assert said in capsys.readouterr().err
    (tmp_path / "b.csv").write_text('text,summary\n"One, and\ntwo, and\n\nthree",4\n')
    read(tmp_path / "b.csv")
    assert capsys.readouterr().err == ""


def test_columns_without_a_name_do_no_harm(tmp_path):
    """What spreadsheets and pandas' index leave behind."""
    (tmp_path / "a.csv").write_text(",text,summary,,\n0,a,b,,\n")
    assert read(tmp_path / "a.csv") == [("a", "b")]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "lines.json", "a.parquet", "stream.arrow"])
def test_rows_come_as_they_are_read(tmp_path, name, monkeypatch):
    """The first row is there before the end of the file is looked at: here, damaged."""
    pairs = [(f"text {i}", "s") for i in range(50_000)]
    if name == "a.txt":
        content = "".join(text + "\n" for text, _ in pairs).encode()
    else:
        content = WRITERS[name](pairs[:4000] if name.endswith("t") or "arrow" in name else pairs)
    path: Path = tmp_path / name
    path.write_bytes(content if name == "a.parquet" else content[:-3] + b"\xff\n")
    columns = ["text"]
    _, first = next(iter_rows(str(path), columns))
    assert first["text"] == "text 0"


ALPHABET = ["a", "ї", '"', ",", "\t", ";", " ", "\n", "\r\n", "\u2028", "\x85", "'", "\\", "{", "𝄞", "\ufeff"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_pandas_and_csv_write_is_read_back(tmp_path, seed):
    draw = random.Random(seed)
    pairs = [tuple("".join(draw.choices(ALPHABET, k=draw.randrange(9))) for _ in COLUMNS) for _ in range(30)]
    pairs[0] = ("first", "row")
    frame = pandas.DataFrame(pairs, columns=COLUMNS)
    frame.to_csv(tmp_path / "a.csv", index=seed % 2 == 0, quoting=csv.QUOTE_ALL)
    frame.to_csv(tmp_path / "a.tsv.gz", sep="\t", quoting=csv.QUOTE_NONNUMERIC)
    frame.to_json(tmp_path / "a.json", orient="records", force_ascii=seed % 2 == 0)
    frame.to_json(tmp_path / "a.jsonl.bz2", orient="records", lines=True)
    frame.to_json(tmp_path / "table.json", orient="table", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv.gz", "a.json", "a.jsonl.bz2", "table.json", "a.parquet"):
        assert read(tmp_path / name) == pairs, name
    for orient in ("columns", "index", "split", "values"):
        frame.to_json(tmp_path / "wrong.json", orient=orient)
        with pytest.raises(DataError):
            read(tmp_path / "wrong.json")


@pytest.mark.parametrize("seed", range(50))
def test_a_quote_too_many_is_never_read_in_silence(tmp_path, seed):
    """One quote before any cell of a file without quotes: refused, in the line where it is.

    A second one at the end of a later cell would close it: then it is a cell of several lines, as RFC 4180 has it.
    """
    draw = random.Random(seed)
    lines = [f"text {i} of the file,summary {i}" for i in range(draw.randrange(1, 40))]
    row = draw.randrange(len(lines))
    cells = lines[row].split(",")
    column = draw.randrange(2)
    cells[column] = '"' + cells[column]
    lines[row] = ",".join(cells)
    (tmp_path / "a.csv").write_text("text,summary\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"a\.csv, line {row + 2}: a quoted cell that opens here is not closed"):
        read(tmp_path / "a.csv")

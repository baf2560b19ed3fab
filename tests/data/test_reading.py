"""Bad files, each with the message that a user sees."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from polygraft.data.reading import Rows, read_rows
from polygraft.errors import DataError

ROWS = [{"text": "перший", "summary": "1"}, {"text": "second, with a comma", "summary": "2"}]


def write(path):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".csv":
        path.write_text('text,summary\nперший,1\n"second, with a comma",2\n')
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_formats(tmp_path, suffix):
    rows = read_rows(str(write(tmp_path / f"data{suffix}")), ["text", "summary"])
    assert [(row["text"], row["summary"], row["id"]) for row in rows] == [
        ("перший", "1", "1"),
        ("second, with a comma", "2", "2"),
    ]


def test_text_lines_and_own_ids(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo\r\n")
    assert [row["anything"] for row in read_rows(str(tmp_path / "a.txt"), ["anything"])] == ["one", "two"]
    (tmp_path / "a.jsonl").write_text('{"text": "x", "id": "doc-7"}')
    assert read_rows(str(tmp_path / "a.jsonl"), ["text"])[0]["id"] == "doc-7"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", b"", ["empty.txt", "holds no text"]),
        ("blank.txt", b"\n \n", ["holds no text"]),
        ("bad.jsonl", b'{"text": "a"}\n{"text": "b"\n', ["bad.jsonl, line 2", "broken JSON"]),
        ("list.jsonl", b"[1, 2]\n", ["line 1", "JSON object"]),
        ("number.jsonl", b'{"text": 3}\n', ["line 1", "'text' holds 3", "text was expected"]),
        ("column.jsonl", b'{"txt": "a"}\n', ["no column 'text'", "Columns here: 'txt'"]),
        ("column.csv", b"body,title\na,b\n", ["no column 'text'", "'body', 'title'"]),
        ("short.csv", b"summary,text\na\n", ["line 2", "the row has 1 cell(s), the header 2"]),
        ("latin.txt", "first\ncafé\n".encode("latin-1"), ["line 2, byte 4 (0xe9)", "UTF-8"]),
        ("array.json", b'[{"text": "a"},\n {"text": }]', ["line 2", "broken JSON"]),
        ("table.parquet", b"not parquet", ["not a Parquet file"]),
        ("table.xlsx", b"x", ["unknown format '.xlsx'", ".parquet"]),
    ],
)
def test_bad_files(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_rows(str(tmp_path / name), ["text"])
    for part in expected:
        assert part in str(error.value)


def test_missing_file_folder_and_bundled_name(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(str(tmp_path / "nowhere.txt"), ["text"])
    with pytest.raises(DataError, match="is a folder"):
        read_rows(str(tmp_path), ["text"])
    with pytest.raises(DataError, match=r"not bundled.*polygraft/sample/uk/train\.parquet"):
        read_rows("polygraft/sample/xx/train.parquet", ["text"])


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_byte_order_mark_of_excel_is_no_text(tmp_path, name):
    content = {"a.csv": "text\nslovo\n", "a.txt": "slovo\n", "a.jsonl": '{"text": "slovo"}\n'}[name]
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_rows(str(tmp_path / name), ["text"])[0]["text"] == "slovo"


def test_rows_are_read_anew_at_every_pass_and_split_without_loss(tmp_path):
    """What `read_rows` holds in memory, `Rows` reads: the same rows, blank ones left out, in the same order."""
    lines = [{"text": "" if i % 7 == 3 else f"text {i}", "id": str(i)} for i in range(40)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = Rows(str(path), ["text"])
    assert len(rows) == 34
    assert list(rows) == list(rows) == read_rows(str(path), ["text"])
    chosen = np.arange(34) % 3 == 0
    part, rest = rows.subset(chosen), rows.subset(~chosen)
    assert [row["id"] for row in part] == [row["id"] for row, keep in zip(rows, chosen, strict=True) if keep]
    assert sorted([*part, *rest], key=lambda row: int(row["id"])) == list(rows)
    again = part.subset(np.arange(len(part)) == 1)
    assert next(iter(again)) == list(part)[1]
    assert len(again) == 1

"""What the name of a data file may stand for: lists, globs, folders, parallel files; ids and fingerprints over them."""

from __future__ import annotations

import gzip
import json

import pytest

from polygraft.data.reading import iter_rows, read_rows
from polygraft.data.sources import data_files, data_settings
from polygraft.errors import DataError
from polygraft.runs.records import fingerprint_of
from polygraft.settings import PairData, TextData


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def lines(*texts):
        return "".join(json.dumps({"text": text}) + "\n" for text in texts)

    (tmp_path / "data").mkdir()
    (tmp_path / "data/b.jsonl").write_text(lines("b1", "b2"))
    (tmp_path / "data/a.jsonl").write_text(lines("a1"))
    (tmp_path / "data/c.csv").write_text("text,id\nc1,x\nc2,y\n")
    (tmp_path / "data/d.txt.gz").write_bytes(gzip.compress(b"d1\nd2\n"))
    (tmp_path / "data/README.md").write_text("not data")
    (tmp_path / "data/.hidden.txt").write_text("not data")
    return tmp_path


ALL = ["a1", "b1", "b2", "c1", "c2", "d1", "d2"]


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        ("data/a.jsonl", ["a1"]),
        (["data/b.jsonl", "data/a.jsonl"], ["b1", "b2", "a1"]),  # in the order in which they are named
        ("data/*.jsonl", ["a1", "b1", "b2"]),
        ("data/[bc]*", ["b1", "b2", "c1", "c2"]),
        ("**/c.csv", ["c1", "c2"]),
        ("data", ALL),
        ("data/", ALL),
        (["data/*.csv", "data/a.jsonl"], ["c1", "c2", "a1"]),
    ],
)
def test_names(folder, names, texts):
    rows = read_rows(names, ["text"])
    assert [row["text"] for row in rows] == texts
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert ids == [row["id"] for row in read_rows(names, ["text"])]


def test_ids_of_several_files_begin_with_the_files_place(folder):
    assert [row["id"] for row in read_rows(["data/b.jsonl", "data/c.csv"], ["text"])] == ["1:1", "1:2", "2:x", "2:y"]
    assert [row["id"] for row in read_rows("data/c.csv", ["text"])] == ["x", "y"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["data/a.jsonl", "nowhere.txt"], "nowhere.txt: no such file"),
        ("data/*.tsv", r"data/\*\.tsv: no file has such a name"),
        ("data/*", r"data/README\.md: unknown format '\.md'"),  # a glob takes what it names, a folder what is known
        (["data/a.jsonl", "data/*.jsonl"], r"data/a\.jsonl: is named twice"),
        (["data/a.jsonl", "data/a.jsonl"], "is named twice"),
        (["data/a.jsonl", "other.jsonl"], r"other\.jsonl, line 1: there is no column 'text'. Columns here: 'body'"),
        ("", "is no name of a file"),
        ("empty", "empty: is a folder without any file of a known format"),
        ("data/{a,b}.jsonl", "braces are for parallel files of lines"),
        ("data/{x,y}.txt", r"data/x\.txt: no such file"),
    ],
)
def test_refused_names(folder, names, expected):
    (folder / "other.jsonl").write_text('{"body": "x"}')
    (folder / "empty").mkdir()
    for name in "ab":
        (folder / f"data/{name}.lines").write_text("x\n")
    with pytest.raises(DataError, match=expected):
        read_rows(names, ["text"])


PARALLEL = {  # names of two files, the setting, the columns asked for, the columns that they are
    "text and summary": (("train.en", "train.uk"), "train.{en,uk}", ["text", "summary"], ["en", "uk"]),
    "by name": (("train.en", "train.uk"), "train.{en,uk}", ["uk", "en"], ["uk", "en"]),
    "one of them": (("train.en", "train.uk"), "train.{en,uk}", ["uk"], ["uk"]),
    "one in braces": (("train.en", "train.uk"), "train.{uk}", ["text"], ["uk"]),
    "before the ending": (("src.txt", "tgt.txt"), "{src,tgt}.txt", ["text", "summary"], ["en", "uk"]),
    "compressed": (("train.en.gz", "train.uk.gz"), "train.{en,uk}.gz", ["text", "summary"], ["en", "uk"]),
}


@pytest.mark.parametrize(("files", "name", "columns", "expected"), PARALLEL.values(), ids=PARALLEL)
def test_parallel_files_of_lines(tmp_path, monkeypatch, files, name, columns, expected):
    monkeypatch.chdir(tmp_path)
    languages = {"en": ["dog", "cat", "a\u2028b"], "uk": ["пес", "кіт", "в"]}
    for file, lines in zip(files, languages.values(), strict=True):
        content = ("\r\n".join(lines) + "\r\n").encode()
        (tmp_path / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    found = [[row[column] for row in read_rows(name, columns)] for column in columns]
    assert found == [languages[language] for language in expected]


def test_parallel_files_are_asked_for_in_both_directions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.en").write_text("dog\n")
    (tmp_path / "t.uk").write_text("пес\n")
    columns = ["text", "summary", "from", "to"]
    rows = [[row[column] for column in columns] for row in read_rows(["t.{en,uk}", "t.{uk,en}"], columns)]
    assert rows == [["dog", "пес", "en", "uk"], ["пес", "dog", "uk", "en"]]
    with pytest.raises(DataError, match="no column 'to'"):  # whose language it would be is not said
        read_rows("t.{en,uk}", ["text", "summary", "to"])


def test_parallel_files_of_unequal_length(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.en").write_text("one\n" * 1200)
    (tmp_path / "t.uk").write_text("один\n" * 1199)
    with pytest.raises(DataError, match=r"same number of lines, but t\.en has 1,200 lines, t\.uk has 1,199 lines"):
        read_rows("t.{en,uk}", ["text", "summary"])
    with pytest.raises(DataError, match=r"no column 'text'. Columns here: 'en', 'uk'"):
        read_rows("t.{en,uk}", ["text"])


def test_a_blank_line_stays_in_its_place_and_is_left_out_with_its_partner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.en").write_text("one\n\nthree\nfour\n")
    (tmp_path / "t.uk").write_text("один\nдва\n \nчотири\n")
    rows = read_rows("t.{en,uk}", ["text", "summary"], ["text", "summary"])
    assert [(row["text"], row["summary"], row["id"]) for row in rows] == [("one", "один", "1"), ("four", "чотири", "4")]


def test_places_over_several_files(folder):
    places = [(place.name, place.number, place.source) for place, _ in iter_rows("data/*.jsonl", ["text"])]
    assert places == [("data/a.jsonl", 1, 0), ("data/b.jsonl", 1, 1), ("data/b.jsonl", 2, 1)]


def identity(section):
    return [fingerprint_of(f"file:{file}") for file in data_files(section)], data_settings(section)


def test_fingerprints_see_every_file_and_who_uses_it(folder):
    """Of a glob or folder, the files that it stands for; not how they were named."""
    section = TextData(train_file="data/*.jsonl")
    before = identity(section)
    assert before == identity(TextData(train_file=["data/a.jsonl", "data/b.jsonl"]))
    assert before != identity(TextData(train_file=["data/b.jsonl", "data/a.jsonl"]))
    assert before != identity(TextData(train_file="data/a.jsonl", validation_file="data/b.jsonl"))
    (folder / "data/b.jsonl").write_text('{"text": "changed"}\n')
    changed = identity(section)
    assert changed != before
    (folder / "data/new.jsonl").write_text('{"text": "new"}\n')
    assert identity(section) not in (before, changed)
    (folder / "t.en").write_text("one\n")
    (folder / "t.uk").write_text("один\n")
    assert data_files(PairData(train_file="t.{en,uk}", test_file="data/c.csv")) == ["t.en", "t.uk", "data/c.csv"]


@pytest.mark.parametrize(
    ("written", "kept"),
    [("a", "a"), (["a"], "a"), (["a", "b"], ("a", "b")), (("a", "b"), ("a", "b"))],
)
def test_one_name_or_a_list(written, kept):
    assert TextData(train_file=written).train_file == kept
    assert TextData(train_file="x", validation_file=written).validation_file == kept

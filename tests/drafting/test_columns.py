"""Which columns of the user's files are taken for texts: by name, by content, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polygraft.drafting.columns import look, pair_columns, text_column
from polygraft.errors import DataError

LONG = "A small editor for text files, with syntax highlighting, number {}, which runs in a terminal."
SHORT = "Editor number {}"


def rows(*names: str, number: int = 12) -> list[dict[str, str]]:
    """Rows whose first column is long, whose others are short."""
    return [{name: (SHORT if place else LONG).format(n) for place, name in enumerate(names)} for n in range(number)]


def nested(*names: str) -> list[dict[str, Any]]:
    return [{"id": str(n), "translation": row} for n, row in enumerate(rows(*names))]


@pytest.fixture
def jsonl(tmp_path):
    def _jsonl(content: list[dict[str, Any]], name: str = "pairs.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return str(path)

    return _jsonl


PAIRS = {
    "text and summary": (rows("text", "summary"), ("text", "summary"), "by their names"),
    "the other way round in the file": (rows("summary", "text"), ("text", "summary"), "by their names"),
    "document": (rows("document", "summary"), ("document", "summary"), "by their names"),
    "CNN": (rows("article", "highlights", "id"), ("article", "highlights"), "by their names"),
    "source and target": (rows("source", "target"), ("source", "target"), "by their names"),
    "capitals": (rows("Text", "Summary"), ("Text", "Summary"), "by their names"),
    "text and title": (rows("body", "title"), ("body", "title"), "by their names"),
    "codes": (rows("en", "uk"), ("en", "uk"), "called after their languages"),
    "codes, the shorter first": (rows("uk", "en")[::-1], ("uk", "en"), "called after their languages"),
    "NLLB's codes": (rows("eng_Latn", "ukr_Cyrl"), ("eng_Latn", "ukr_Cyrl"), "called after their languages"),
    "nested": (nested("en", "uk"), ("translation.en", "translation.uk"), "called after their languages"),
    "by content": (rows("lang", "kurz"), ("lang", "kurz"), "the longer is the input"),
    "by content, the longer last": (
        [{"a": SHORT.format(n), "b": LONG.format(n)} for n in range(9)], ("b", "a"), "the longer is the input"),
    "one by name": (rows("inhalt", "summary"), ("inhalt", "summary"), "the longer is the input"),
    "no text beside": (
        [{**row, "url": f"https://example.org/{n}/a-long-name-of-a-page-that-nobody-reads-as-text-at-all-or-should",
          "split": "the same words"} for n, row in enumerate(rows("a", "b"))], ("a", "b"), "the longer is the input"),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(jsonl, case):
    content, columns, why = PAIRS[case]
    found = pair_columns(jsonl(content), None, None, None)
    assert ((found.text, found.summary), found.why) == (columns, why)


def test_columns_of_codes_declare_languages(jsonl):
    assert pair_columns(jsonl(rows("en", "uk")), None, None, None).languages == ("en", "uk")
    assert pair_columns(jsonl(rows("text", "summary")), None, None, None).languages == (None, None)


def test_what_is_given_is_taken(jsonl):
    file = jsonl(rows("text", "summary", "title"))
    assert pair_columns(file, "title", "summary", None).why == "as given"
    assert pair_columns(file, None, "title", None).text == "text"
    assert pair_columns(file, None, None, "title").family == "title"


def test_families_are_found_by_name(jsonl):
    assert pair_columns(jsonl(rows("text", "summary", "family")), None, None, None).family == "family"
    assert pair_columns(jsonl(rows("text", "summary")), None, None, None).family is None


REFUSED = {
    "one column": (rows("text"), (None, None), "pairs need two columns of text"),
    "three languages": (rows("en", "uk", "de"), (None, None), "'en', 'uk', 'de'. Name the files of pairs, or say"),
    "no such column": (rows("text", "summary"), ("document", None), "no column 'document' of text. Columns here: 't"),
    "numbers": ([{"text": 1, "summary": 2}], (None, None), "holds no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(jsonl, case):
    content, given, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        pair_columns(jsonl(content), *given, None)
    assert message in str(caught.value)


def test_another_separator_is_told(tmp_path):
    (tmp_path / "pairs.csv").write_text("text;summary\na b;c\n")
    with pytest.raises(DataError, match="Is it separated by ';'"):
        pair_columns(str(tmp_path / "pairs.csv"), None, None, None)


TEXTS = {
    "by name": (rows("title", "text"), None, "text"),
    "by content": (rows("a", "b"), None, "a"),
    "the pairs' own": (rows("text", "document"), "document", "document"),
    "the pairs' own is not there": (rows("text"), "document", "text"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_plain_text(jsonl, case):
    content, wished, column = TEXTS[case]
    assert text_column(jsonl(content), wished) == column


def _write(path: Path, content: list[dict[str, str]]) -> None:
    names = list(content[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, pa.Table.from_pylist(content).schema) as file:
            file.write_table(pa.Table.from_pylist(content))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"version": "1", "data": content}))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(f'"{row[name]}"' for name in names) for row in content]
        path.write_text("\n".join([mark.join(names), *lines]) + "\n")


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".json", ".csv", ".tsv"])
def test_columns_of_every_format(tmp_path, ending):
    path = tmp_path / f"pairs{ending}"
    _write(path, rows("document", "summary"))
    assert [column.name for column in look(str(path))] == ["document", "summary"]
    assert pair_columns(str(path), None, None, None).text == "document"


def test_columns_of_other_sources(tmp_path):
    import datasets

    for name in ("en", "uk"):
        (tmp_path / f"train.{name}").write_text("".join(f"{LONG.format(n)}\n" for n in range(9)))
    (tmp_path / "text.txt").write_text("a b\n")
    datasets.Dataset.from_list(rows("text", "summary")).save_to_disk(tmp_path / "saved")
    names = {"train.{en,uk}": ["en", "uk"], "text.txt": ["text"], "saved": ["text", "summary"]}
    assert {name: [column.name for column in look(str(tmp_path / name))] for name in names} == names

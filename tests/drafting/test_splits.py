"""Test pairs are set apart without a leak, in the same way each time, and never into the user's files."""

from __future__ import annotations

import json
import random

import pytest

from polygraft.data.reading import read_rows
from polygraft.drafting.splits import by_name, divide, write_parts
from polygraft.errors import DataError

COLUMNS = ("document", "short")
WANTED = ("test", "validation")


@pytest.fixture
def pairs(tmp_path):
    """Writes pairs; gives back the file."""

    def _pairs(rows: list[dict[str, str]], name: str = "pairs.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return str(path)

    return _pairs


def made(number: int, families: int = 0) -> list[dict[str, str]]:
    """Pairs, each third of them with the input of the one before, written with other spaces."""
    rows = []
    for n in range(number):
        text = f"document  {n - 1}" if n % 3 == 2 else f"document {n}"
        rows.append({"document": text, "short": f"short {n}", **({"family": str(n % families)} if families else {})})
    return rows


def texts(part):
    return {" ".join(row["document"].split()) for row in part.rows}


SIZES = {30: (6, 6), 600: (100, 100), 3000: (300, 300), 20_000: (1000, 1000)}


@pytest.mark.parametrize("number", SIZES)
def test_sizes(pairs, number):
    parts = divide(pairs([{"document": f"d {n}", "short": f"s {n}"} for n in range(number)]), COLUMNS, None, WANTED)
    assert [part.name for part in parts] == ["test", "validation", "train"]
    assert tuple(len(part.rows) for part in parts) == (*SIZES[number], number - sum(SIZES[number]))


def test_inputs_that_are_the_same_stay_together(pairs):
    parts = divide(pairs(made(600)), COLUMNS, None, WANTED)
    assert sum(len(part.rows) for part in parts) == 600
    for one in parts:
        for other in parts:
            assert one is other or not texts(one) & texts(other)


def test_families_stay_together(pairs):
    parts = divide(pairs(made(600, families=50)), COLUMNS, "family", WANTED)
    families = [{row["family"] for row in part.rows} for part in parts]
    assert sum(map(len, families)) == len(set.union(*families)) == 50


def test_pairs_that_are_repeated_are_kept_once(pairs):
    rows = made(60)
    parts = divide(pairs(rows + rows), COLUMNS, None, WANTED)
    assert sum(len(part.rows) for part in parts) == 60


def test_the_order_of_the_file_does_not_matter(pairs):
    rows = made(300)
    shuffled = random.Random(1).sample(rows, len(rows))
    first, second = (divide(pairs(some), COLUMNS, None, WANTED) for some in (rows, shuffled))
    assert [texts(part) for part in first] == [texts(part) for part in second]


def test_a_large_family_is_trained_on(pairs):
    rows = [{"document": f"d {n}", "short": f"s {n}", "family": "all" if n < 300 else str(n)} for n in range(400)]
    parts = {part.name: part for part in divide(pairs(rows), COLUMNS, "family", WANTED)}
    assert sum(row["family"] == "all" for row in parts["train"].rows) == 300
    assert parts["test"].rows and parts["validation"].rows


@pytest.mark.parametrize(("number", "families"), [(12, 0), (600, 5)])
def test_too_few_are_refused(pairs, number, families):
    with pytest.raises(DataError, match="too few to set test pairs apart"):
        divide(pairs(made(number, families)), COLUMNS, "family" if families else None, WANTED)


def test_what_is_written_is_read_back_and_the_users_file_stays(pairs, tmp_path):
    file = pairs(made(60))
    before = (tmp_path / "pairs.jsonl").read_bytes()
    parts = divide(file, COLUMNS, None, WANTED)
    written = write_parts(parts, tmp_path / "beside", COLUMNS)
    for part in parts:
        read = read_rows(written[part.name], ["text", "summary"])
        assert [(row["text"], row["summary"]) for row in read] == [(row["document"], row["short"]) for row in part.rows]
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


NAMES = {
    ("train.jsonl", "dev.jsonl", "test.jsonl"): ("train.jsonl", "dev.jsonl", "test.jsonl"),
    ("a.train.jsonl", "a_valid.jsonl", "a-test-2.jsonl"): ("a.train.jsonl", "a_valid.jsonl", "a-test-2.jsonl"),
    ("contest.jsonl", "latest.jsonl", "valley.jsonl"): ("contest.jsonl latest.jsonl valley.jsonl", "", ""),
    ("test.jsonl",): ("test.jsonl", "", ""),
    ("x.jsonl", "validation.jsonl"): ("x.jsonl", "validation.jsonl", ""),
}


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_splits_by_name(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).write_text('{"text": "a", "summary": "b"}\n')
    found = by_name(list(names))
    assert (found.train, found.validation, found.test) == tuple(tuple(one.split()) for one in NAMES[names])

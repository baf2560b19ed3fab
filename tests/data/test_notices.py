"""Blank cells and text that a tokenizer cannot write: counted aloud, left out or kept, refused when nothing is left."""

from __future__ import annotations

import json

import pytest

from polygraft.data import notices
from polygraft.data.dataset import pair_dataset, read_pairs, read_text, text_dataset
from polygraft.data.notices import Unwritable, count_unwritable
from polygraft.data.reading import read_rows
from polygraft.errors import DataError
from polygraft.settings import PairData, TextData

GOOD, CHINESE = "The library reads files.", "委员会于三月三日开会并通过了预算案决议。"


@pytest.fixture(autouse=True)
def nothing_said_yet():
    notices.say.cache_clear()


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _write(name, *pairs):
        lines = [json.dumps({"text": text, "summary": summary}) for text, summary in pairs]
        (tmp_path / name).write_text("\n".join(lines))
        return name

    return _write


def test_rows_with_blanks_are_left_out_and_counted_once(write, capsys):
    names = [
        write("a.jsonl", ("x", "1"), ("x", " "), ("\u00a0\t", "3"), ("x", None), ("y", "5")),
        write("b.jsonl", ("z", "6"), ("", "")),
    ]
    filled = ["text", "summary"]
    assert [row["summary"] for row in read_rows(names, filled, filled)] == ["1", "5", "6"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "a.jsonl: 2 of 5 rows have a blank 'summary' and are left out.",
        "a.jsonl: 1 of 5 rows have a blank 'text' and are left out.",
        "b.jsonl: 1 of 2 rows have a blank 'text' and are left out.",
        "b.jsonl: 1 of 2 rows have a blank 'summary' and are left out.",
    ]
    read_rows(names, filled, filled)
    assert capsys.readouterr().err == ""


def test_only_the_first_process_speaks(write, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    read_rows(write("a.jsonl", ("x", "1"), ("", "2")), ["text"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("x", ""), ("y", " ")], "a.jsonl: holds no text in 'summary'"),
        ([("", "1"), (" ", "2")], "a.jsonl: holds no text in 'text'"),
        ([("x", ""), ("", "2")], "a.jsonl: no row has all of text, summary"),
    ],
)
def test_refused_when_no_row_is_left(write, pairs, expected):
    with pytest.raises(DataError, match=expected):
        read_rows(write("a.jsonl", *pairs), ["text", "summary"], ["text", "summary"])


def test_a_row_without_a_language_is_refused(write, tmp_path):
    data = TextData(train_file="l.jsonl", validation_file="l.jsonl", lang_column="lang")
    (tmp_path / "l.jsonl").write_text(
        '{"text": "x", "lang": "uk"}\n{"text": "", "lang": ""}\n{"text": "y", "lang": null}'
    )
    with pytest.raises(DataError, match=r"l\.jsonl, line 3: column 'lang' is blank, and has to name a language"):
        read_text(data, 1)


def test_training_and_development_pairs_have_no_blanks(write, capsys):
    pairs = [(f"text {i}", "" if i % 2 else f"summary {i}") for i in range(48)]
    train, validation = read_pairs(PairData(train_file=write("train.jsonl", *pairs), validation_split=0.25), 1)
    assert (len(train), len(validation)) == (18, 6)
    assert all(row["summary"] for row in [*train, *validation])
    assert capsys.readouterr().err == "train.jsonl: 24 of 48 rows have a blank 'summary' and are left out.\n"


MOSTLY = {  # text: whether more than half of its characters, white space aside, are unknown
    GOOD: False, CHINESE: True, f"{GOOD} 委员": False, f"{CHINESE} files": True, "委员a": True, "委ab": False,
}  # fmt: skip


# WordPiece splits Chinese off as words, and may not know a single letter.
KINDS = {"mbart_tokenizer": set(), "xlmr_tokenizer": set(), "wordpiece_tokenizer": {"委员a", "委ab"}}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, not_told in KINDS.items() for text in MOSTLY
                                            if text not in not_told])  # fmt: skip
def test_what_is_mostly_unknown(request, text, kind):
    """The tiny tokenizers have learned no Chinese; characters are counted, not tokens, of which there is one."""
    tokenizer = request.getfixturevalue(kind)
    counter = Unwritable(tokenizer)
    counter.add([text], tokenizer([text], add_special_tokens=False)["input_ids"])
    assert (counter.texts, counter.lost) == (1, int(MOSTLY[text]))


def test_unknown_text_is_counted_and_kept(write, mbart_tokenizer, capsys):
    pairs = [(CHINESE if i < 5 else GOOD, CHINESE if i == 9 else GOOD) for i in range(20)]
    files = {"train_file": write("a.jsonl", *pairs), "validation_file": write("v.jsonl", (GOOD, GOOD))}
    data = PairData(**files, source_lang="uk")
    rows, _ = read_pairs(data, 1)
    assert len(pair_dataset(rows, data, mbart_tokenizer, 64, 64)) == 20
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2].partition(":")[0] for line in said] == [
        " 'text' is mostly <unk> in 5 of 20 rows", " 'summary' is mostly <unk> in 1 of 20 rows",
    ]  # fmt: skip
    text = TextData(train_file="a.jsonl", validation_file="v.jsonl")
    text_dataset(read_text(text, 1)[0], text, mbart_tokenizer, 64, coded=False)
    assert "a.jsonl: 'text' is mostly <unk> in 5 of 20 rows" not in capsys.readouterr().err  # was said


def test_text_that_is_unknown_in_every_row_is_refused(write, mbart_tokenizer, xlmr_tokenizer):
    data = PairData(train_file=write("a.jsonl", *[(GOOD, CHINESE)] * 3), validation_file="a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl: 'summary' is mostly <unk> in 3 of 3 rows.*nothing is left"):
        pair_dataset(read_pairs(data, 1)[0], data, mbart_tokenizer, 64, 64)
    text = TextData(train_file="a.jsonl", validation_file="a.jsonl", text_column="summary")
    with pytest.raises(DataError, match="'summary' is mostly <unk> in 3 of 3 rows"):
        text_dataset(read_text(text, 1)[0], text, xlmr_tokenizer, 64, coded=False)
    with pytest.raises(DataError, match="input: 'text' is mostly <unk> in 2 of 2 rows"):
        count_unwritable(mbart_tokenizer, [CHINESE, " ", CHINESE], "input", "text")

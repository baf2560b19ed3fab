"""Text datasets: tokens on disk, whatever the size of the text."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from polygraft.data.dataset import (
    TextDataset,
    numbered_languages,
    pair_dataset,
    read_pairs,
    read_text,
    text_dataset,
)
from polygraft.settings import PairData, TextData


def test_items_are_the_pieces_that_went_in():
    random = np.random.default_rng(0)
    pieces = [(random.integers(0, 250_000, n).astype(np.int32), n % 3) for n in (5, 1, 30, 0, 2)]
    data = TextDataset(pieces)
    assert len(data) == 5
    for item, (tokens, language) in zip((data[i] for i in range(5)), pieces, strict=True):
        assert item["input_ids"].tolist() == tokens.tolist()
        assert item["language"] == language
    assert data.lengths.tolist() == [[7], [3], [32], [2], [4]]
    assert len(TextDataset([])) == 0


def test_pieces_and_pairs_know_their_rows(tmp_path, xlmr_tokenizer, mbart_tokenizer):
    """What an error names: long documents have several pieces, ids are the rows' own or their numbers."""
    rows = [
        {"text": "файл " * (1 + 30 * (i % 2)), "summary": "x", **({"id": "own"} if i == 3 else {})} for i in range(6)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = TextData(train_file=str(tmp_path / "t.jsonl"), validation_split=0.2, lang="uk")
    read, _ = read_text(text, 1)
    data = text_dataset(read, text, xlmr_tokenizer, 16, coded=False)
    assert len(data) > len(read)
    names = data.names(range(len(data)))
    assert names == [f"row {row['id']}" for row in read]
    pairs = PairData(train_file=str(tmp_path / "t.jsonl"), source_lang="uk", validation_split=0.2)
    read, _ = read_pairs(pairs, 1)
    made = pair_dataset(read, pairs, mbart_tokenizer, 16, 16)
    assert made.names([2, 0]) == [f"row {read[2]['id']}", f"row {read[0]['id']}"]


def test_memory_does_not_grow_with_the_text():
    def peak(pieces: int) -> int:
        tracemalloc.start()
        TextDataset((np.zeros(1000, np.int32), -1) for _ in range(pieces))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(2000) < peak(100) + 2000 * 1000  # two million tokens are 8 MB; two numbers per piece stay


@pytest.mark.parametrize("coded", [False, True])
def test_documents_are_cut_to_the_length_and_keep_their_language(mbart_tokenizer, coded):
    rows = [{"text": "a b c d e f g h", "lang": "uk"}, {"text": "a", "lang": "fr"}]
    text = TextData(train_file="", lang_column="lang")
    data = text_dataset(rows, text, mbart_tokenizer, 7, coded)
    ids = mbart_tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"]
    assert [len(data[i]["input_ids"]) for i in range(len(data))] == [
        min(5, len(one) - start) for one in ids for start in range(0, len(one), 5)
    ]
    assert np.concatenate([data[i]["input_ids"] for i in range(len(data))]).tolist() == [i for one in ids for i in one]
    languages = [data[i]["language"] for i in (0, len(data) - 1)]
    assert languages == ([mbart_tokenizer.convert_tokens_to_ids(c) for c in ("uk_UA", "fr_XX")] if coded else [-1, -1])


def test_languages_are_numbered_by_what_their_names_mean():
    """Of cut texts each piece has its row's; a region makes no other language, a script does."""
    names = ["uk", "de", "uk_UA", "ukr_Cyrl", "sr_Latn", "sr", "DE", "no such language"]
    rows = [{"lang": name} for name in names]
    places = SimpleNamespace(places=[0, 0, 1, 2, 3, 4, 5, 6, 7])
    assert numbered_languages(rows, ["lang"], places).tolist() == [0, 0, 1, 0, 0, 2, 3, 1, 4]

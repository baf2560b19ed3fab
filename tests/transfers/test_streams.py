"""Texts are read as streams: ten times the text does not take ten times the memory."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from polygraft.data.reading import Rows
from polygraft.models.trimming import needed_ids
from polygraft.settings import TextData
from polygraft.stages.transfer import load_inputs
from polygraft.transfers.methods import EmbeddingsTransfer
from polygraft.transfers.states.alignment import align
from polygraft.transfers.states.distill import texts_of

SMALL = 1200
GROWTH = 1.5e6  # bytes; the rest of the long text's rows would be 4 MB and more, as lists of strings alone


@pytest.fixture(scope="module")
def texts(tmp_path_factory, sentences):
    """Two files of JSON lines, one with ten times the rows of the other."""
    folder = tmp_path_factory.mktemp("texts")
    for name, rows in (("short", SMALL), ("long", 10 * SMALL)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(rows):
                row = {"text": f"{i} {sentences[i % len(sentences)]}", "lang": "uk"}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def peak_bytes(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def grows(texts, work) -> float:
    """How much more memory the long text takes; a first run loads what is loaded once."""
    work(str(texts / "short.jsonl"))
    short, long = (peak_bytes(lambda name=name: work(str(texts / f"{name}.jsonl"))) for name in ("short", "long"))
    return long - short


def test_trim(texts, mbart_tokenizer):
    def work(file):
        needed_ids(mbart_tokenizer, (row["text"] for row in Rows(file, ["text"], ["text"])))

    assert grows(texts, work) < GROWTH


def test_transfer(texts, tiny_xlmr_dir, tiny_mbart_dir):
    def work(file):
        text = TextData(train_file=file, lang_column="lang")
        load_inputs(EmbeddingsTransfer(mode="repair"), None, str(tiny_xlmr_dir), str(tiny_mbart_dir), text, seed=1)

    assert grows(texts, work) < GROWTH


def test_alignment_of_some_tokens(texts, xlmr_tokenizer, mbart_tokenizer):
    def work(file):
        both = texts_of(TextData(train_file=file, lang="uk"), 1)
        align(xlmr_tokenizer, mbart_tokenizer, *both, max_length=64, tokens=3000)

    assert grows(texts, work) < GROWTH


def test_streams_are_aligned_as_lists_are(texts, xlmr_tokenizer, mbart_tokenizer, monkeypatch):
    monkeypatch.setattr("polygraft.transfers.states.alignment.PER_PASS", 64)
    stream, languages = texts_of(TextData(train_file=str(texts / "short.jsonl"), lang_column="lang"), 1)
    listed = list(stream), list(languages)
    assert len(stream) == len(listed[0]) == SMALL - SMALL // 20
    for tokens in (5_000, None):
        found = [
            align(xlmr_tokenizer, mbart_tokenizer, *both, max_length=64, tokens=tokens)
            for both in ((stream, languages), listed)
        ]
        numbers = [[one.number for one in documents] for documents in found]
        assert numbers[0] == numbers[1] == sorted(numbers[0])
        assert all(a.source == b.source for a, b in zip(*found, strict=True))
        assert all(np.array_equal(a.target_places, b.target_places) for a, b in zip(*found, strict=True))
    assert len(set(numbers[0])) == len(stream)

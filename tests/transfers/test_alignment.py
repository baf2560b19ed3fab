"""Both models' positions of the same token, for both mBART families."""

from __future__ import annotations

import copy

import pytest
from transformers import MBartTokenizer
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.errors import DataError
from polygraft.transfers.states import alignment
from polygraft.transfers.states.alignment import align, batches


@pytest.fixture
def cc25(pieces):
    vocab, charsmap = pieces
    codes = ((code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES[:25])
    return MBartTokenizer(vocab=[*vocab, *codes, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)


def tokens_at_places(tokenizer, ids, places):
    return [tokenizer.convert_ids_to_tokens(ids)[place] for place in places]


@pytest.mark.parametrize("family", ["50", "cc25"])
def test_places_hold_the_same_tokens_and_nothing_else(family, xlmr_tokenizer, mbart_tokenizer, cc25, sentences):
    target = mbart_tokenizer if family == "50" else cc25
    documents = align(xlmr_tokenizer, target, sentences[:3], ["en"] * 3, max_length=64, tokens=10**6)
    texts = {tuple(xlmr_tokenizer(text)["input_ids"]): text for text in sentences[:3]}
    code = target.convert_tokens_to_ids("en_XX")
    assert len(documents) == 3
    for document in documents:
        text = texts[tuple(document.source)]  # as the tokenizer itself wraps it: <s> X </s>
        content = target(text, add_special_tokens=False)["input_ids"]
        assert len(content) > 15
        assert document.target == ([code, *content, 2] if family == "50" else [*content, 2, code])
        assert list(document.source_places) == list(range(1, len(content) + 1))
        shift = 0 if family == "50" else 1  # cc25 reads everything one position earlier
        assert list(document.target_places + shift) == list(document.source_places)
        found = [
            tokens_at_places(tokenizer, ids, places)
            for tokenizer, ids, places in (
                (xlmr_tokenizer, document.source, document.source_places),
                (target, document.target, document.target_places),
            )
        ]
        assert found[0] == found[1] == xlmr_tokenizer.tokenize(text)


def test_tokens_that_only_one_side_has_are_left_out(xlmr_tokenizer, mbart_tokenizer, sentences):
    """An added word and characters unknown to both: what stands around them still counts."""
    text = "The library Ω. It reads 漢 files."
    source = copy.deepcopy(xlmr_tokenizer)
    source.add_tokens(["reads"])
    (document,) = align(source, mbart_tokenizer, [text], ["en"], max_length=64, tokens=100)
    alike = tokens_at_places(source, document.source, document.source_places)
    assert alike == tokens_at_places(mbart_tokenizer, document.target, document.target_places)
    left_out = [
        source.convert_ids_to_tokens(i) for n, i in enumerate(document.source) if n not in document.source_places
    ]
    assert left_out == ["<s>", "<unk>", "reads", "<unk>", "</s>"]


def test_long_documents_are_cut_and_enough_is_enough(xlmr_tokenizer, mbart_tokenizer, sentences, monkeypatch):
    documents = align(xlmr_tokenizer, mbart_tokenizer, sentences, ["en"] * 12, max_length=10, tokens=20)
    assert [len(document.source) for document in documents] == [10, 10, 10]  # 8 tokens each
    assert all(len(document.target) == 10 for document in documents)
    again = align(xlmr_tokenizer, mbart_tokenizer, sentences, ["en"] * 12, max_length=10, tokens=20)
    assert [d.source for d in again] == [d.source for d in documents]
    monkeypatch.setattr(alignment, "SEED", 1)
    other = align(xlmr_tokenizer, mbart_tokenizer, sentences, ["en"] * 12, max_length=10, tokens=20)
    assert [d.source for d in other] != [d.source for d in documents]


def test_batches_hold_every_aligned_token_once_within_the_budget(xlmr_tokenizer, mbart_tokenizer, sentences):
    documents = align(xlmr_tokenizer, mbart_tokenizer, sentences, ["uk"] * 12, max_length=64, tokens=10**6)
    expected = sorted(d.source[place] for d in documents for place in d.source_places)
    found = []
    for batch in batches(documents, 1, 1, max_tokens=100):
        assert batch.source_ids.numel() <= 100 or len(batch.source_ids) == 1
        source, target = batch.source_ids.flatten()[batch.source_places], batch.target_ids.flatten()
        assert source.tolist() == target[batch.target_places].tolist()  # below the tails, ids coincide
        assert batch.source_mask.sum() == (batch.source_ids != 1).sum()
        found += source.tolist()
    assert sorted(found) == expected


def test_an_unknown_language_is_refused(xlmr_tokenizer, mbart_tokenizer, sentences):
    with pytest.raises(DataError, match="language 'tlh' is not one of the target model's"):
        align(xlmr_tokenizer, mbart_tokenizer, sentences[:2], ["en", "tlh"], max_length=64, tokens=100)

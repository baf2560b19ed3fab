"""The vocabulary map, on tiny tokenizers of the real classes in the real layouts."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import XLMRobertaTokenizer

from polygraft.errors import TransferError
from polygraft.models.vocabulary import alike_share, check_vocabularies, map_vocabularies, script_of, token_counts

CLASSES = ("same", "moved", "pad", "language_code", "only_in_target", "unused")


@pytest.fixture
def pair(mbart_tokenizer, xlmr_tokenizer):
    return map_vocabularies(
        mbart_tokenizer, len(mbart_tokenizer) + 3, xlmr_tokenizer, len(xlmr_tokenizer)
    )  # 3 padding rows, as models whose vocabulary is rounded up have


def test_mask_of_the_source_is_the_first_language_code_of_the_target(pair, mbart_tokenizer, xlmr_tokenizer):
    mask_a, mask_b = xlmr_tokenizer.mask_token_id, mbart_tokenizer.mask_token_id
    assert mbart_tokenizer.convert_ids_to_tokens(mask_a) == "ar_AR"  # the collision that a prefix copy falls for
    assert pair.moved.tolist() == [mask_b]
    assert pair.source_of[mask_b] == mask_a
    assert pair.source_of[mask_a] == -1
    assert mask_a in pair.language_code


def test_every_target_row_is_in_exactly_one_class(pair, mbart_tokenizer):
    rows = np.concatenate([getattr(pair, name) for name in CLASSES])
    assert np.array_equal(np.sort(rows), np.arange(len(mbart_tokenizer) + 3))
    assert all(getattr(pair, name).dtype == np.int64 for name in (*CLASSES, "source_of", "only_in_source"))
    assert pair.unused.tolist() == [len(mbart_tokenizer) + i for i in range(3)]
    assert len(pair.language_code) == 53  # mBART-50's 52 and da_DK, which was added after <mask>
    assert len(mbart_tokenizer) - 1 in pair.language_code
    assert pair.pad.tolist() == [1]
    assert pair.shared_share == 1.0
    assert pair.only_in_source.tolist() == [1]  # <pad>, which is in both but mapped in neither


def test_mapped_rows_are_the_same_strings(pair, mbart_tokenizer, xlmr_tokenizer):
    mapped = np.flatnonzero(pair.source_of >= 0)
    ours = mbart_tokenizer.convert_ids_to_tokens(mapped.tolist())
    assert ours == xlmr_tokenizer.convert_ids_to_tokens(pair.source_of[mapped].tolist())
    assert len(mapped) == len(xlmr_tokenizer) - 1
    assert np.array_equal(mapped, np.sort(np.concatenate([pair.same, pair.moved])))


def test_ordinary_rows_are_the_pieces(pair, mbart_tokenizer, xlmr_tokenizer):
    assert np.array_equal(pair.ordinary, np.arange(4, len(xlmr_tokenizer) - 1))


def test_rows_that_only_one_side_has(pieces, mbart_tokenizer):
    vocab, charsmap = pieces
    smaller = [*vocab[:-30], ("newpiece", -9.0), ("<mask>", 0.0)]
    source = XLMRobertaTokenizer(vocab=smaller, _spm_precompiled_charsmap=charsmap)
    vocabulary = map_vocabularies(mbart_tokenizer, len(mbart_tokenizer), source, len(source))
    lost = mbart_tokenizer.convert_tokens_to_ids([piece for piece, _ in vocab[-30:]])
    assert vocabulary.only_in_target.tolist() == lost
    assert source.convert_tokens_to_ids("newpiece") in vocabulary.only_in_source


def test_without_a_source_all_tokens_are_only_in_the_target(mbart_tokenizer, xlmr_tokenizer):
    vocabulary = map_vocabularies(mbart_tokenizer, len(mbart_tokenizer))
    assert (vocabulary.source_of == -1).all()
    assert np.array_equal(vocabulary.ordinary, np.arange(4, len(xlmr_tokenizer) - 1))


@pytest.mark.parametrize("side", ["target", "source"])
def test_matrix_smaller_than_its_tokenizer_is_refused(side, mbart_tokenizer, xlmr_tokenizer):
    rows = {"target": len(mbart_tokenizer), "source": len(xlmr_tokenizer)}
    rows[side] -= 1
    with pytest.raises(TransferError, match=f"the {side}'s tokenizer has id {rows[side]}"):
        map_vocabularies(mbart_tokenizer, rows["target"], xlmr_tokenizer, rows["source"])


def test_token_counts(mbart_tokenizer, sentences):
    counts = token_counts(mbart_tokenizer, [*sentences, sentences[0]], rows=len(mbart_tokenizer) + 3)
    once = mbart_tokenizer(sentences, add_special_tokens=False)["input_ids"]
    expected = [0] * (len(mbart_tokenizer) + 3)
    for document in [*once, once[0]]:
        for token in document:
            expected[token] += 1
    assert counts.tolist() == expected
    assert counts.dtype == np.int64


def test_segmentation_alike(mbart_tokenizer, xlmr_tokenizer, pieces, sentences):
    assert alike_share(xlmr_tokenizer, mbart_tokenizer, sentences) == 1.0
    vocab, charsmap = pieces
    # without its long pieces, a tokenizer splits nearly every sentence differently
    short = [*vocab[:4], *(p for p in vocab[4:] if len(p[0]) < 3), ("<mask>", 0.0)]
    other = XLMRobertaTokenizer(vocab=short, _spm_precompiled_charsmap=charsmap)
    assert alike_share(other, mbart_tokenizer, sentences) < 0.5
    with pytest.raises(TransferError, match="no sample text"):
        alike_share(xlmr_tokenizer, mbart_tokenizer, [])


@pytest.mark.parametrize(
    ("shared", "alike", "outcome"),
    [(1.0, 1.0, []), (0.4, 1.0, "40.0% of the target's tokens"), (1.0, 0.8, ["only 80.0% of the sample texts"]),
     (0.7, 1.0, ["only 70.0% of the target's tokens"]), (1.0, 0.95, ["only 95.0% of the sample texts"])],
)  # fmt: skip
def test_thresholds(pair, shared, alike, outcome):
    class WithShare:
        shared_share = shared

    if isinstance(outcome, str):
        with pytest.raises(TransferError, match=outcome):
            check_vocabularies(WithShare(), alike)
    else:
        found = check_vocabularies(WithShare(), alike)
        assert len(found) == len(outcome)
        assert all(have.startswith(want) for have, want in zip(found, outcome, strict=True))


@pytest.mark.parametrize(
    ("token", "script"),
    [("▁the", "LATIN"), ("▁Їжак", "CYRILLIC"), ("ή", "GREEK"), ("パ", "KATAKANA"), ("圧縮", "CJK"), ("압", "HANGUL"),
     ("यह", "DEVANAGARI"), ("هذه", "ARABIC"), ("3.5", "none"), ("▁", "none"), ("", "none"), ("1é", "LATIN")],
)  # fmt: skip
def test_scripts(token, script):
    assert script_of(token) == script

"""What is measured, beside plain Hugging Face models that read one unpadded sequence at a time."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import MBartTokenizer, XLMRobertaForMaskedLM

from polygraft.data.layout import is_cc25
from polygraft.errors import CheckpointError
from polygraft.measure.losses import (
    denoising,
    masked_passes,
    mbart_task,
    noisy,
    other_documents,
    pseudo_likelihood,
)
from polygraft.measure.pieces import Piece, cut


@pytest.fixture
def texts(sentences):
    """Documents of three to eight sentences, none with a word of more than 16 characters."""
    spaced = [s for s in sentences if max(map(len, s.split())) <= 16 and s.isprintable() and "発" not in s]
    return [" ".join(spaced[start : start + size]) for start, size in ((0, 3), (2, 5), (1, 4), (4, 2))]


@pytest.fixture
def long_xlmr(tiny_xlmr):
    """With room for a hundred words."""
    torch.manual_seed(3)
    config = tiny_xlmr.config
    config.max_position_embeddings = 402
    return loud(XLMRobertaForMaskedLM(config).eval())


@pytest.fixture
def short_texts(sentences):
    return sentences[:4]


def loud(model):
    """With weights large enough that what is visible matters for every prediction."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                parameter.mul_(8)
    return model


def words_of(tokenizer, text):
    """The positions of each word's tokens among the text's, by the spaces before a token's last character."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    words = {}
    for position, (_, end) in enumerate(offsets):
        words.setdefault(text[: max(0, end - 1) + 1].count(" "), []).append(position)
    return words


def reference_bits(model, tokenizer, text, document, every, most):
    """-log2 p of the words asked for: each in turn uncovered from the left, in readings of at most `most` words."""
    ids = tokenizer(text)["input_ids"]
    words = {number: tokens for number, tokens in words_of(tokenizer, text).items() if (number + document) % every == 0}
    bits, asked = 0.0, []
    for step in range(max(map(len, words.values()), default=0)):
        left = [tokens for tokens in words.values() if len(tokens) > step]
        readings = math.ceil(len(left) / most)
        for reading in range(readings):
            group = left[reading::readings]
            hidden = list(ids)
            for tokens in group:
                for position in tokens[step:]:
                    hidden[position + 1] = tokenizer.mask_token_id
            with torch.no_grad():
                log_p = model(torch.tensor([hidden])).logits[0].double().log_softmax(-1)
            for tokens in group:
                place = tokens[step] + 1
                bits -= float(log_p[place, ids[place]]) / math.log(2)
                asked.append(tokens[step])
    return bits, asked


@pytest.mark.parametrize("every", [1, 3])
def test_pseudo_likelihood_equals_brute_force(long_xlmr, xlmr_tokenizer, texts, every):
    pieces = cut(xlmr_tokenizer, texts, 400)
    assert len(pieces) == len(texts), "each text is one piece here"
    passes = [one for piece in pieces for one in masked_passes(piece, every)]
    found = pseudo_likelihood(long_xlmr, xlmr_tokenizer, passes, len(texts))
    for document, text in enumerate(texts):
        most = max(1, len(words_of(xlmr_tokenizer, text)) // 7)
        bits, asked = reference_bits(long_xlmr, xlmr_tokenizer, text, document, every, most)
        other, _ = reference_bits(long_xlmr, xlmr_tokenizer, text, document, every, 1000)
        assert found.bits[document] == pytest.approx(bits, rel=1e-6)  # measured: 5e-9
        assert abs(other / bits - 1) > 1e-3, "what is hidden beside a word has to matter, or this shows nothing"
        assert found.tokens[document] == len(asked) == len(set(asked))
        if every == 1:
            assert found.tokens[document] == len(pieces[document])
            assert found.characters[document] == len(text)
    assert found.tokens.sum() > 0


def test_every_word_is_asked_for_once_and_a_seventh_is_hidden(xlmr_tokenizer, texts):
    for piece in cut(xlmr_tokenizer, texts, 400):
        passes = list(masked_passes(piece, 1))
        assert Counter(np.concatenate([one.asked for one in passes]).tolist()) == Counter(range(len(piece)))
        words = len(set(piece.words))
        for one in passes:
            assert len(set(piece.words[one.hidden])) == len(one.asked) <= max(1, words // 7)
            assert set(one.asked) <= set(one.hidden)


def test_the_same_words_are_asked_for_whatever_the_tokenizer(xlmr_tokenizer, wordpiece_tokenizer, texts):
    for document, text in enumerate(texts):
        spelled = []
        for tokenizer in (xlmr_tokenizer, wordpiece_tokenizer):
            piece = cut(tokenizer, texts, 500)[document]
            asked = np.concatenate([one.asked for one in masked_passes(piece)])
            spans = np.cumsum(piece.characters)
            covered = set()
            for position in asked:
                covered |= set(range(spans[position] - piece.characters[position], spans[position]))
            spelled.append({place for place in covered if not text[place].isspace()})
        assert spelled[0] == spelled[1]
        assert spelled[0]


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_pseudo_likelihood_does_not_depend_on_batches(long_xlmr, xlmr_tokenizer, texts, batch_tokens):
    passes = [one for piece in cut(xlmr_tokenizer, texts, 40) for one in masked_passes(piece)]
    whole = pseudo_likelihood(long_xlmr, xlmr_tokenizer, passes, len(texts))
    other = pseudo_likelihood(long_xlmr, xlmr_tokenizer, passes, len(texts), batch_tokens=batch_tokens)
    np.testing.assert_allclose(other.bits, whole.bits, rtol=1e-6)  # measured: 1e-8


def test_unknown_tokens_cost_their_spelling(long_xlmr, xlmr_tokenizer, texts):
    texts = [f"{text} ☃☄ ☃" for text in texts]
    found = []
    for spelled in (False, True):
        pieces = cut(xlmr_tokenizer, texts, 400, spelled)
        passes = [one for piece in pieces for one in masked_passes(piece, 1)]
        found.append(pseudo_likelihood(long_xlmr, xlmr_tokenizer, passes, len(texts)).bits)
    added = np.array([piece.spelling.sum() for piece in pieces])
    assert (added > 0).all()
    np.testing.assert_allclose(found[1] - found[0], added, rtol=1e-6)


def test_a_tokenizer_without_mask_is_refused(long_xlmr, mbart_tokenizer, monkeypatch):
    monkeypatch.setattr(type(mbart_tokenizer), "mask_token_id", None, raising=False)
    with pytest.raises(CheckpointError, match="has no mask token"):
        pseudo_likelihood(long_xlmr, mbart_tokenizer, [], 1)


@pytest.fixture(params=["50", "cc25"])
def target(request, tiny_mbart, mbart_tokenizer, pieces):
    """A tiny mBART with the tokenizer of either family."""
    model = loud(tiny_mbart)
    if request.param == "50":
        return model, mbart_tokenizer
    vocab, _ = pieces
    return model, MBartTokenizer(vocab=[*vocab, ("<mask>", 0.0)], src_lang="en_XX", tgt_lang="en_XX")


def test_denoising_equals_the_models_own_loss(target, short_texts):
    model, tokenizer = target
    objective, code = (
        mbart_task(tokenizer),
        tokenizer.convert_tokens_to_ids("uk_UA" if not is_cc25(tokenizer) else "ru_RU"),
    )
    pieces = cut(tokenizer, short_texts, 60)
    assert len(pieces) == len(short_texts)
    sources, missing = noisy(objective, pieces, 3)
    found = denoising(model, objective, pieces, [code] * len(short_texts), seed=3)
    for i, piece in enumerate(pieces):
        wrap = objective.layout.wrap
        labels = wrap(piece.ids.tolist(), code)
        text = slice(1, None) if objective.layout.language_first else slice(None, -1)
        for source, bits in ((i, found.bits), ((i + 1) % len(pieces), found.other_bits)):
            with torch.no_grad():
                # the model shifts the labels itself
                logits = model(
                    input_ids=torch.tensor([wrap(sources[source], code)]), labels=torch.tensor([labels])
                ).logits
            log_p = logits[0].double().log_softmax(-1)
            losses = -log_p[torch.arange(len(labels)), torch.tensor(labels)].numpy() / math.log(2)
            assert bits[i] == pytest.approx(losses[text].sum(), rel=1e-6)  # measured: 1e-8
            if source == i:
                assert found.removed_bits[i] == pytest.approx(losses[text][:-1][missing[i]].sum(), rel=1e-6)
        assert found.removed_tokens[i] == missing[i].sum() > 0
        assert found.removed_characters[i] == piece.characters[missing[i]].sum()
    assert np.abs(found.other_bits / found.bits - 1).max() > 1e-3


@pytest.mark.parametrize("batch_tokens", [1, 150])
def test_denoising_does_not_depend_on_batches(tiny_mbart, mbart_tokenizer, short_texts, batch_tokens):
    objective, codes = (
        mbart_task(mbart_tokenizer),
        [mbart_tokenizer.convert_tokens_to_ids("uk_UA")] * len(short_texts),
    )
    pieces, model = cut(mbart_tokenizer, short_texts, 20), loud(tiny_mbart)
    assert len(pieces) > len(short_texts)
    whole = denoising(model, objective, pieces, codes)
    other = denoising(model, objective, pieces, codes, batch_tokens=batch_tokens)
    for name in ("bits", "removed_bits", "other_bits"):
        np.testing.assert_allclose(
            getattr(other, name), getattr(whole, name), rtol=1e-6, err_msg=name
        )  # measured: 2e-8


OTHERS = {
    "the next document": ([0, 1, 2], "aaa", [1, 2, 0]),
    "not another piece of its own": ([0, 0, 1], "aaa", [2, 2, 0]),
    "of the same language": ([0, 1, 2, 3], "abab", [2, 3, 0, 1]),
    "none": ([0, 0, 1], "aab", [-1, -1, -1]),
}


@pytest.mark.parametrize(("documents", "codes", "others"), OTHERS.values(), ids=OTHERS)
def test_other_documents(documents, codes, others):
    empty = np.zeros(0)
    pieces = [
        Piece(document=document, ids=empty, characters=empty, words=empty, spelling=empty) for document in documents
    ]
    assert other_documents(pieces, [ord(code) for code in codes]) == others


def test_reliance_is_unknown_for_a_single_document(tiny_mbart, mbart_tokenizer, short_texts):
    codes = mbart_tokenizer.convert_tokens_to_ids(["uk_UA", "pl_PL", "uk_UA", "uk_UA"])
    found = denoising(tiny_mbart, mbart_task(mbart_tokenizer), cut(mbart_tokenizer, short_texts, 60), codes)
    assert np.isnan(found.other_bits).tolist() == [False, True, False, False]
    assert np.isfinite(found.bits).all()

"""The real 250,002 pieces in all three layouts: XLM-R, mBART-cc25, mBART-50."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from polygraft.models import checkpoints
from polygraft.models.tokenizers import keep_ids
from polygraft.models.trimming import needed_ids, restore, trim
from polygraft.models.vocabulary import alike_share, check_vocabularies, map_vocabularies

MBARTS = ("mbart-large-cc25", "mbart-large-50")
ODD_TEXT = "ﬁle ２ ① ㌔"  # only a tokenizer that normalizes knows these characters
CLASSES = ("same", "moved", "pad", "language_code", "only_in_target", "unused")


@pytest.fixture(scope="module")
def load(published):
    """Loads a tokenizer once."""
    cache = {}

    def _load(name, **changes):
        key = (name, *changes.items())
        if key not in cache:
            cache[key] = checkpoints.load_tokenizer(str(published(name, **changes)))
        return cache[key]

    return _load


# Ids as in the published vocabularies: pieces from 4 to 250000, then codes, then <mask>.
@pytest.mark.parametrize(
    ("name", "changes", "kind", "size", "codes", "mask"),
    [
        ("xlm-roberta-base", {}, "XLMRobertaTokenizer", 250002, {}, 250001),
        ("multilingual-e5-small", {}, "XLMRobertaTokenizer", 250002, {}, 250001),
        ("mbart-large-cc25", {}, "MBartTokenizer", 250027, {"ar_AR": 250001, "zh_CN": 250025}, 250026),
        ("mbart-large-50", {}, "MBart50Tokenizer", 250054, {"ar_AR": 250001, "sl_SI": 250052}, 250053),
        ("mbart-large-50", {"tokenizer_class": None}, "MBart50Tokenizer", 250054, {"uk_UA": 250048}, 250053),
    ],
)
def test_layouts(load, name, changes, kind, size, codes, mask):
    tokenizer = load(name, **changes)
    assert (type(tokenizer).__name__, len(tokenizer)) == (kind, size)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", ",", "▁the", "稣"]) == [
        0, 1, 2, 3, 4, 70, 250000
    ]  # fmt: skip
    assert {code: tokenizer.convert_tokens_to_ids(code) for code in codes} == codes
    assert tokenizer.mask_token_id == mask
    assert tokenizer.unk_token_id not in tokenizer(ODD_TEXT)["input_ids"]


def test_plain_cc25_class_loses_the_normalizer(published):
    """The trap itself: should this fail, transformers was mended and `right_tokenizer` may go."""
    plain = AutoTokenizer.from_pretrained(published("mbart-large-cc25"))
    assert plain.unk_token_id in plain(ODD_TEXT)["input_ids"]


@pytest.mark.parametrize(("name", "rows", "codes"), [("mbart-large-cc25", 250027, 25), ("mbart-large-50", 250054, 52)])
def test_every_id_from_xlmr_has_one_class(load, name, rows, codes):
    target, source = load(name), load("xlm-roberta-base")
    vocabulary = map_vocabularies(target, rows, source, 250002)
    together = np.concatenate([getattr(vocabulary, c) for c in CLASSES])
    assert np.array_equal(np.sort(together), np.arange(rows))
    assert np.array_equal(vocabulary.same, np.setdiff1d(np.arange(250001), [1]))  # all in place but <pad>
    assert vocabulary.moved.tolist() == [target.mask_token_id] and vocabulary.source_of[target.mask_token_id] == 250001
    assert np.array_equal(vocabulary.language_code, np.arange(250001, 250001 + codes))
    assert vocabulary.only_in_source.tolist() == vocabulary.pad.tolist() == [1]
    assert not len(vocabulary.only_in_target) and not len(vocabulary.unused)
    assert vocabulary.source_of[250001] == -1  # ar_AR, where a prefix copy would put <mask>
    assert check_vocabularies(vocabulary, 1.0) == []


def test_all_three_split_real_text_alike(load, real_sentences):
    source = load("xlm-roberta-base")
    for name in ("mbart-large-cc25", "mbart-large-50"):
        assert alike_share(source, load(name), real_sentences) == 1.0


def test_extended_xlmr_keeps_the_shared_rows_and_warns(published, load, real_sentences):
    source = checkpoints.load_tokenizer(str(published("xlm-roberta-base", vocab_size=250010)))
    new = ["Bibliothek", "package", "paquet", "Dieses", "this", "Це", "Bibliothèque", "données"]
    source.add_tokens(new)  # two of them are pieces already
    assert len(source) == 250008
    target = load("mbart-large-50")
    vocabulary = map_vocabularies(target, 250054, source, 250010)
    assert len(vocabulary.same) == 250000 and vocabulary.moved.tolist() == [250053]
    assert vocabulary.only_in_source.tolist() == [1, *range(250002, len(source))]
    alike = alike_share(source, target, real_sentences)
    assert 0.5 < alike < 0.99
    assert [w.split(" of the")[0] for w in check_vocabularies(vocabulary, alike)] == [f"only {alike:.1%}"]


def test_bert_class_encoder_with_the_xlmr_vocabulary(published, load):
    """multilingual-e5 and multilingual MiniLM: a BertModel, whose matrix has rows beyond the tokenizer."""
    source = load("multilingual-e5-small")
    model = checkpoints.load_masked_lm(str(published("multilingual-e5-small")))
    rows = len(model.get_input_embeddings().weight)
    vocabulary = map_vocabularies(load("mbart-large-50"), 250054, source, rows)
    assert rows == 250037
    assert len(vocabulary.same) == 250000 and vocabulary.moved.tolist() == [250053]


@pytest.mark.parametrize("name", ["xlm-roberta-base", "mbart-large-cc25", "mbart-large-50", "multilingual-e5-small"])
def test_trimmed_tokenizer_splits_the_text_as_the_full_one(load, real_sentences, name):
    full = load(name)
    kept = needed_ids(full, real_sentences)
    trimmed = keep_ids(full, kept)
    assert 13828 < len(trimmed) == len(kept) < 30000  # XLM-R has 13,828 pieces of one character
    assert trimmed.convert_ids_to_tokens(range(len(kept))) == full.convert_ids_to_tokens(kept.tolist())
    before = full(real_sentences)["input_ids"]
    after = trimmed(real_sentences)["input_ids"]
    assert [kept[ids].tolist() for ids in after] == before
    characters = "".join(chr(c) for c in range(0x20, 0x3000) if full.unk_token_id not in full(chr(c))["input_ids"])
    assert trimmed.unk_token_id not in trimmed(" ".join(characters))["input_ids"]


@pytest.mark.parametrize("name", ["xlm-roberta-base", *MBARTS, "multilingual-e5-small"])
def test_trim_then_restore_is_the_identity(published, load, real_sentences, name):
    folder = str(published(name))
    model, tokenizer = checkpoints.load_any(folder), load(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    small_tokenizer = trim(model, tokenizer, real_sentences[:50])
    full = checkpoints.load_any(folder)
    restore(model, small_tokenizer, full, tokenizer)
    assert all(torch.equal(tensor, before[key]) for key, tensor in full.state_dict().items())

    kept = needed_ids(tokenizer, real_sentences[:50])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    restore(model, small_tokenizer, full, tokenizer)
    rows, old = full.get_input_embeddings().weight, before[_embedding_name(full)]
    untouched = np.setdiff1d(np.arange(len(rows)), kept)
    assert torch.equal(rows[untouched], old[untouched])
    assert torch.allclose(rows[kept], old[kept] + 1.0)


def _embedding_name(model):
    matrix = model.get_input_embeddings().weight
    return next(name for name, tensor in model.state_dict().items() if tensor.data_ptr() == matrix.data_ptr())


@pytest.mark.parametrize("name", ["xlm-roberta-base", "mbart-large-cc25", "mbart-large-50"])
def test_trimmed_checkpoint_is_a_plain_one_with_the_same_logits(published, load, real_sentences, name, tmp_path):
    folder = str(published(name))
    full, tokenizer = checkpoints.load_any(folder).eval(), load(name)
    small = checkpoints.load_any(folder)
    small_tokenizer = trim(small, tokenizer, real_sentences)
    checkpoints.save(small, small_tokenizer, tmp_path)
    plain_class = AutoModelForSeq2SeqLM if full.config.is_encoder_decoder else AutoModelForMaskedLM
    plain, plain_tokenizer = plain_class.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert plain_tokenizer.get_vocab() == small_tokenizer.get_vocab()
    kept = needed_ids(tokenizer, real_sentences)
    text = real_sentences[700]
    wide, narrow = tokenizer(text, return_tensors="pt"), plain_tokenizer(text, return_tensors="pt")
    assert kept[narrow["input_ids"][0]].tolist() == wide["input_ids"][0].tolist()
    with torch.no_grad():
        expected, found = full(**wide).logits[..., kept], plain(**narrow).logits
    assert torch.allclose(found, expected, atol=1e-6)  # measured: 0 to 6e-8
    assert plain.config.vocab_size == len(kept)


def test_source_and_target_keep_the_same_pieces(load, real_sentences):
    source, target = load("xlm-roberta-base"), load("mbart-large-50")
    pieces = [
        set(t.convert_ids_to_tokens(needed_ids(t, real_sentences).tolist())) - set(t.all_special_tokens)
        for t in (source, target)
    ]
    assert pieces[0] == pieces[1]

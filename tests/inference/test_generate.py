"""inference/generate.py against plain transformers: same ids in, same text out, in the order of the inputs."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MBartTokenizer

from polygraft.errors import CheckpointError, DataError
from polygraft.inference.engine import generate_texts
from polygraft.inference.generate import decode, encode_sources, language_arguments
from polygraft.settings import Evaluate

BEAMS = Evaluate(num_beams=3, max_new_tokens=12, no_repeat_ngram_size=2, per_device_eval_batch_size=4)


@pytest.fixture
def sharp_mbart(tiny_mbart):
    """tiny_mbart with larger weights, so that its outputs depend on the input and no two beams tie."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in tiny_mbart.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    return tiny_mbart


@pytest.fixture
def sharp_dir(sharp_mbart, mbart_tokenizer, tmp_path):
    sharp_mbart.save_pretrained(tmp_path / "sharp")
    mbart_tokenizer.save_pretrained(tmp_path / "sharp")
    return tmp_path / "sharp"


def plain_generate(folder, text: str, source: str, target: str) -> str:
    """What a user without polygraft would type."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.src_lang = source
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    generated = model.generate(
        **tokenizer(text, return_tensors="pt", truncation=True),
        forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
        num_beams=3, max_new_tokens=12, no_repeat_ngram_size=2,
    )  # fmt: skip
    return tokenizer.batch_decode(generated, skip_special_tokens=True)[0]


def test_equals_plain_transformers_in_input_order_with_mixed_languages(sharp_dir, sentences):
    tokenizer, model = AutoTokenizer.from_pretrained(sharp_dir), AutoModelForSeq2SeqLM.from_pretrained(sharp_dir)
    texts = [*sentences, sentences[0] * 2, sentences[6][:9]]  # of very different lengths
    sources = [("en_XX", "uk_UA", "da_DK")[i % 3] for i in range(len(texts))]
    targets = [("uk_UA", "ja_XX")[i % 2] for i in range(len(texts))]
    outputs = decode(model, tokenizer, texts, sources, targets, BEAMS)
    assert outputs == [plain_generate(sharp_dir, *row) for row in zip(texts, sources, targets, strict=True)]
    assert len(set(outputs)) > len(outputs) / 2  # the model is sharp enough for a wrong order to show


def test_encoding_equals_the_tokenizers_own(mbart_tokenizer, sentences, monkeypatch):
    for code in ("en_XX", "uk_UA", "da_DK"):
        monkeypatch.setattr(mbart_tokenizer, "src_lang", code)
        expected = mbart_tokenizer([*sentences, sentences[0] * 9], truncation=True)["input_ids"]
        assert encode_sources(mbart_tokenizer, [*sentences, sentences[0] * 9], [code] * 13, 64) == expected


def test_blank_inputs_have_blank_outputs_and_keep_their_places(sharp_mbart, mbart_tokenizer, sentences):
    texts = ["", sentences[0], " \t", sentences[1]]
    calls: list[tuple[int, int]] = []
    outputs = decode(
        sharp_mbart, mbart_tokenizer, texts, ["en_XX"] * 4, ["en_XX"] * 4, BEAMS, lambda *done: calls.append(done)
    )
    assert (outputs[0], outputs[2]) == ("", "")
    assert outputs[1]
    assert outputs[3]
    assert outputs[1] != outputs[3]
    assert calls == [(4, 4)]
    assert decode(sharp_mbart, mbart_tokenizer, ["", ""], ["en_XX"] * 2, ["en_XX"] * 2, BEAMS) == ["", ""]
    assert decode(sharp_mbart, mbart_tokenizer, [], [], [], BEAMS) == []


def test_too_long_inputs_are_cut_with_one_warning(mbart_tokenizer, sentences, caplog):
    long = sentences[0] * 20
    with caplog.at_level(logging.WARNING):
        sources = encode_sources(mbart_tokenizer, [long, sentences[0], long], ["en_XX"] * 3, 64)
    assert [len(ids) for ids in sources] == [64, len(sources[1]), 64]
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 inputs are longer than 64 tokens; their ends were cut off."
    ]
    assert sources[0][-1] == mbart_tokenizer.eos_token_id


def test_output_may_be_as_long_as_the_model_allows(sharp_mbart, mbart_tokenizer, sentences):
    settings = Evaluate(num_beams=1, max_new_tokens=500, no_repeat_ngram_size=0)
    outputs = decode(sharp_mbart, mbart_tokenizer, sentences[:2], ["en_XX"] * 2, ["uk_UA"] * 2, settings)
    assert all(outputs)  # 500 positions in a model of 64 would be an IndexError


def test_cc25_starts_at_the_language_code(pieces):
    vocab, charsmap = pieces
    codes = [("en_XX", 0.0), ("ja_XX", 0.0)]
    tokenizer = MBartTokenizer(vocab=[*vocab, *codes, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    assert language_arguments(tokenizer, "ja_XX") == {
        "decoder_start_token_id": tokenizer.convert_tokens_to_ids("ja_XX")
    }


def test_mbart50_starts_at_eos_and_is_forced(mbart_tokenizer):
    expected = {"decoder_start_token_id": 2, "forced_bos_token_id": mbart_tokenizer.convert_tokens_to_ids("da_DK")}
    assert language_arguments(mbart_tokenizer, "da_DK") == expected


def test_generate_texts_takes_a_folder_and_short_language_names(sharp_dir, sentences):
    assert generate_texts(str(sharp_dir), sentences[6:8], "uk", "uk", BEAMS) == [
        [plain_generate(sharp_dir, text, "uk_UA", "uk_UA")] for text in sentences[6:8]
    ]
    assert generate_texts(str(sharp_dir), sentences[6:7], "ukr_Cyrl", "da", BEAMS) == [
        [plain_generate(sharp_dir, sentences[6], "uk_UA", "da_DK")]
    ]


def test_generate_texts_names_a_wrong_language_or_folder(sharp_dir, tmp_path):
    with pytest.raises(DataError, match="'klingon'"):
        generate_texts(str(sharp_dir), ["text"], "klingon", "en", BEAMS)
    with pytest.raises(CheckpointError, match="nothing-here"):
        generate_texts(str(tmp_path / "nothing-here"), ["text"], "en", None, BEAMS)

"""inference/beam_search.py against `model.generate`: the same token ids, and the plain way where it does not apply."""

from __future__ import annotations

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, MBartConfig, MBartForConditionalGeneration

from polygraft.data.layout import pad_rows
from polygraft.data.reading import read_rows
from polygraft.inference.beam_search import can_search, generate, merged, repeated_ngrams
from polygraft.inference.generate import encode_sources, language_arguments
from polygraft.models.checkpoints import load_seq2seq, load_tokenizer

PAD, EOS, LANGUAGE = 1, 2, 7
FAMILIES = {
    "50": {"decoder_start_token_id": EOS, "forced_bos_token_id": LANGUAGE},
    "cc25": {"decoder_start_token_id": LANGUAGE},
}
LENGTHS = (20, 3, 11, 16, 5, 20, 2, 7, 13)
SMALL = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
}  # fmt: skip


def make_model(seed: int, end_bias: float, kind=MBartForConditionalGeneration, **config):
    """A model with weights so large that outputs depend on sources and no two beams tie; it ends at times."""
    torch.manual_seed(seed)
    config_class = {MBartForConditionalGeneration: MBartConfig, BartForConditionalGeneration: BartConfig}[kind]
    model = kind(config_class(**SMALL, **({"vocab_size": 300, "scale_embedding": True} | config))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
        model.final_logits_bias.normal_(std=0.5)[0, EOS] = end_bias
    model.generation_config.forced_eos_token_id = None  # 2 in every mBART's; some cases set it again
    return model


def make_sources(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    ids_BS = pad_rows([torch.randint(8, 300, (length,)).tolist() for length in LENGTHS], PAD)
    return ids_BS, (ids_BS != PAD).long()


def both(model, monkeypatch, sources, **settings) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of `model.generate`, and of ours, which must not call it."""
    ids_BS, mask_BS = sources
    with torch.inference_mode():
        plain = model.generate(input_ids=ids_BS, attention_mask=mask_BS, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(model, "generate", None)
            ours = generate(model, ids_BS, mask_BS, **settings)
    return without_padding(plain), without_padding(ours)


def without_padding(ids_BT: torch.Tensor) -> list[list[int]]:
    return [[token for token in row if token != PAD] for row in ids_BT.tolist()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize("no_repeat_ngram_size", [0, 1, 3])
def test_equals_generate(family, num_beams, no_repeat_ngram_size, monkeypatch):
    lengths = set()
    for seed, end_bias in ((0, 0.0), (1, 4.0), (2, 7.0)):
        model = make_model(seed, end_bias, activation_function=("gelu", "relu")[seed % 2])
        plain, ours = both(
            model, monkeypatch, make_sources(seed), max_new_tokens=15, num_beams=num_beams,
            no_repeat_ngram_size=no_repeat_ngram_size, **FAMILIES[family],
        )  # fmt: skip
        assert ours == plain
        lengths |= {len(row) for row in plain}
    if no_repeat_ngram_size != 1:  # which forbids </s> to mBART-50, whose outputs begin with it
        assert len(lengths) > 2  # some documents end before others of their batch


CASES = [
    {"early_stopping": True},
    {"early_stopping": "never"},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0, "early_stopping": "never"},
    {"length_penalty": -1.0},
    {"forced_eos_token_id": EOS},
    {"forced_eos_token_id": EOS, "num_beams": 1},
    {"max_new_tokens": 2, "forced_eos_token_id": EOS},
    {"max_new_tokens": 2},
    {"num_return_sequences": 3},
    {"num_return_sequences": 4, "early_stopping": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_settings_mean_what_they_mean_to_generate(case, family, monkeypatch):
    settings = {"num_beams": 4, "max_new_tokens": 12, "no_repeat_ngram_size": 3, **FAMILIES[family]} | case
    for seed in (3, 4):
        plain, ours = both(make_model(seed, 3.0), monkeypatch, make_sources(seed), **settings)
        assert ours == plain


def test_settings_of_the_checkpoint_count(monkeypatch):
    model, sources = make_model(5, 3.0), make_sources(5)
    settings = {"num_beams": 4, "max_new_tokens": 12, **FAMILIES["cc25"]}
    before = both(model, monkeypatch, sources, **settings)
    model.generation_config.update(forced_eos_token_id=EOS, length_penalty=3.0, early_stopping="never", max_length=20)
    after = both(model, monkeypatch, sources, **settings)
    assert after[1] == after[0]
    assert after[0] != before[0]
    model.generation_config.repetition_penalty = 1.5
    assert not can_search(model, merged(model, settings))


def test_eager_attention_and_several_slices_of_the_output_matrix(monkeypatch):
    model = make_model(6, 0.0, vocab_size=5000, attn_implementation="eager")
    model.final_logits_bias[0, 4096:] += 5  # of the third slice
    plain, ours = both(model, monkeypatch, make_sources(6), num_beams=4, max_new_tokens=12, **FAMILIES["50"])
    assert ours == plain
    assert any(token > 4096 for row in plain for token in row)


def test_bundled_nano_mbart_on_real_text(monkeypatch):
    """Unlike random weights: sharp distributions, its own forced_eos_token_id, 8,054 classes."""
    model, tokenizer = load_seq2seq("polygraft/nano-mbart").eval(), load_tokenizer("polygraft/nano-mbart")
    texts = [row["text"] for row in read_rows("polygraft/sample/de/test.parquet", ["text"])[:12]]
    ids_BS = pad_rows(encode_sources(tokenizer, texts, ["de_DE"] * 12, 128), PAD)
    plain, ours = both(
        model, monkeypatch, (ids_BS, (ids_BS != PAD).long()), num_beams=4, max_new_tokens=20, no_repeat_ngram_size=3,
        **language_arguments(tokenizer, "de_DE"),
    )  # fmt: skip
    assert ours == plain


def test_bf16(monkeypatch):
    """Sums of other shapes round otherwise, so near ties may turn; 9 of 9 outputs were equal."""
    model = make_model(7, 3.0).to(torch.bfloat16)
    plain, ours = both(model, monkeypatch, make_sources(7), num_beams=4, max_new_tokens=12, **FAMILIES["50"])
    assert sum(a == b for a, b in zip(plain, ours, strict=True)) >= 7


NOT_IMPLEMENTED = [
    {"repetition_penalty": 1.5},
    {"min_new_tokens": 4},
    {"bad_words_ids": [[9]]},
    {"suppress_tokens": [9, 10]},
    {"encoder_no_repeat_ngram_size": 2},
    {"renormalize_logits": True},
    {"eos_token_id": [2, 9]},
    {"forced_eos_token_id": [2, 9]},
    {"max_new_tokens": 1},
    {"do_sample": True},
]


@pytest.mark.parametrize("case", NOT_IMPLEMENTED, ids=str)
def test_other_settings_are_left_to_generate(case):
    model, (ids_BS, mask_BS) = make_model(8, 3.0), make_sources(8)
    settings = {"num_beams": 4, "max_new_tokens": 8, "do_sample": False, **FAMILIES["50"]}
    assert can_search(model, merged(model, settings))
    settings |= case
    assert not can_search(model, merged(model, settings))
    torch.manual_seed(0)
    ours = generate(model, ids_BS, mask_BS, **settings)
    torch.manual_seed(0)
    assert torch.equal(ours, model.generate(input_ids=ids_BS, attention_mask=mask_BS, **settings))


def test_other_models_are_left_to_generate():
    model, (ids_BS, mask_BS) = make_model(9, 3.0, BartForConditionalGeneration), make_sources(9)
    settings = {"num_beams": 2, "max_new_tokens": 8, "decoder_start_token_id": EOS}
    assert not can_search(model, merged(model, settings))
    plain = model.generate(input_ids=ids_BS, attention_mask=mask_BS, **settings)
    assert torch.equal(generate(model, ids_BS, mask_BS, **settings), plain)


@pytest.mark.parametrize(
    ("sequence", "size", "expected"),
    [
        ([5, 6, 5, 6, 8, 5, 6], 3, {5, 8}),  # 5 6 was followed by 5 and by 8
        ([5, 6, 7], 2, set()),
        ([5, 5, 5], 3, {5}),
        ([5, 6], 3, set()),
        ([5, 6], 1, {5, 6}),
        ([5, 6, 5], 0, set()),
    ],
)
def test_repeated_ngrams(sequence, size, expected):
    assert set(repeated_ngrams(torch.tensor([sequence]), size).flatten().tolist()) - {-1} == expected

"""adapt_target's other objectives: masked and causal language modelling on mBART, against plain implementations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSeq2SeqLM

from polygraft.checks.memory import measure_pass
from polygraft.data.layout import IGNORED
from polygraft.errors import CheckpointError, RecipeError
from polygraft.objectives import CLM, MLM, OBJECTIVES, Denoising
from polygraft.objectives.clm import CausalLM
from polygraft.objectives.mlm import EncoderMaskedLM
from polygraft.objectives.noise import Noise
from polygraft.recipe.reading import parse_recipe
from polygraft.settings import TextData
from polygraft.stages import adapt

SHORT = {"budget": {"steps": 2}, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"}
ADAPTERS = {"full": {}, "lora": {"adapter": {"type": "lora"}}, "bottleneck": {"adapter": {"type": "bottleneck"}}}


@pytest.fixture
def rows(mbart_tokenizer, sentences):
    code = mbart_tokenizer.convert_tokens_to_ids("uk_UA")
    ids = mbart_tokenizer(sentences, add_special_tokens=False)["input_ids"]
    return [{"input_ids": np.array(one[:40], dtype=np.int32), "language": code} for one in ids]


def test_masked_language_modelling_equals_encoder_and_tied_matrix_in_plain_torch(tiny_mbart, mbart_tokenizer, rows):
    """Measured on these rows: a difference of 6e-5 in 946 nats."""
    tiny_mbart.final_logits_bias.normal_(generator=torch.Generator().manual_seed(1))
    plain = copy.deepcopy(tiny_mbart)
    batch = EncoderMaskedLM(mbart_tokenizer, 0.3, Noise(1)).collate(rows)
    ours = EncoderMaskedLM.loss(tiny_mbart, **batch)
    states = plain.model.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    logits = states @ plain.lm_head.weight.T + plain.final_logits_bias
    theirs = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ours.backward(), theirs.backward()
    for name, parameter in plain.named_parameters():
        mine = tiny_mbart.get_parameter(name).grad
        if name.startswith("model.decoder"):
            assert mine is None
        else:
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5)


def test_it_masks_text_alone(mbart_tokenizer, rows):
    """Not a language code, nor anything else that was added to the pieces, is masked or put in a token's place."""
    objective = EncoderMaskedLM(mbart_tokenizer, 0.9, Noise(2))
    added = {*mbart_tokenizer.added_tokens_decoder, *mbart_tokenizer.all_special_ids}
    for _ in range(5):
        batch = objective.collate(rows)
        chosen = batch["labels"] != IGNORED
        assert not added & set(batch["labels"][chosen].tolist())
        changed = chosen & (batch["input_ids"] != batch["labels"])
        assert set(batch["input_ids"][changed].tolist()) & added == {mbart_tokenizer.mask_token_id}
        assert (batch["input_ids"][:, 0] == rows[0]["language"]).all()


def test_causal_language_modelling_equals_transformers_own_loss(tiny_mbart, mbart_tokenizer, rows):
    """The encoder reads two special tokens; measured: 1e-6 of 5.7 nats per token."""
    batch = CausalLM(mbart_tokenizer).collate(rows)
    code = rows[0]["language"]
    assert batch["input_ids"].tolist() == [[code, mbart_tokenizer.eos_token_id]] * len(rows)
    count = (batch["labels"] != IGNORED).sum()
    assert count == sum(len(row["input_ids"]) + 2 for row in rows)
    plain = tiny_mbart(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"],
        decoder_input_ids=batch["decoder_input_ids"],
    )  # fmt: skip
    ours = CausalLM(mbart_tokenizer).loss(tiny_mbart, **batch) / count
    torch.testing.assert_close(ours, plain.loss, rtol=2e-6, atol=0)
    shifted = batch["decoder_input_ids"]
    assert torch.equal(shifted[:, 1:][batch["labels"][:, 1:] != IGNORED],
                       batch["labels"][:, :-1][batch["labels"][:, 1:] != IGNORED])  # fmt: skip


@pytest.fixture
def text(tmp_path, sentences):
    (tmp_path / "text.txt").write_text("\n".join(sentences * 2), encoding="utf-8")
    return TextData(train_file=str(tmp_path / "text.txt"), lang="uk")


@pytest.mark.parametrize("how", ADAPTERS)
@pytest.mark.parametrize("kind", [MLM, CLM], ids=["mlm", "clm"])
def test_each_trains_its_side_in_every_way(kind, how, tiny_mbart, tiny_mbart_dir, text, tmp_path):
    settings = kind(**SHORT, **ADAPTERS[how])
    result = adapt.run(settings, str(tiny_mbart_dir), text, 1, tmp_path / "out")
    assert result["eval_loss"] != result["eval_loss_first"]
    before, after = tiny_mbart.state_dict(), AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    decoder = {name for name in moved if name.startswith("model.decoder") and "embed_tokens" not in name}
    if how == "bottleneck":  # lies beside the weights
        assert not moved
        assert (tmp_path / "out" / "adapter").is_dir()
    else:
        assert any(name.startswith("model.encoder.layers") for name in moved)
        assert bool(decoder) == (kind is CLM)
        assert ("lm_head.weight" in moved) == (how == "full")


@pytest.mark.parametrize("kind", [MLM, CLM], ids=["mlm", "clm"])
def test_each_trains_with_a_trimmed_vocabulary(kind, tiny_mbart, tiny_mbart_dir, sentences, tmp_path):
    (tmp_path / "few.txt").write_text("\n".join(sentences[6:9] * 4), encoding="utf-8")
    text = TextData(train_file=str(tmp_path / "few.txt"), lang="uk")
    result = adapt.run(kind(**SHORT, trim_vocabulary=True), str(tiny_mbart_dir), text, 1, tmp_path / "out")
    after = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert after.config.vocab_size == tiny_mbart.config.vocab_size
    assert result["classes"] < after.config.vocab_size
    # the encoder's predictions are used for nothing later, so that no bias is set for what it was not asked
    assert ("others_bias" in result) == (kind is CLM)
    assert bool(after.final_logits_bias.any()) == (kind is CLM and result["others_bias"] != 0)


def test_a_recipe_chooses_by_name(base_data):
    data = base_data | {"text": {"train_file": "t.txt", "lang": "uk"}}
    for name, kind in OBJECTIVES.items():
        section = {"objective": name, "budget": {"steps": 1}}
        assert type(parse_recipe(data | {"adapt_target": section}, "test").adapt_target) is kind
    assert type(parse_recipe(data | {"adapt_target": {"budget": {"steps": 1}}}, "test").adapt_target) is Denoising
    with pytest.raises(
        RecipeError, match=r"adapt_target\.objective = clmm: must be denoising or mlm or clm; did you mean"
    ):
        parse_recipe(data | {"adapt_target": {"objective": "clmm"}}, "test")
    with pytest.raises(RecipeError, match="no such key of `clm`; valid here: "):
        parse_recipe(data | {"adapt_target": {"objective": "clm", "mask_ratio": 0.5, "budget": {"steps": 1}}}, "test")


def test_a_source_can_do_one_of_them(tiny_xlmr_dir, text, tmp_path):
    for kind in (CLM, Denoising):
        with pytest.raises(CheckpointError, match="has to be an mBART"):
            adapt.run(kind(**SHORT), str(tiny_xlmr_dir), text, 1, tmp_path / kind.__name__)


def test_what_they_cost_is_counted(tiny_mbart):
    """Against forward and backward passes by hand: only the encoder's, only the decoder's beside two tokens."""
    config = tiny_mbart.config
    passes = {kind: measure_pass(config, kind().shape(8, 32, coded=True), "fp32", settings=kind())
              for kind in (MLM, Denoising, CLM)}  # fmt: skip
    assert passes[MLM].trained < passes[Denoising].trained == passes[CLM].trained == passes[MLM].parameters
    assert passes[MLM].flops < passes[CLM].flops < passes[Denoising].flops

"""What can be loaded, what is refused, and what a saved folder says of itself."""

import shutil

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from polygraft.errors import CheckpointError, DataError
from polygraft.models import checkpoints


def test_both_kinds_load_in_fp32_with_their_tokenizers(tiny_xlmr, tiny_mbart, tiny_xlmr_dir, tiny_mbart_dir):
    tiny_mbart.half().save_pretrained(tiny_mbart_dir)
    source = checkpoints.load_masked_lm(str(tiny_xlmr_dir))
    target = checkpoints.load_seq2seq(str(tiny_mbart_dir))
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    assert torch.equal(source.get_input_embeddings().weight, tiny_xlmr.get_input_embeddings().weight)
    assert type(checkpoints.load_tokenizer(str(tiny_mbart_dir))).__name__ == "MBart50Tokenizer"


def test_refused_folders(tmp_path, tiny_xlmr_dir):
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoints.load_masked_lm(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        checkpoints.load_masked_lm(str(tmp_path / "empty"))
    weights = tiny_xlmr_dir / "model.safetensors"
    shutil.move(weights, tiny_xlmr_dir / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled.*save_pretrained"):
        checkpoints.load_masked_lm(str(tiny_xlmr_dir))
    (tiny_xlmr_dir / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoints.load_masked_lm(str(tiny_xlmr_dir))
    weights.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot load"):
        checkpoints.load_masked_lm(str(tiny_xlmr_dir))


def test_hub_name_offline_and_unknown_bundled_name(monkeypatch):
    with pytest.raises(CheckpointError, match=r"cannot load.*HF_HUB_OFFLINE"):
        checkpoints.load_masked_lm("somebody/some-model-that-is-not-here")
    with pytest.raises(DataError, match="not bundled"):
        checkpoints.load_seq2seq("polygraft/nano-llama")


def test_target_has_to_be_an_mbart(tmp_path, tiny_xlmr_dir):
    T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    with pytest.raises(CheckpointError, match=r"'t5'.*has to be an mBART"):
        checkpoints.load_seq2seq(str(tmp_path / "t5"))
    with pytest.raises(CheckpointError, match="'xlm-roberta'"):
        checkpoints.load_seq2seq(str(tiny_xlmr_dir))


def test_positions_that_a_model_has(tiny_xlmr, tiny_mbart):
    bert = BertForMaskedLM(BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=40,
    ))  # fmt: skip
    assert [checkpoints.max_positions(m) for m in (tiny_xlmr, tiny_mbart, bert)] == [64, 64, 40]
    longest = torch.full((1, 64), 5)
    assert tiny_xlmr(input_ids=longest).logits.shape[1] == 64
    with pytest.raises((IndexError, RuntimeError)):
        tiny_xlmr(input_ids=torch.full((1, 65), 5))


def test_output_language(tiny_mbart, mbart_tokenizer, tmp_path):
    language = mbart_tokenizer.convert_tokens_to_ids("uk_UA")
    checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path)
    checkpoints.set_output_language(tmp_path, tiny_mbart, mbart_tokenizer, language)
    again = checkpoints.load_seq2seq(str(tmp_path))
    assert again.generation_config.forced_bos_token_id == language
    out = again.generate(torch.tensor([[language, 5, 6, 2]]), max_new_tokens=4, num_beams=1)
    assert out[0, :2].tolist() == [2, language]

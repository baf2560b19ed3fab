"""The stage: what it writes, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from polygraft.errors import TransferError
from polygraft.stages import transfer
from polygraft.transfers.methods import EmbeddingsTransfer, NoTransfer
from polygraft.transfers.rows import embeddings

SHARED = "model.shared.weight"


@pytest.mark.parametrize("mode", ["recentre", "repair", "delta"])
def test_run_writes_a_checkpoint_that_is_tied_when_reloaded(folders, pair, mode):
    source = None if mode == "recentre" else folders.source
    result = transfer.run(EmbeddingsTransfer(mode=mode), source, source, folders.target, folders.text, folders.out)
    model = AutoModelForSeq2SeqLM.from_pretrained(folders.out)
    one = model.model.shared.weight
    others = (model.model.encoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight, model.lm_head.weight)
    assert all(other is one or other.data_ptr() == one.data_ptr() for other in others)
    plan = json.loads((folders.out / "plan.json").read_text(encoding="utf-8"))
    changed = [e for e in plan["entries"] if e["transform"] != "keep"]
    assert sum(result["rows"].values()) == len(one)
    ids = [i for e in changed for first, last in e["ids"] for i in range(first, last + 1)]
    kept = np.setdiff1d(np.arange(len(one)), ids)
    assert torch.equal(pair.target[kept], one.detach()[kept])
    loaded = model.state_dict()
    for name, tensor in pair.target_model.state_dict().items():
        assert torch.equal(tensor, loaded[name]) or name == SHARED or name in plan["tied"]
    if mode != "delta":
        assert len(ids) == len(pair.dead) + len(pair.dead_codes)
        assert result["diagnostics"]["text_share_changed"] > 0.1
    assert json.loads((folders.out / "diagnostics.json").read_text()) == result["diagnostics"]
    assert result["plan"] == "plan.json"
    assert (result["method"], result["mode"]) == ("embeddings", mode)


def test_none_keeps_every_bit_and_needs_nothing(folders, pair):
    result = transfer.run(NoTransfer(), None, None, folders.target, None, folders.out)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folders.out).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in pair.target_model.state_dict().items())
    plan = json.loads((folders.out / "plan.json").read_text(encoding="utf-8"))
    assert {entry["reason"] for entry in plan["entries"]} == {"control: nothing is transferred"}
    assert (result["method"], result["rows"], result["diagnostics"]) == ("none", {}, {})


def test_a_transfer_that_unties_the_target_is_refused(folders, monkeypatch):
    carry_out = embeddings.apply

    def untying(plan, fitted, inputs):
        inputs.target.lm_head.weight = torch.nn.Parameter(inputs.target.lm_head.weight.detach().clone())
        return carry_out(plan, fitted, inputs)

    monkeypatch.setattr(embeddings, "apply", untying)
    with pytest.raises(TransferError, match=r"the target ties .* after the transfer, planned were .*lm_head\.weight"):
        transfer.run(EmbeddingsTransfer(mode="recentre"), None, None, folders.target, None, folders.out)
    assert not folders.out.exists()


def test_dry_run_writes_nothing(folders):
    result = transfer.run(EmbeddingsTransfer(), None, folders.source, folders.target, None, folders.out, dry_run=True)
    assert not folders.out.exists()
    assert "text tokens, mapped" in {entry["token_class"] for entry in result["plan"]["entries"]}
    assert "lm_head.weight" in result["plan"]["tied"]


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("repair", "source_after"), ("delta", "source_before and source_after and text")],
)
def test_missing_inputs_are_named(folders, mode, missing):
    with pytest.raises(TransferError, match=f"needs {missing}"):
        transfer.run(EmbeddingsTransfer(mode=mode), None, None, folders.target, None, folders.out)


def test_sources_of_two_shapes_are_refused(folders, tmp_path, tiny_xlmr, xlmr_tokenizer):
    tiny_xlmr.resize_token_embeddings(len(xlmr_tokenizer) + 8)
    tiny_xlmr.save_pretrained(tmp_path / "other")
    xlmr_tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(TransferError, match="source_before and source_after are not one model"):
        transfer.run(
            EmbeddingsTransfer(mode="delta"),
            str(tmp_path / "other"),
            folders.source,
            folders.target,
            folders.text,
            folders.out,
        )


def test_another_vocabulary_is_refused(folders, tmp_path):
    """mBERT's case: WordPiece, words bare and continuations marked, so that few strings are the same."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "the", "##ing", "package", "##ed"]
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "mbert")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "mbert")
    with pytest.raises(TransferError, match=r"only \d+\.\d% of the target's tokens are in the source's vocabulary"):
        transfer.run(EmbeddingsTransfer(), None, str(tmp_path / "mbert"), folders.target, None, folders.out)
    assert not folders.out.exists()


def test_a_source_wider_than_its_shared_rows_is_refused(folders, tmp_path, tiny_xlmr, xlmr_tokenizer):
    config = XLMRobertaConfig(
        vocab_size=len(xlmr_tokenizer), hidden_size=512, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    XLMRobertaForMaskedLM(config).save_pretrained(tmp_path / "wide")
    xlmr_tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(TransferError, match=r"only \d+ tokens .* the source is 512 wide and at least 512 are needed"):
        transfer.run(EmbeddingsTransfer(), None, str(tmp_path / "wide"), folders.target, None, folders.out)

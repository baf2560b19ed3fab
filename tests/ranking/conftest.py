"""Candidates of many kinds, tiny, in folders; and a text in three languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def save(tmp_path) -> Callable[..., str]:
    """Writes a checkpoint, with a model card if there is one."""

    def _save(name: str, model: Any, tokenizer: Any, card: str | None = None) -> str:
        folder = tmp_path / name
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        return str(folder)

    return _save


@pytest.fixture
def others(save, xlmr_tokenizer, wordpiece_tokenizer) -> dict[str, str]:
    """Sources that are not XLM-Rs: their kind, and their folder."""
    torch.manual_seed(7)
    shared = {"vocab_size": len(xlmr_tokenizer), "pad_token_id": 1, **TINY}
    deberta = {**shared, "max_position_embeddings": 64, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    bert = BertConfig(vocab_size=len(wordpiece_tokenizer), max_position_embeddings=64, pad_token_id=0, **TINY)
    modern = ModernBertConfig(
        **shared, max_position_embeddings=64, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2
    )
    found = {
        "mBERT": save("mbert", BertForMaskedLM(bert), wordpiece_tokenizer),
        "DeBERTa": save("deberta", DebertaV2ForMaskedLM(DebertaV2Config(**deberta)), xlmr_tokenizer),
        "DeBERTa, other head": save(
            "deberta-new", DebertaV2ForMaskedLM(DebertaV2Config(**deberta, legacy=False)), xlmr_tokenizer
        ),
        "ModernBERT": save("modern", ModernBertForMaskedLM(modern), xlmr_tokenizer),
        "e5": save("e5", BertModel(BertConfig(**shared, max_position_embeddings=64)), xlmr_tokenizer),
    }
    try:
        DebertaV2ForMaskedLM.from_pretrained(found["DeBERTa, other head"])
    except AttributeError:  # transformers before 5.15 ties a weight that this head does not have
        del found["DeBERTa, other head"]
    return found


@pytest.fixture
def text_file(tmp_path, sentences) -> Path:
    """Three documents each in English, French or German, and Ukrainian, with their language beside them."""
    languages = ["en", "en", "en", "fr", "fr", "fr", "uk", "uk", "uk"]
    rows = [{"text": text, "lang": lang} for text, lang in zip(sentences, languages, strict=False)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path

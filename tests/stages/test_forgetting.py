"""The stage that measures forgetting, against plain transformers on the same noisy input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSeq2SeqLM

from polygraft.errors import DataError
from polygraft.measure.losses import NOISE_SEED, mbart_task
from polygraft.scoring.forgetting import Restored
from polygraft.settings import Forgetting
from polygraft.stages import forgetting


@pytest.fixture
def states(tiny_mbart, mbart_tokenizer, tmp_path):
    """A target as it was, and another one."""
    mbart_tokenizer.save_pretrained(tmp_path / "one")
    tiny_mbart.save_pretrained(tmp_path / "one")
    mbart_tokenizer.save_pretrained(tmp_path / "two")
    with torch.no_grad():
        for weight in tiny_mbart.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2)
        tiny_mbart.final_logits_bias.normal_()
    tiny_mbart.save_pretrained(tmp_path / "two")
    return {"target": str(tmp_path / "one"), "adapted": str(tmp_path / "one"), "finetuned": str(tmp_path / "two")}


@pytest.fixture
def known(tmp_path, sentences):
    languages = ["en"] * 3 + ["fr"] * 2 + ["de"]
    rows = [{"body": text, "lang": lang} for text, lang in zip(sentences, languages, strict=False)]
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Forgetting(test_file=str(path), text_column="body", lang_column="lang", max_samples=2)


def plain_loss(model, tokenizer, text: str, code: str, place: int) -> tuple[float, int]:
    """The sum of -log p of a text and </s> by the plain model, which reads the text with mBART's noise."""
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    noisy, _ = mbart_task(tokenizer).corrupt(ids, np.random.default_rng([NOISE_SEED, place]))
    language, end = tokenizer.convert_tokens_to_ids(code), tokenizer.eos_token_id
    labels = [*ids.tolist(), end]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([[language, *noisy, end]]),
            decoder_input_ids=torch.tensor([[end, language, *labels]]),
        ).logits[0, 1:-1]
    return float(F.cross_entropy(logits.double(), torch.tensor(labels), reduction="sum")), len(labels)


def test_losses_equal_plain_transformers_on_the_same_noise(states, known, mbart_tokenizer, sentences, tmp_path):
    result = forgetting.run(known, states, tmp_path / "out")
    found = Restored.load(tmp_path / "out")
    assert found.languages == ["en_XX", "en_XX", "fr_XX", "fr_XX", "de_DE"] and result["documents"] == 5
    texts = [sentences[i] for i in (0, 1, 3, 4, 5)]  # the first two of each language
    for state, name in states.items():
        model = AutoModelForSeq2SeqLM.from_pretrained(name)
        for place, (text, code) in enumerate(zip(texts, found.languages, strict=True)):
            loss, tokens = plain_loss(model, mbart_tokenizer, text, code, place)
            assert found.nats[state][place] == pytest.approx(loss, rel=1e-5)  # measured 2e-7
            assert found.tokens[place] == tokens
    assert (found.nats["target"] == found.nats["adapted"]).all() and (
        found.nats["target"] != found.nats["finetuned"]
    ).all()
    french = found.nats["finetuned"][2:4].sum() / found.tokens[2:4].sum()
    assert result["finetuned"]["fr_XX"] == pytest.approx(french)


def test_a_language_that_the_target_lacks_is_refused(states, known, tmp_path):
    with pytest.raises(DataError, match="'el'"):
        forgetting.run(known.model_copy(update={"lang_column": None, "lang": "el"}), states, tmp_path / "out")

"""The probability of tokens that a trimmed training never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polygraft.data.dataset import TextDataset
from polygraft.models.unseen import quieten_others, unseen_mass
from polygraft.objectives import Denoising
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise


def test_good_turing(xlmr_tokenizer):
    first, second = xlmr_tokenizer.tokenize("Die Dateien"), xlmr_tokenizer.tokenize("Dateien")
    tokens = first + second
    once = [token for token in set(tokens) if tokens.count(token) == 1]
    assert unseen_mass(xlmr_tokenizer, ["Die Dateien", "Dateien"]) == pytest.approx(len(once) / len(tokens))
    assert unseen_mass(xlmr_tokenizer, []) == 0.0


@pytest.fixture(params=["mlm", "denoising"])
def case(request, tiny_xlmr, tiny_mbart, xlmr_tokenizer, mbart_tokenizer):
    random = np.random.default_rng(0)
    documents = [random.integers(4, 200, 20).astype(np.int32) for _ in range(30)]
    if request.param == "mlm":
        model, objective = tiny_xlmr, MaskedLM(xlmr_tokenizer, 0.15, Noise(0, fixed=True))
        data = TextDataset((d, -1) for d in documents)
    else:
        model, noise = tiny_mbart, Noise(0, fixed=True)
        objective = Denoising(permute_sentences=False).make(mbart_tokenizer, noise)
        data = TextDataset((d, mbart_tokenizer.convert_tokens_to_ids("uk_UA")) for d in documents)
    return model, objective, data


@torch.inference_mode()
def others_mass(model, objective, data, kept):
    masses = []
    for index in range(len(data)):
        batch = objective.collate([data[index]])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids") if name in batch}
        logits = model(**inputs).logits[batch["labels"] != -100].softmax(-1)
        masses.append(1 - logits[:, kept].sum(-1))
    return float(torch.cat(masses).mean())


def test_the_others_get_the_mass_they_deserve_and_keep_their_rows(case):
    model, objective, data = case
    kept = np.arange(100)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = quieten_others(model, kept, objective, data, 0.03)
    assert found["others_mass_before"] == pytest.approx(1 - 100 / model.config.vocab_size, abs=0.1)
    assert found["others_mass"] == pytest.approx(0.03, abs=1e-6)
    assert others_mass(model, objective, data, kept) == pytest.approx(0.03, abs=1e-5)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed <= {"final_logits_bias", "lm_head.bias", "lm_head.decoder.bias"} and changed
    bias = after[min(changed)].flatten()
    assert torch.equal(bias[:100], before[min(changed)].flatten()[:100])
    assert torch.allclose(bias[100:] - before[min(changed)].flatten()[100:], torch.tensor(found["others_bias"]).float())


def test_a_mass_that_is_small_enough_is_left_alone(case):
    model, objective, data = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = quieten_others(model, np.arange(100), objective, data, 0.99)
    assert found["others_bias"] == 0.0 and found["others_mass"] == found["others_mass_before"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

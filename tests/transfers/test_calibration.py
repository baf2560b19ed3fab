"""Streamed moments against solutions in memory, states against transformers' own, and layers against a known truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, XLMRobertaXLConfig, XLMRobertaXLModel

from polygraft.errors import TransferError
from polygraft.transfers.contract import Inputs
from polygraft.transfers.methods import EmbeddingsTransfer
from polygraft.transfers.states import calibration
from polygraft.transfers.states.calibration import Calibration, Shuffled, Site, match_layers, states


@pytest.fixture
def calibrated(tiny_xlmr, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences):
    inputs = Inputs(
        settings=EmbeddingsTransfer(), target=tiny_mbart, vocabulary=None, tokens=[], counts=np.zeros(0),
        source_after=tiny_xlmr, texts=sentences, languages=["uk"] * len(sentences), source_tokenizer=xlmr_tokenizer,
        target_tokenizer=mbart_tokenizer,
    )  # fmt: skip
    return Calibration.of(inputs, tiny_xlmr, tokens=10**6)


def both_states(calibrated, document):
    """What transformers itself returns for one document alone, aligned tokens only: source and target hidden states."""
    found = []
    for side, ids, places in (
        (calibrated.source, document.source, document.source_places),
        (calibrated.target, document.target, document.target_places),
    ):
        with torch.no_grad():
            hidden = side(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        found.append([state[0, places] for state in hidden])
    return found


PAIRS = [
    (Site("source", 2), Site("target", 2)), (Site("source", 1), Site("target", 1, normed=False)),
    (Site("target", 1), Site("source", 0)), (Site("source", 0), Site("target", 0, normed=False)),
]  # fmt: skip


def in_memory(calibrated, documents, site):
    """The states of a site over all documents; `normed` by the LayerNorm of the next block, taken by its name."""
    rows = []
    for document in documents:
        source, target = both_states(calibrated, document)
        state = (source if site.side == "source" else target)[site.layer]
        if site.side == "target" and site.normed and site.layer < 2:
            state = calibrated.target.layers[site.layer].self_attn_layer_norm(state)
        rows.append(state.detach().double().numpy())
    return np.concatenate(rows)


@pytest.mark.parametrize("ridge", [1e-6, 0.1])  # without a ridge, the direction that LayerNorm empties is undetermined
def test_one_pass_equals_the_solution_in_memory(calibrated, ridge, monkeypatch):
    monkeypatch.setattr(calibration, "BATCH_TOKENS", 70)  # several batches, with padding
    found = calibrated.fit(PAIRS, ridge)
    for pair in PAIRS:
        x, y = (in_memory(calibrated, calibrated.documents, site) for site in pair)
        mean_x, mean_y = x.mean(0), y.mean(0)
        width = x.shape[1]
        penalty = ridge * (x - mean_x).var(axis=0).sum() * len(x) / width
        top, bottom = np.vstack([x - mean_x, np.sqrt(penalty) * np.eye(width)]), np.zeros((width, y.shape[1]))
        weight = np.linalg.lstsq(top, np.vstack([y - mean_y, bottom]), rcond=None)[0]
        fitted = found[pair]
        x_new, y_new = (in_memory(calibrated, calibrated.held_out, site) for site in pair)
        predicted = (x_new - mean_x) @ weight + mean_y
        # measured 3e-15: padding changes no bit of the tiny models' states; larger ones round differently by batch
        scale = np.abs(y_new).max()
        np.testing.assert_allclose(fitted.map(torch.from_numpy(x_new)).numpy(), predicted, atol=1e-6 * scale)
        expected = 1 - ((y_new - predicted) ** 2).sum() / ((y_new - y_new.mean(0)) ** 2).sum()
        assert fitted.heldout_r2 == pytest.approx(expected, abs=1e-6)
        assert (fitted.fit_tokens, fitted.heldout_tokens) == (len(x), len(x_new))


def test_a_tenth_of_the_documents_is_held_out(calibrated, sentences):
    assert (len(calibrated.documents), len(calibrated.held_out)) == (10, 2)
    held_out = {tuple(document.source) for document in calibrated.held_out}
    assert held_out.isdisjoint(tuple(document.source) for document in calibrated.documents)


def test_shuffled_places_are_real_states_of_other_tokens(calibrated, monkeypatch):
    monkeypatch.setattr(calibration, "BATCH_TOKENS", 70)
    site, other = Site("source", 1), Site("target", 2)

    def read(seed):
        calibrated.seed = seed
        return list(calibrated.stream(calibrated.documents, [Shuffled(site), site, Shuffled(other), other]))

    first, again, drawn = read(0), read(0), read(1)
    assert len(first) > 1
    for at, same, new in zip(first, again, drawn, strict=True):
        assert torch.equal(at[Shuffled(site)], same[Shuffled(site)])
        assert not torch.equal(at[Shuffled(site)], new[Shuffled(site)])
        places = [torch.cdist(at[Shuffled(one)], at[one]).argmin(1) for one in (site, other)]
        assert torch.equal(places[0], places[1])  # all alike
        assert (places[0] != torch.arange(len(places[0]))).all()
        assert sorted(places[0].tolist()) == list(range(len(places[0])))


def test_states_are_those_of_transformers(tiny_mbart, tiny_xlmr):
    """At every layer of both; and after the last of mBART, what the model hands to its decoder."""
    ids = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]])
    mask = (ids != 1).long()
    for side, encoder in (("source", tiny_xlmr.base_model), ("target", tiny_mbart.get_encoder())):
        expected = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        found = states(
            encoder, ids, mask, [Site(side, layer, normed) for layer in range(3) for normed in (True, False)]
        )
        for layer in range(2):
            assert torch.equal(found[Site(side, layer, False)], expected.hidden_states[layer])
        assert torch.equal(found[Site(side, 2)], expected.last_hidden_state)
        raw, read = found[Site(side, 1, False)], found[Site(side, 1)]
        norm = encoder.layers[1].self_attn_layer_norm if side == "target" else torch.nn.Identity()
        assert torch.equal(norm(raw), read)


def test_a_bert_is_read_and_another_build_is_refused(tiny_mbart):
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertModel(BertConfig(vocab_size=50, pad_token_id=1, **shape)).eval()
    ids = torch.tensor([[5, 6, 2]])
    expected = bert(input_ids=ids, output_hidden_states=True).hidden_states
    found = states(bert, ids, torch.ones_like(ids), [Site("source", layer) for layer in range(4)])
    assert all(torch.equal(found[Site("source", layer)], expected[layer]) for layer in range(4))
    with pytest.raises(TransferError, match="the layers of a 'xlm-roberta-xl' encoder are not known"):
        calibration.depth(XLMRobertaXLModel(XLMRobertaXLConfig(vocab_size=50, **shape)))


def test_too_little_text_is_refused(tiny_xlmr, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences):
    inputs = Inputs(
        settings=EmbeddingsTransfer(), target=tiny_mbart, vocabulary=None, tokens=[], counts=np.zeros(0),
        source_after=tiny_xlmr, texts=["The library"] * 2, languages=["en"] * 2, source_tokenizer=xlmr_tokenizer,
        target_tokenizer=mbart_tokenizer,
    )  # fmt: skip
    with pytest.raises(TransferError, match=r"only 12 tokens, in 2 documents, .* up to 48 wide"):
        Calibration.of(inputs, tiny_xlmr, tokens=10**6)


@pytest.fixture
def image(calibrated, monkeypatch):
    """States of a target that are a linear image of a source's: source 16 wide with 6 layers, target 24 with 3."""
    generator = torch.Generator().manual_seed(3)
    phi = [0, 2, 3, 6]
    source = torch.randn(7, len(calibrated.source.embeddings.word_embeddings.weight), 16, generator=generator)
    source[1:] = source[1:].tanh() + 0.5 * source[:-1]
    maps = [(torch.randn(16, 24, generator=generator), torch.randn(24, generator=generator)) for _ in phi]

    def fake(encoder, ids, mask, sites, after):
        rows = {}
        for site in sites:
            layer = site.layer if site.side == "source" else phi[site.layer]
            # below the tails ids coincide; special tokens are read, but not compared
            values = source[layer][ids.clamp(max=source.shape[1] - 1)]
            rows[site] = values if site.side == "source" else values @ maps[site.layer][0] + maps[site.layer][1]
        return rows

    monkeypatch.setattr(calibration, "states", fake)
    monkeypatch.setattr(calibration, "depth", lambda encoder: 6 if encoder is calibrated.source else 3)
    return phi, maps


def test_an_exact_image_is_found_with_its_layers(calibrated, image):
    phi, maps = image
    similarity = calibrated.cka()
    assert similarity.shape == (7, 4)
    assert match_layers(similarity) == phi
    # a linear map that is not orthogonal distorts: below 1, but above all other layers
    assert all(similarity[k, layer] == similarity[:, layer].max() for layer, k in enumerate(phi))
    pairs = [(Site("source", k), Site("target", layer)) for layer, k in enumerate(phi)]
    for pair, (weight, intercept) in zip(pairs, maps, strict=True):
        fitted = calibrated.fit([pair], 0.0)[pair]
        torch.testing.assert_close(fitted.map.weight.float(), weight, atol=1e-5, rtol=0)  # measured 1.3e-7
        torch.testing.assert_close(fitted.map.intercept.float(), intercept, atol=1e-5, rtol=0)
        assert fitted.heldout_r2 == pytest.approx(1.0, abs=1e-9)


def unbiased_hsic(k, m):
    """Song et al. 2012, equation 5, as it is written there."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    inner = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
    return inner / (n * (n - 3))


def test_cka_equals_its_definition(calibrated, monkeypatch):
    monkeypatch.setattr(calibration, "CKA_TOKENS", 50)
    found = calibrated.cka()
    groups = [[]]
    for document in calibrated.documents:  # minibatches of whole documents, closed once they have 50 tokens
        if sum(len(d.source_places) for d in groups[-1]) >= 50:
            groups.append([])
        groups[-1].append(document)
    groups = [group for group in groups if sum(len(d.source_places) for d in group) >= 50]
    assert len(groups) > 1
    sums = np.zeros((3, 3, 3))
    for group in groups:
        group = sorted(group, key=lambda document: -len(document.source))
        states_of = [
            in_memory(calibrated, group, Site(side, layer)) for side in ("source", "target") for layer in range(3)
        ]
        count = len(states_of[0])
        rows = np.linspace(0, count - 1, 50).astype(int)
        grams = [state[rows] @ state[rows].T for state in states_of]
        for i, j in itertools.product(range(3), range(3)):
            sums[0, i, j] += unbiased_hsic(grams[i], grams[3 + j])
            sums[1, i, j] += unbiased_hsic(grams[i], grams[i])
            sums[2, i, j] += unbiased_hsic(grams[3 + j], grams[3 + j])
    np.testing.assert_allclose(found, sums[0] / np.sqrt(sums[1] * sums[2]), atol=1e-5)  # measured 1e-9


def test_cka_of_unrelated_states_is_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    products = []
    for _ in range(200):
        a, b = (calibration._centred_gram(torch.randn(12, 30, generator=generator)) for _ in range(2))
        products.append(float(a @ b / (a @ a * (b @ b)).sqrt()))
    # a biased estimate would give 0.7 at 12 tokens 30 wide; standard error of the mean 0.01
    assert abs(np.mean(products)) < 0.04


@pytest.mark.parametrize(("layers", "wide"), [(5, 3), (3, 5), (4, 4)])
def test_the_layer_map_is_the_best_monotone_one(layers, wide):
    similarity = np.random.default_rng(layers).random((layers + 1, wide + 1))
    monotone = [m for m in itertools.product(range(1, layers + 1), repeat=wide) if list(m) == sorted(m)]
    best = max(monotone, key=lambda m: sum(similarity[k, layer] for layer, k in enumerate(m, start=1)))
    assert match_layers(similarity) == [0, *best]

"""What holds for every method of transfer: seeds, plans, what stays as it is, placebos, prices, figures."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from polygraft.checks.other_needs import transfer_need
from polygraft.checks.speed import Probe
from polygraft.models.checkpoints import load_config
from polygraft.objectives import MLM
from polygraft.settings import OneOf, TextData
from polygraft.stages import adapt, transfer
from polygraft.transfers.methods import METHODS, depends_on_seed

SHORT = {"budget": {"steps": 2}, "per_device_train_batch_size": 4, "precision": "fp32"}
# A new method is one line here, and has to keep all that this file asks.
WAYS = {
    "repair": {"method": "embeddings", "mode": "repair"},
    "recentre": {"method": "embeddings", "mode": "recentre"},
    "delta": {"method": "embeddings", "mode": "delta"},
    "bottleneck": {"method": "bottleneck"},
    "encoder": {"method": "encoder"},
    "distill": {"method": "distill", **SHORT},
    "none": {"method": "none"},
}
EVERY = pytest.mark.parametrize("way", WAYS)
PROBE = Probe(1e9, 1e9, 2**34, 0)


def settings_of(way, **changes):
    return OneOf("method", METHODS).read(WAYS[way] | changes)


def test_every_method_is_asked():
    assert {way["method"] for way in WAYS.values()} == set(METHODS)


@pytest.fixture(scope="module")
def models(tmp_path_factory, write_tiny_models, sentences):
    """A source as it was, adapted in full and by an adapter, a target, and the text of the adaptation."""
    folder = tmp_path_factory.mktemp("contract")
    write_tiny_models(folder)
    _forget_rows(folder / "mbart")
    (folder / "text.txt").write_text("\n".join(sentences * 2), encoding="utf-8")
    text = TextData(train_file=str(folder / "text.txt"), validation_file=str(folder / "text.txt"), lang="uk")
    source = str(folder / "xlmr")
    for name, how in (("full", {}), ("adapter", {"adapter": {"type": "bottleneck"}})):
        adapt.run(MLM(learning_rate=1e-2, **SHORT, **how), source, text, 1, folder / name)
    return SimpleNamespace(folder=folder, source=source, target=str(folder / "mbart"), text=text)


def _forget_rows(folder):
    """Make a checkpoint's every third piece one that it never learned: on a common drift, as that of <pad>."""
    target = AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        rows, generator = target.get_input_embeddings().weight, torch.Generator().manual_seed(3)
        drift = torch.randn(rows.shape[1], generator=generator)
        rows[4:-60:3] = drift + 0.02 * torch.randn(rows[4:-60:3].shape, generator=generator)
        rows[1] = drift
    target.save_pretrained(folder)


@pytest.fixture(scope="module")
def made(models):
    """Carries a transfer out, each one once; returns its folder, weights, plan and diagnostics."""
    known = {}

    def _made(way, seed=1, **changes):
        key = way, seed, tuple(changes.items())
        if key not in known:
            out = models.folder / f"out-{len(known)}"
            settings = settings_of(way, **changes)
            given = needed(models, way, settings)
            transfer.run(settings, *given, models.target, models.text, out, seed=seed)
            weights = load_file(out / "model.safetensors")
            if (out / "adapter").is_dir():
                weights |= load_file(next((out / "adapter").glob("*.safetensors")))
            read = (json.loads((out / name).read_text(encoding="utf-8")) for name in ("plan.json", "diagnostics.json"))
            known[key] = SimpleNamespace(weights=weights, plan=next(read), diagnostics=next(read))
        return known[key]

    return _made


def needed(models, way, settings):
    adapted = str(models.folder / ("adapter" if way == "bottleneck" else "full"))
    before, after = settings.needs.source_before, settings.needs.source_after
    return models.source if before else None, adapted if after else None


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@EVERY
def test_the_seed_decides_and_nothing_else(made, models, way):
    """Twice the same seed gives the same bits; another one does, too, but where something is drawn."""
    settings, again = settings_of(way), models.folder / f"again-{way}"
    transfer.run(settings, *needed(models, way, settings), models.target, models.text, again, seed=1)
    first = load_file(again / "model.safetensors")
    assert all(torch.equal(first[name], made(way).weights[name]) for name in first)
    assert same(made(way).weights, made(way, seed=2).weights) != settings.draws
    assert depends_on_seed(settings, models.text) == settings.draws
    assert depends_on_seed(settings, models.text.model_copy(update={"validation_file": None}))


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"encoder"}))  # whose result has other names: test_encoder.py
def test_what_the_plan_keeps_is_kept_bit_by_bit(made, models, way):
    """Tensors and rows that stay the target's; the plan says what the ids of the others are."""
    target, found = load_file(f"{models.target}/model.safetensors"), made(way)
    kept = [e for e in found.plan["entries"] if (e["origin"], e["transform"]) == ("target", "keep")]
    compared = 0
    for entry in kept:
        name = entry["tensor"]
        old, new = (state.get(found.plan["tied"].get(name, name)) for state in (target, found.weights))
        if old is None or new is None:  # stored under the name of what it is tied to, or another in a graft
            continue
        ids = slice(None)
        if entry["ids"] is not None:
            ids = np.concatenate([np.arange(low, high + 1) for low, high in entry["ids"]])
        assert torch.equal(old[ids], new[ids]), name
        compared += 1
    assert compared > 3


@EVERY
def test_its_figures_are_numbers_that_are_explained(made, way):
    found = made(way)
    explained = METHODS[WAYS[way]["method"]].explanations
    for name, value in (found.plan["figures"] | found.diagnostics).items():
        assert math.isfinite(value), name
        assert len(explained[name.partition(".")[0]]) > 20, name


@EVERY
@pytest.mark.parametrize("control", ["random", "permuted"])
def test_a_placebo_does_the_same_with_something_else(made, models, way, control):
    """The same tensors at the same price, other values; a method without a source has none."""
    real = settings_of(way)
    placebo = real.with_control(control)
    if not real.needs.source:
        assert placebo is None or real.variant == ("mode", "recentre")
        return
    assert placebo.placebo
    assert placebo.draws
    assert not real.placebo
    assert placebo.needs == real.needs
    drawn = made(way, control=control)
    assert not same(made(way).weights, drawn.weights)
    written = [
        {
            (e["tensor"], str(e["ids"]))
            for e in one.plan["entries"]
            if (e["origin"], e["transform"]) != ("target", "keep")
        }
        for one in (made(way), drawn)
    ]
    assert {tensor for tensor, _ in written[0]} == {tensor for tensor, _ in written[1]}
    assert {e["reason"] for e in drawn.plan["entries"] if e["reason"].startswith("control: ")}
    source, target = load_config(models.source), load_config(models.target)
    prices = [transfer_need(one, [source], target, target, PROBE) for one in (real, placebo)]
    assert prices[0] == prices[1]

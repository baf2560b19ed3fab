"""Bottleneck adapters, carried from the source's layers to the target's.

Row vectors. a: the source's hidden states at a layer; z: the target's as a LayerNorm makes them, without its gain and
bias. With ridge maps

    a ~ z Q + q        z ~ a P + p

between the two models before adaptation, the source's adapter becomes the target's:

    a + U g(D a + d)    ->    z + V g(D Q^T z + d + D q)

V is fitted: what comes out of the bottleneck shall be the source's change, P^T U g(D a + d), by ridge. Where the maps
are exact V is P^T U. Where they are not, as between real models, what the bottleneck reads is off, and the best V for
that is another than P^T U.

XLM-R's layers end in a LayerNorm (post-LN); mBART's hand on a residual sum of any scale, which the next layer reads
through its LayerNorm (pre-LN). A change of z by delta is one of the residual by delta times its standard deviation, for
every token another: that is what a `normalize`d adapter does (models/bottleneck.py).

N tokens, a and b widths of source and target, r width of the bottleneck.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from polygraft.models.bottleneck import Adapter
from polygraft.transfers.controls import PERMUTED, RANDOM, noise_like, sized_like
from polygraft.transfers.linear_map import LinearMap, Moments
from polygraft.transfers.states.alignment import Aligned
from polygraft.transfers.states.calibration import Calibration, Pair, Place, Shuffled, Site

Key = tuple[str, int]  # an adapter's name and its target layer
Made = Mapping[Key, Adapter]
SMALLEST_GAIN = 1e-6  # a direction that the LayerNorm silences cannot be changed through it


def carry(
    calibration: Calibration,
    adapters: Mapping[str, Sequence[Adapter]],
    groups: Mapping[int, Sequence[int]],
    ridge: float,
    control: str = "none",
) -> tuple[dict[str, dict[int, Adapter]], dict[str, float]]:
    """Carry bottlenecks (by name, one per source layer) to target layers; returns them and what is measured of them.

    `control`: return placebos instead (controls.py). `random`: D, d and V are noise. `permuted`: D is carried by maps
    between the states of different tokens, and V fitted to the changes of other tokens. D and d have the norms of the
    real ones; V is such that the changes of the states are as large as the real ones, as root mean square over the
    tokens that the maps are fitted on.
    """
    norms = {(k, layer): reading_norm(calibration.target, layer) for layer, some in groups.items() for k in some}
    inward = {(k, layer): (Site("target", layer), Site("source", k)) for k, layer in norms}
    outward = {key: (source, target) for key, (target, source) in inward.items()}
    wrong = {key: (Shuffled(target), source) for key, (target, source) in inward.items()} if control == PERMUTED else {}
    fitted = calibration.fit([*inward.values(), *outward.values(), *wrong.values()], ridge)

    def readers(pairs: Mapping[tuple[int, int], Pair]) -> dict[Key, Adapter]:
        maps = {key: from_normalized(fitted[pair].map, norms[key]) for key, pair in pairs.items()}
        return {(name, layer): _reader([(by_layer[k - 1], maps[k, layer]) for k in sources])
                for name, by_layer in adapters.items() for layer, sources in groups.items()}  # fmt: skip

    real = placebo = readers(inward)
    if control == RANDOM:
        generator = torch.Generator().manual_seed(calibration.seed)
        placebo = {key: _random(adapter, generator) for key, adapter in real.items()}
    elif control == PERMUTED:
        placebo = {key: _sized(adapter, real[key]) for key, adapter in readers(wrong).items()}
    maps = {key: to_normalized(fitted[pair].map, norms[key]) for key, pair in outward.items()}
    ask = partial(_moments, calibration, adapters, groups, maps)
    _write(real, placebo, partial(ask, calibration.documents), ridge, control)
    figures: dict[str, float] = {}
    for layer, sources in groups.items():
        for what, used in (("input_map", inward | wrong), ("output_map", outward)):
            scores = [fitted[used[k, layer]].heldout_r2 for k in sources]
            figures[f"{what}_heldout_r2.{layer}"] = float(np.mean(scores))
    for (name, layer), found in ask(calibration.held_out, [(placebo, False)])[0].items():
        if found.squares_b.any():  # an adapter that was not trained wants no change
            made = _writes(placebo[name, layer])
            figures[f"change_heldout_r2.{name}.{layer}"] = found.explained(made)
            figures[f"change_heldout_r2_centred.{name}.{layer}"] = found.r_squared(made)
    return {name: {layer: placebo[name, layer] for layer in groups} for name in adapters}, figures


def _write(real: Made, placebo: Made, ask: Callable[..., list[dict[Key, Moments]]], ridge: float, control: str) -> None:
    """Fit V, in place; of a placebo, give it the size of the real one's changes."""
    asked = [(real, False)] if control == "none" else [(real, False), (placebo, control == PERMUTED)]
    moments, *others = ask(asked=asked)
    for key, adapter in placebo.items():
        best = moments[key].through_origin(ridge)
        if control == "none":
            adapter.up.weight.data = best.weight.T.float()
            continue
        if control == PERMUTED:
            adapter.up.weight.data = others[0][key].through_origin(ridge).weight.T.float()
        size = others[0][key].size(_writes(adapter))
        adapter.up.weight.data *= moments[key].size(best) / size if size else 0.0


def from_normalized(q: LinearMap, norm: nn.LayerNorm) -> LinearMap:
    """Return Q [b, a] with q from states without the LayerNorm's gain and bias, of a map from states with them."""
    gain_b, bias_b = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
    return LinearMap(gain_b[:, None] * q.weight, bias_b @ q.weight + q.intercept)


def to_normalized(p: LinearMap, norm: nn.LayerNorm) -> Tensor:
    """Return P [a, b] to states without the LayerNorm's gain, of a map to states with it."""
    gain_b = norm.weight.detach().double().cpu()
    return p.weight * torch.where(gain_b.abs() > SMALLEST_GAIN, 1 / gain_b, 0.0)


def reading_norm(encoder: Any, layer: int) -> nn.LayerNorm:
    """Return the LayerNorm of mBART's encoder that reads what a layer (from 1) hands on."""
    return encoder.layers[layer].self_attn_layer_norm if layer < len(encoder.layers) else encoder.layer_norm


def _reader(ways: Sequence[tuple[Adapter, LinearMap]]) -> Adapter:
    """An adapter of the target that reads what those of several source layers read, side by side; V is 0."""
    down, bias = [], []
    for adapter, q in ways:
        down_ra = adapter.down.weight.detach().double().cpu()
        down.append(down_ra @ q.weight.T)
        bias.append(adapter.down.bias.detach().double().cpu() + down_ra @ q.intercept)
    settings = ways[0][0].settings.model_copy(update={"normalize": True, "bottleneck_size": sum(map(len, down))})
    new = Adapter(down[0].shape[1], settings)
    new.down.weight.data, new.down.bias.data = torch.cat(down).float(), torch.cat(bias).float()
    return new


@torch.no_grad()
def _random(adapter: Adapter, generator: torch.Generator) -> Adapter:
    """An adapter of noise, D and d of the norms of the given one's."""
    placebo = copy.deepcopy(adapter)
    for parameter in placebo.down.parameters():
        parameter.copy_(noise_like(parameter, generator))
    placebo.up.weight.copy_(torch.randn(placebo.up.weight.shape, generator=generator, dtype=torch.float64))
    return placebo


@torch.no_grad()
def _sized(adapter: Adapter, model: Adapter) -> Adapter:
    """Scale D and d to the norms of another adapter's."""
    for mine, other in zip(adapter.down.parameters(), model.down.parameters(), strict=True):
        mine.copy_(sized_like(mine, other))
    return adapter


def _writes(adapter: Adapter) -> LinearMap:
    """V, from what comes out of the bottleneck to the change."""
    return LinearMap.through_origin(adapter.up.weight.detach().double().T)


@torch.inference_mode()
def _moments(
    calibration: Calibration,
    adapters: Mapping[str, Sequence[Adapter]],
    groups: Mapping[int, Sequence[int]],
    maps: Mapping[tuple[int, int], Tensor],
    documents: Sequence[Aligned],
    asked: Sequence[tuple[Made, bool]],
) -> list[dict[Key, Moments]]:
    """Moments of what comes out of bottlenecks of the target, and of the source's mapped change, shuffled or not."""
    sites: list[Place] = [Site("source", k) for sources in groups.values() for k in sources]
    if any(shuffled for _, shuffled in asked):
        sites += [Shuffled(Site("source", k)) for sources in groups.values() for k in sources]
    found: list[dict[Key, Moments]] = [{} for _ in asked]
    for at in calibration.stream(documents, [*sites, *(Site("target", layer, normed=False) for layer in groups)]):
        for moments, (made, shuffled) in zip(found, asked, strict=True):
            for (name, layer), adapter in made.items():
                residual_Nb = at[Site("target", layer, normed=False)]
                inner_Nr = adapter.function(adapter.down(layer_norm(residual_Nb, residual_Nb.shape[-1:])))
                changes_Nb = []
                for k in groups[layer]:
                    site = Site("source", k)
                    a_Na = at[Shuffled(site) if shuffled else site]
                    changes_Nb.append(adapters[name][k - 1].change(a_Na).double() @ maps[k, layer])
                key = name, layer
                if key not in moments:
                    moments[key] = Moments(inner_Nr.shape[1], residual_Nb.shape[1])
                moments[key].add(inner_Nr, torch.stack(changes_Nb).sum(0))
    return found

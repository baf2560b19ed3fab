"""Bottleneck adapters, carried from the source's layers to the target's.

Row vectors. a: the source's hidden states at a layer; z: the target's as a LayerNorm makes them, without its gain and
bias. With ridge maps

    a ~ z Q + q        z ~ a P + p

between the two models before adaptation, the source's adapter becomes the target's:

    a + U g(D a + d)    ->    z + rho P^T U g(D Q^T z + d + D q)

XLM-R's layers end in a LayerNorm (post-LN); mBART's hand on a residual sum of any scale, which the next layer reads
through its LayerNorm (pre-LN). A change of z by delta is one of the residual by delta times its standard deviation, for
every token another: that is what a `normalize`d adapter does (models/bottleneck.py). rho, one factor per layer, is the
least-squares fit of what the adapter does in the target to what it should do; it is 1 where the maps are exact.

N tokens, a and b widths of source and target, r width of the bottleneck.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from polygraft.models.bottleneck import Adapter
from polygraft.transfer.alignment import Aligned
from polygraft.transfer.calibration import Calibration, Fitted, Pair, Shuffled, Site
from polygraft.transfer.controls import PERMUTED, RANDOM, noise_like, sized_like
from polygraft.transfer.linear_map import LinearMap

Key = tuple[str, int]  # an adapter's name and its target layer
SMALLEST_GAIN = 1e-6  # a direction that the LayerNorm silences cannot be changed through it


def carry(
    calibration: Calibration,
    adapters: Mapping[str, Sequence[Adapter]],
    groups: Mapping[int, Sequence[int]],
    ridge: float,
    control: str = "none",
) -> tuple[dict[str, dict[int, Adapter]], dict[str, float]]:
    """Carry bottlenecks (by name, one per source layer) to target layers; returns them and what is measured of them.

    `control`: return placebos instead (controls.py). `random`: D, d and U are noise. `permuted`: they are carried by
    maps between the states of different tokens. D and d have the norms of the real ones; U is such that the changes of
    the states are as large as the real ones, as root mean square over the tokens that the maps are fitted on.
    """
    pairs = [pair for layer, sources in groups.items() for k in sources for pair in _pairs(k, layer)]
    wrong = {pair: (Shuffled(pair[0]), pair[1]) for pair in pairs} if control == PERMUTED else {}
    fitted = calibration.fit([*pairs, *wrong.values()], ridge)
    norms = {layer: reading_norm(calibration.target, layer) for layer in groups}
    maps = {(k, layer): _maps(fitted, _pairs(k, layer), norms[layer]) for layer, some in groups.items() for k in some}
    generator = torch.Generator().manual_seed(calibration.seed)
    made: dict[Key, list[Adapter]] = {}  # the adapter that is carried, and its placebo, if any
    for name, by_layer in adapters.items():
        for layer, sources in groups.items():
            made[name, layer] = [_carried([(by_layer[k - 1], *maps[k, layer]) for k in sources])]
            if control == RANDOM:
                made[name, layer].append(_random(made[name, layer][0], generator))
            elif control == PERMUTED:
                wrongly = [_maps(fitted, [wrong[pair] for pair in _pairs(k, layer)], norms[layer]) for k in sources]
                placebo = _carried([(by_layer[k - 1], *ways) for k, ways in zip(sources, wrongly, strict=True)])
                made[name, layer].append(_sized(placebo, made[name, layer][0]))
    figures: dict[str, float] = {}
    for layer, sources in groups.items():
        for what, way in (("input_map", 0), ("output_map", 1)):
            used = [_pairs(k, layer)[way] for k in sources]
            scores = [fitted[wrong.get(pair, pair)].heldout_r2 for pair in used]
            figures[f"{what}_heldout_r2.{layer}"] = float(np.mean(scores))
    figures |= _scale(calibration, adapters, made, groups, maps)
    return {name: {layer: made[name, layer][-1] for layer in groups} for name in adapters}, figures


def _scale(
    calibration: Calibration,
    adapters: Mapping[str, Sequence[Adapter]],
    made: Mapping[Key, Sequence[Adapter]],
    groups: Mapping[int, Sequence[int]],
    maps: Mapping[tuple[int, int], tuple[LinearMap, Tensor]],
) -> dict[str, float]:
    """Multiply the last of every `made` by its factor: rho, or that which makes a placebo's change as large."""
    figures: dict[str, float] = {}
    on = [_products(calibration, documents, adapters, made, groups, maps)
          for documents in (calibration.documents, calibration.held_out)]  # fmt: skip
    for (name, layer), candidates in made.items():
        fit, held_out = (found[name, layer] for found in on)
        rho = factor = float(fit[0, 1] / fit[1, 1]) if fit[1, 1] else 1.0
        if len(candidates) > 1:
            factor = abs(rho) * float(fit[1, 1] / fit[-1, -1]) ** 0.5 if fit[-1, -1] else 0.0
        candidates[-1].up.weight.data *= factor
        figures[f"rho.{name}.{layer}"] = rho
        if whole := float(held_out[0, 0]):  # an adapter that was not trained wants no change
            missed = whole - 2 * factor * float(held_out[0, -1]) + factor**2 * float(held_out[-1, -1])
            figures[f"change_heldout_r2.{name}.{layer}"] = 1 - missed / whole
    return figures


def _pairs(k: int, layer: int) -> tuple[tuple[Site, Site], tuple[Site, Site]]:
    """The maps Q and P between source layer k and a target layer."""
    source, target = Site("source", k), Site("target", layer)
    return (target, source), (source, target)


def _maps(fitted: Mapping[Pair, Fitted], pairs: Sequence[Pair], norm: nn.LayerNorm) -> tuple[LinearMap, Tensor]:
    """Q [b, a] with q, and P [a, b], of normalized states: the LayerNorm's gain and bias go into the maps."""
    gain_b, bias_b = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
    q, p = (fitted[pair].map for pair in pairs)
    return LinearMap(gain_b[:, None] * q.weight, bias_b @ q.weight + q.intercept), to_normalized(p, norm)


def to_normalized(p: LinearMap, norm: nn.LayerNorm) -> Tensor:
    """Return P [a, b] to states without the LayerNorm's gain, of a map to states with it."""
    gain_b = norm.weight.detach().double().cpu()
    return p.weight * torch.where(gain_b.abs() > SMALLEST_GAIN, 1 / gain_b, 0.0)


def reading_norm(encoder: Any, layer: int) -> nn.LayerNorm:
    """Return the LayerNorm of mBART's encoder that reads what a layer (from 1) hands on."""
    return encoder.layers[layer].self_attn_layer_norm if layer < len(encoder.layers) else encoder.layer_norm


def _carried(ways: Sequence[tuple[Adapter, LinearMap, Tensor]]) -> Adapter:
    """One adapter for the target from those of several source layers, side by side; rho = 1."""
    down, bias, up = [], [], []
    for adapter, q, p_ab in ways:
        down_ra, up_ar = (module.weight.detach().double().cpu() for module in (adapter.down, adapter.up))
        down.append(down_ra @ q.weight.T)
        bias.append(adapter.down.bias.detach().double().cpu() + down_ra @ q.intercept)
        up.append(p_ab.T @ up_ar)
    size = sum(map(len, down))
    settings = ways[0][0].settings.model_copy(update={"normalize": True, "bottleneck_size": size})
    new = Adapter(up[0].shape[0], settings)
    values = {"down.weight": torch.cat(down), "down.bias": torch.cat(bias), "up.weight": torch.cat(up, 1)}
    new.load_state_dict({key: value.float() for key, value in values.items()})
    return new


@torch.no_grad()
def _random(adapter: Adapter, generator: torch.Generator) -> Adapter:
    """An adapter of noise, each of its matrices of the norm of the given one's."""
    placebo = copy.deepcopy(adapter)
    for parameter in placebo.parameters():
        parameter.copy_(noise_like(parameter, generator))
    return placebo


@torch.no_grad()
def _sized(adapter: Adapter, model: Adapter) -> Adapter:
    """Scale D and d to the norms of another adapter's; U gets its size from the changes."""
    for mine, other in ((adapter.down.weight, model.down.weight), (adapter.down.bias, model.down.bias)):
        mine.copy_(sized_like(mine, other))
    return adapter


@torch.inference_mode()
def _products(
    calibration: Calibration,
    documents: Sequence[Aligned],
    adapters: Mapping[str, Sequence[Adapter]],
    made: Mapping[Key, Sequence[Adapter]],
    groups: Mapping[int, Sequence[int]],
    maps: Mapping[tuple[int, int], tuple[LinearMap, Tensor]],
) -> dict[Key, Tensor]:
    """Inner products, summed over tokens, of the source's change, mapped, and what each adapter made of it changes.

    Returns float64 [1 + M, 1 + M] for M adapters, in this order.
    """
    sums = {key: torch.zeros(1 + len(some), 1 + len(some), dtype=torch.float64) for key, some in made.items()}
    sites = [Site("source", k) for sources in groups.values() for k in sources]
    for at in calibration.stream(documents, [*sites, *(Site("target", layer, normed=False) for layer in groups)]):
        for (name, layer), candidates in made.items():
            residual_Nb = at[Site("target", layer, normed=False)]
            z_Nb = layer_norm(residual_Nb, residual_Nb.shape[-1:])
            changes = [adapters[name][k - 1].change(at[Site("source", k)]).double() @ maps[k, layer][1]
                       for k in groups[layer]]  # fmt: skip
            both = torch.stack([torch.stack(changes).sum(0), *(one.change(z_Nb).double() for one in candidates)])
            sums[name, layer] += torch.stack([torch.stack([(x * y).sum() for y in both]) for x in both])
    return sums

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

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from polygraft.models.bottleneck import Adapter
from polygraft.transfer.alignment import Aligned
from polygraft.transfer.calibration import Calibration, Fitted, Pair, Site
from polygraft.transfer.linear_map import LinearMap

SMALLEST_GAIN = 1e-6  # a direction that the LayerNorm silences cannot be changed through it


def carry(
    calibration: Calibration,
    adapters: Mapping[str, Sequence[Adapter]],
    groups: Mapping[int, Sequence[int]],
    ridge: float,
) -> tuple[dict[str, dict[int, Adapter]], dict[str, float]]:
    """Carry bottlenecks (by name, one per source layer) to target layers; returns them and what is measured of them."""
    pairs = [pair for layer, sources in groups.items() for k in sources for pair in _pairs(k, layer)]
    fitted = calibration.fit(pairs, ridge)
    encoder: Any = calibration.target
    norms = [*(layer.self_attn_layer_norm for layer in encoder.layers), encoder.layer_norm]
    maps = {(k, layer): _maps(fitted, k, layer, norms[layer]) for layer, sources in groups.items() for k in sources}
    carried: dict[str, dict[int, Adapter]] = {}
    figures: dict[str, float] = {}
    for layer, sources in groups.items():
        for what, way in (("input_map", 0), ("output_map", 1)):
            figures[f"{what}_heldout_r2.{layer}"] = float(
                np.mean([fitted[_pairs(k, layer)[way]].heldout_r2 for k in sources])
            )
        for name, by_layer in adapters.items():
            ways = [(by_layer[k - 1], *maps[k, layer]) for k in sources]
            carried.setdefault(name, {})[layer] = _carried(ways)
    wanted = {key: _agreement(calibration, docs, adapters, carried, groups, maps) for key, docs in (
        ("fit", calibration.documents), ("heldout", calibration.held_out))}  # fmt: skip
    for (name, layer), (_, both, own) in wanted["fit"].items():
        rho = both / own if own else 1.0
        carried[name][layer].up.weight.data *= rho
        whole, both, own = wanted["heldout"][name, layer]
        figures[f"rho.{name}.{layer}"] = rho
        if whole:  # an adapter that was not trained wants no change
            figures[f"change_heldout_r2.{name}.{layer}"] = 1 - (whole - 2 * rho * both + rho**2 * own) / whole
    return carried, figures


def _pairs(k: int, layer: int) -> tuple[Pair, Pair]:
    """The maps Q and P between source layer k and a target layer."""
    source, target = Site("source", k), Site("target", layer)
    return (target, source), (source, target)


def _maps(fitted: Mapping[Pair, Fitted], k: int, layer: int, norm: nn.LayerNorm) -> tuple[LinearMap, Tensor]:
    """Q [b, a] with q, and P [a, b], of normalized states: the LayerNorm's gain and bias go into the maps."""
    gain_b, bias_b = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
    q, p = (fitted[pair].map for pair in _pairs(k, layer))
    inverse_b = torch.where(gain_b.abs() > SMALLEST_GAIN, 1 / gain_b, 0.0)
    return LinearMap(gain_b[:, None] * q.weight, bias_b @ q.weight + q.intercept), p.weight * inverse_b


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


@torch.inference_mode()
def _agreement(
    calibration: Calibration,
    documents: Sequence[Aligned],
    adapters: Mapping[str, Sequence[Adapter]],
    carried: Mapping[str, Mapping[int, Adapter]],
    groups: Mapping[int, Sequence[int]],
    maps: Mapping[tuple[int, int], tuple[LinearMap, Tensor]],
) -> dict[tuple[str, int], tuple[float, float, float]]:
    """Sum t.t, t.s and s.s over tokens, by name and layer: t the source's change, mapped, s the carried adapter's."""
    sums = {(name, layer): torch.zeros(3, dtype=torch.float64) for name in adapters for layer in groups}
    sites = [Site("source", k) for sources in groups.values() for k in sources]
    for at in calibration.stream(documents, [*sites, *(Site("target", layer, normed=False) for layer in groups)]):
        for name, by_layer in adapters.items():
            for layer, sources in groups.items():
                mapped = [by_layer[k - 1].change(at[Site("source", k)]).double() @ maps[k, layer][1] for k in sources]
                wanted_Nb = torch.stack(mapped).sum(0)
                residual_Nb = at[Site("target", layer, normed=False)]
                own_Nb = carried[name][layer].change(layer_norm(residual_Nb, residual_Nb.shape[-1:])).double()
                products = ((wanted_Nb, wanted_Nb), (wanted_Nb, own_Nb), (own_Nb, own_Nb))
                sums[name, layer] += torch.stack([(x * y).sum() for x, y in products])
    return {key: (float(v[0]), float(v[1]), float(v[2])) for key, v in sums.items()}

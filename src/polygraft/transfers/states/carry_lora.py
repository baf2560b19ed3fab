"""LoRA, carried from the source's layers to the target's by what it does.

LoRA changes the insides of a layer, and those of a post-LN and a pre-LN layer do not correspond: their heads and
neurons have no common order, and linear maps between them carry noise. What corresponds are the states between layers.
Row vectors; a: what source layer k reads before adaptation, h: what the target's fc2 reads, s: a token's standard
deviation in the residual, P: the map of normalized states (carry_bottleneck.py). The layer's change

    delta_k = layer_k^t(a) - layer_k^0(a)

is asked of the target's layer, and fc2, the last to write into the residual, makes what it can of it by a change of
LoRA's own rank:

    minimise over W of rank r    sum_N |h W / s - sum_k delta_k P_k|^2 + ridge

A reduced-rank regression, closed in form (`Moments.low_rank`). The result is LoRA again, on fc2 alone.

N tokens, r rank, h and b widths of the target's feed-forward and of its states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftConfig
from safetensors import safe_open
from torch import Tensor

from polygraft.errors import TransferError
from polygraft.models import bottleneck
from polygraft.transfers.contract import Inputs
from polygraft.transfers.controls import PERMUTED, noise_like
from polygraft.transfers.linear_map import LinearMap, Moments
from polygraft.transfers.states.alignment import Aligned
from polygraft.transfers.states.calibration import Calibration, Change, Place, Read, Shuffled, Site
from polygraft.transfers.states.carry_bottleneck import reading_norm, to_normalized

HOST = "fc2"
Factors = tuple[Tensor, Tensor]  # A [r, h] and B [b, r] of LoRA: W^T = B A
Wanted = Mapping[int, Sequence[tuple[Change, Tensor]]]  # by target layer: what, and the maps P [a, b] that it goes by


def rank_of(inputs: Inputs) -> int:
    """Return the rank of the LoRA in the source's `adapter/`.

    Raises:
        TransferError: there is none, it is of another kind, changes more than the encoder's layers, or was trained on
            another model than `source_before`.
    """
    folder = inputs.adapter
    if folder is None or not (folder / bottleneck.CONFIG).is_file():
        raise TransferError(
            "the adapted source has no adapter/ folder. Adapt it with `adapter: {type: bottleneck}` or `{type: lora}`, "
            "or use method: embeddings."
        )
    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.peft_type != "LORA":
        raise TransferError(f"{folder}: is of PEFT's kind '{config.peft_type}', but only LoRA can be carried across.")
    with safe_open(folder / bottleneck.WEIGHTS, framework="pt") as file:
        found = (re.match(r"(?:base_model\.model\.)?(.+)\.lora_A\.weight$", key) for key in file.keys())  # noqa: SIM118
        modules = tuple(f"{name[1]}." for name in found if name)
        trained = any(file.get_tensor(key).any() for key in file.keys() if ".lora_B." in key)  # noqa: SIM118
    outside = [name for name in modules if not re.search(r"encoder\.layer\.\d+\.", name)]
    if outside:
        raise TransferError(f"LoRA on {outside[0][:-1]}: only that inside the encoder's layers is carried across.")
    before, after = (model.base_model.state_dict() for model in (inputs.source_before, inputs.source_after))
    prefix = inputs.source_before.base_model_prefix
    differ = [f"{prefix}.{name}" for name, value in before.items() if not torch.equal(value, after[name])]
    others = [name for name in differ if not name.startswith(modules)]
    if others or (trained and not differ):
        what = f"{others[0]} differs, too" if others else "the two are equal"
        raise TransferError(
            f"{folder}: this LoRA on source_before does not give source_after: {what}. Give the model that it was "
            "trained on as source_before."
        )
    return int(config.r)


def carry(
    calibration: Calibration, rank: int, groups: Mapping[int, Sequence[int]], ridge: float, control: str = "none"
) -> tuple[dict[int, Factors], dict[str, float]]:
    """Return LoRA for fc2 of each target layer, float64, and how well the maps do.

    `control`: return placebos instead (controls.py): noise of the same rank, or what is fitted to the changes of other
    tokens. Each changes the states by as much as the real one, as root mean square over the tokens fitted on.
    """
    fitted = calibration.fit(
        [(Site("source", k), Site("target", layer)) for layer in groups for k in groups[layer]], ridge
    )
    wanted: dict[int, list[tuple[Change, Tensor]]] = {}
    figures: dict[str, float] = {}
    for layer, sources in groups.items():
        maps = [fitted[Site("source", k), Site("target", layer)] for k in sources]
        norm = reading_norm(calibration.target, layer)
        wanted[layer] = [(Change(k), to_normalized(p.map, norm)) for k, p in zip(sources, maps, strict=True)]
        figures[f"output_map_heldout_r2.{layer}"] = float(np.mean([p.heldout_r2 for p in maps]))
    carried = _fit(calibration, rank, wanted, ridge, control)
    for layer, moments in _moments(calibration, calibration.held_out, [wanted])[0].items():
        made = _as_map(carried[layer])
        figures[f"change_heldout_r2.lora.{layer}"] = moments.explained(made)
        figures[f"change_heldout_r2_centred.lora.{layer}"] = moments.r_squared(made)
    return carried, figures


def _fit(calibration: Calibration, rank: int, wanted: Wanted, ridge: float, control: str) -> dict[int, Factors]:
    """Fit LoRA, or its placebo of the same size, on the documents that are not held out."""
    asked: list[Mapping[int, Sequence[tuple[Place, Tensor]]]] = [wanted]
    if control == PERMUTED:
        asked.append({layer: [(Shuffled(place), p_ab) for place, p_ab in some] for layer, some in wanted.items()})
    moments, *wrong = _moments(calibration, calibration.documents, asked)
    carried = {layer: found.low_rank(ridge, rank) for layer, found in moments.items()}
    generator = torch.Generator().manual_seed(calibration.seed)
    for layer, real in carried.items() if control != "none" else ():
        down_rh, up_br = (
            wrong[0][layer].low_rank(ridge, rank) if wrong else [noise_like(factor, generator) for factor in real]
        )
        size, made = (moments[layer].size(_as_map(factors)) for factors in (real, (down_rh, up_br)))
        carried[layer] = down_rh * (size / made if made else 0.0), up_br
    return carried


def _as_map(factors: Factors) -> LinearMap:
    down_rh, up_br = factors
    return LinearMap.through_origin((up_br @ down_rh).T)


def _moments(
    calibration: Calibration,
    documents: Sequence[Aligned],
    asked: Sequence[Mapping[int, Sequence[tuple[Place, Tensor]]]],
) -> list[dict[int, Moments]]:
    """By target layer, moments of what fc2 reads, in units of the residual's deviation, and of each wanted change."""
    residuals = {layer: Site("target", layer, normed=False) for layer in asked[0]}
    reads = {layer: Read("target", f"layers.{layer - 1}.{HOST}") for layer in asked[0]}
    places = {place for wanted in asked for some in wanted.values() for place, _ in some}
    found: list[dict[int, Moments]] = [{} for _ in asked]
    for at in calibration.stream(documents, [*places, *residuals.values(), *reads.values()]):
        for layer, read in reads.items():
            x_Nh = at[read].double() / at[residuals[layer]].double().std(-1, correction=0, keepdim=True)
            for moments, wanted in zip(found, asked, strict=True):
                y_Nb = torch.stack([at[place].double() @ p_ab for place, p_ab in wanted[layer]]).sum(0)
                moments.setdefault(layer, Moments(x_Nh.shape[1], y_Nb.shape[1])).add(x_Nh, y_Nb)
    return found

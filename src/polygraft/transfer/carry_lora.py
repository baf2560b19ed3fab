"""LoRA, carried from the source's linear layers to the target's.

Row vectors; x and y a linear layer's input and output, in the source (a) and in the target (b). With ridge maps

    x_a ~ x_b Q + q        y_b ~ y_a P + p

fitted on the user's text, the change of a source's layer, W += U D, becomes one of the target's,

    W += P^T U D Q^T        bias += P^T U D q

of the same rank. Layers correspond by what they do: query to q_proj, and so on. The maps are those of the models before
adaptation, so that LoRA is read from `adapter/`, not from the weights into which it was merged.

r rank, a and b widths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from polygraft.errors import TransferError
from polygraft.models import bottleneck
from polygraft.transfer.calibration import Calibration, Fitted, Linear, Shuffled, State
from polygraft.transfer.controls import PERMUTED, noise_like, sized_like
from polygraft.transfer.linear_map import LinearMap, Moments
from polygraft.transfer.plan import Inputs

LINEAR = {
    "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
    "intermediate.dense": "fc1", "output.dense": "fc2",
}  # fmt: skip
SHARED_INPUT = {"attention.self.key": "attention.self.query", "attention.self.value": "attention.self.query"}
MOMENT_BYTES = 2**31  # of moments held at a time (`permuted`: twice): a feed-forward of 4,096 takes 2/3 GB a layer
Factors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Change:
    """LoRA of one linear layer of source layer `layer` (from 1): W += up @ down, [out, r] and [r, in]."""

    layer: int
    module: str
    down: Tensor
    up: Tensor


def read(inputs: Inputs) -> list[Change]:
    """Read the LoRA in the source's `adapter/`.

    Raises:
        TransferError: there is none, it is of another kind or was trained on another model than `source_before`.
    """
    before, after, folder = inputs.source_before, inputs.source_after, inputs.adapter
    if before is None or after is None or folder is None or not (folder / bottleneck.CONFIG).is_file():
        raise TransferError(
            "the adapted source has no adapter/ folder. Adapt it with `adapter: {type: bottleneck}` or `{type: lora}`, "
            "or use method: embeddings."
        )
    if (kind := PeftConfig.from_pretrained(str(folder)).peft_type) != "LORA":
        raise TransferError(f"{folder}: is of PEFT's kind '{kind}', but only LoRA can be carried across.")
    peft = PeftModel.from_pretrained(before, str(folder))
    try:
        changes = [_change(name, module) for name, module in before.named_modules() if isinstance(module, LoraLayer)]
    finally:
        peft.unload()
    for change in changes[:1]:
        name = next(n for n, _ in after.named_modules() if n.endswith(f"layer.{change.layer - 1}.{change.module}"))
        old, new = (model.get_parameter(f"{name}.weight").detach() for model in (before, after))
        if not torch.allclose(old + change.up @ change.down, new, atol=1e-5 + 1e-4 * float(new.abs().max())):
            raise TransferError(f"{folder}: this LoRA on source_before does not give source_after: {name} differs.")
    return changes


def _change(name: str, module: Any) -> Change:
    (adapter,) = module.active_adapters
    found = re.search(r"encoder\.layer\.(\d+)\.(.+)$", name)
    if found is None or found[2] not in LINEAR or module.use_dora.get(adapter):
        raise TransferError(
            f"LoRA on {name}: only that on linear layers of attention and feed-forward is carried across."
        )
    down, up = (part[adapter].weight.detach() for part in (module.lora_A, module.lora_B))
    return Change(int(found[1]) + 1, found[2], down, up * module.scaling[adapter])


def targets(changes: Iterable[Change], layers: Sequence[int]) -> list[str]:
    """Name the modules of a target layer to which the changes of these source layers go."""
    return list(dict.fromkeys(LINEAR[change.module] for change in changes if change.layer in layers))


def carry(
    calibration: Calibration,
    changes: Sequence[Change],
    groups: Mapping[int, Sequence[int]],
    ridge: float,
    control: str = "none",
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return what is to be added to tensors of the target's encoder, by name, and how well the maps do.

    `control`: return placebos instead (controls.py): noise of the same rank, or what maps between the states of
    different tokens make of LoRA. Each changes a layer's output by as much as the real one, as root mean square over
    the tokens that the maps are fitted on.
    """
    additions: dict[str, Tensor] = {}
    scores: dict[str, list[float]] = {"input": [], "output": []}
    homes = {k: layer for layer, sources in groups.items() for k in sources}
    generator = torch.Generator().manual_seed(calibration.seed)
    for some in _batches(calibration, changes):
        ways = [_pairs(change, homes[change.layer]) for change in some]
        pairs = list(dict.fromkeys(pair for way in ways for pair in way.values()))
        wrong = {pair: (Shuffled(pair[0]), pair[1]) for pair in pairs} if control == PERMUTED else {}
        fitted_on, held_out = (
            calibration.moments(documents, [*pairs, *wrong.values()])
            for documents in (calibration.documents, calibration.held_out)
        )
        fitted = {pair: Fitted.of(moments, held_out[pair], ridge) for pair, moments in fitted_on.items()}
        for change, way in zip(some, ways, strict=True):
            used = {end: fitted[wrong.get(pair, pair)] for end, pair in way.items()}
            factors = _factors(change, fitted[way["input"]].map, fitted[way["output"]].map)
            if control != "none":
                drawn = _factors(change, used["input"].map, used["output"].map) if control == PERMUTED else None
                factors = _placebo(factors, drawn, fitted_on[way["input"]], generator)
            up_br, down_rb, bias_r = factors
            for key, value in {"weight": up_br @ down_rb, "bias": up_br @ bias_r}.items():
                name = f"layers.{homes[change.layer] - 1}.{LINEAR[change.module]}.{key}"
                additions[name] = additions[name] + value if name in additions else value
            for end, one in used.items():
                scores[end].append(one.heldout_r2)
    return additions, {f"{way}_map_heldout_r2": float(np.mean(values)) for way, values in scores.items()}


def _factors(change: Change, into: LinearMap, out: LinearMap) -> Factors:
    """LoRA in the target: P^T U [b, r], D Q^T [r, b] and D q [r]."""
    down_ra, up_ar = change.down.double().cpu(), change.up.double().cpu()
    return out.weight.T @ up_ar, down_ra @ into.weight.T, down_ra @ into.intercept


def _placebo(real: Factors, drawn: Factors | None, moments: Moments, generator: torch.Generator) -> Factors:
    """Give other factors, or noise, the norms of the real ones, then by U the size of the real change of the output."""
    up, down, bias = (
        noise_like(factor, generator) if drawn is None else sized_like(drawn[place], factor)
        for place, factor in enumerate(real)
    )
    wanted, made = (moments.size(LinearMap((u @ d).T, u @ b)) for u, d, b in (real, (up, down, bias)))
    return up * (wanted / made if made else 0.0), down, bias


def _pairs(change: Change, layer: int) -> dict[str, tuple[State, State]]:
    read = SHARED_INPUT.get(change.module, change.module)
    place, home = f"encoder.layer.{change.layer - 1}", f"layers.{layer - 1}"
    return {
        "input": (Linear("target", f"{home}.{LINEAR[read]}", "input"), Linear("source", f"{place}.{read}", "input")),
        "output": (
            Linear("source", f"{place}.{change.module}", "output"),
            Linear("target", f"{home}.{LINEAR[change.module]}", "output"),
        ),
    }


def _batches(calibration: Calibration, changes: Sequence[Change]) -> list[list[Change]]:
    """Divide the changes, in order, into parts whose moments fit into MOMENT_BYTES: each is one pass over the text."""
    ratio = calibration.target.config.hidden_size / calibration.source.config.hidden_size
    parts: list[list[Change]] = [[]]
    held = 0.0
    for change in changes:
        inner, outer = change.down.shape[1], change.up.shape[0]
        size = 8 * (ratio * inner * (ratio * inner + inner) + outer * (outer + ratio * outer))
        if parts[-1] and held + size > MOMENT_BYTES:
            parts.append([])
            held = 0.0
        parts[-1].append(change)
        held += size
    return parts

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
from polygraft.transfer.calibration import Calibration, Linear, Pair
from polygraft.transfer.plan import Inputs

LINEAR = {
    "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
    "intermediate.dense": "fc1", "output.dense": "fc2",
}  # fmt: skip
SHARED_INPUT = {"attention.self.key": "attention.self.query", "attention.self.value": "attention.self.query"}
MOMENT_BYTES = 2**31  # of moments held at a time: a feed-forward of 4,096 takes 2/3 GB per layer


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
    calibration: Calibration, changes: Sequence[Change], groups: Mapping[int, Sequence[int]], ridge: float
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return what is to be added to tensors of the target's encoder, by name, and how well the maps do."""
    additions: dict[str, Tensor] = {}
    scores: dict[str, list[float]] = {"input": [], "output": []}
    homes = {k: layer for layer, sources in groups.items() for k in sources}
    for some in _batches(calibration, changes):
        pairs = {
            (id(change), way): pair for change in some for way, pair in _pairs(change, homes[change.layer]).items()
        }
        fitted = calibration.fit(list(dict.fromkeys(pairs.values())), ridge)
        for change in some:
            into, out = (fitted[pairs[id(change), way]] for way in ("input", "output"))
            down, up = change.down.double().cpu(), change.up.double().cpu()
            up_br = out.map.weight.T @ up
            values = {"weight": up_br @ (down @ into.map.weight.T), "bias": up_br @ (down @ into.map.intercept)}
            for key, value in values.items():
                name = f"layers.{homes[change.layer] - 1}.{LINEAR[change.module]}.{key}"
                additions[name] = additions[name] + value if name in additions else value
            scores["input"].append(into.heldout_r2)
            scores["output"].append(out.heldout_r2)
    return additions, {f"{way}_map_heldout_r2": float(np.mean(values)) for way, values in scores.items()}


def _pairs(change: Change, layer: int) -> dict[str, Pair]:
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

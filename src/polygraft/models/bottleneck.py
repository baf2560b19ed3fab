"""Bottleneck adapters: small layers after the feed-forward of every layer, kept apart from the model that they change.

    h  ->  h + U g(D h + d)        h: the output of a layer; D [r, W], d [r], U [W, r] (Houlsby et al. 2019, Parameter-
                                   efficient transfer learning for NLP; one per layer: Pfeiffer et al. 2020, MAD-X)

U starts at zero, so that a new adapter changes nothing, not by a bit. Several are applied in the order in which they
were attached. With `normalize` the adapter works on what a LayerNorm would make of h: with m and s the mean and the
standard deviation of the token's h over W,

    h  ->  h + s U g(D (h - m) / s + d)

An adapter is a submodule of the module whose output it changes, and runs in a forward hook of that. Names, classes and
code of the base stay as they are, so its state_dict is loaded as ever; and since the submodule is found by everything
that walks a model, Trainer's optimizer and checkpoints, `.to()`, autocast and FSDP (which shards it with its layer)
know of it. The hook is one function of this module and holds no reference to a model: a deep copy runs its own
adapters. torch.compile traces hooks that it finds, without a graph break.

B batch, T positions, W width of the model, r width of the bottleneck.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from polygraft.errors import CheckpointError
from polygraft.settings import Bottleneck

FOLDER = "adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names; `type` tells the two apart
ATTRIBUTE = "bottlenecks"
FUNCTIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
INITIAL_STD = 0.02  # BERT's
EPSILON = 1e-5  # mBART's LayerNorms'


class Adapter(nn.Module):
    """h + U g(D h + d), normalized or not."""

    def __init__(self, width: int, settings: Bottleneck) -> None:
        super().__init__()
        self.down = nn.Linear(width, settings.bottleneck_size)
        self.function = FUNCTIONS[settings.non_linearity]()
        self.up = nn.Linear(settings.bottleneck_size, width, bias=False)
        self.settings = settings
        nn.init.normal_(self.down.weight, std=INITIAL_STD)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)

    def forward(self, hidden_BTW: Tensor) -> Tensor:
        if not self.settings.normalize:
            return hidden_BTW + self.change(hidden_BTW)
        variance_BT1, mean_BT1 = torch.var_mean(hidden_BTW, -1, correction=0, keepdim=True)
        deviation_BT1 = (variance_BT1 + EPSILON).sqrt()
        return hidden_BTW + deviation_BT1 * self.change((hidden_BTW - mean_BT1) / deviation_BT1)

    def change(self, hidden_BTW: Tensor) -> Tensor:
        """U g(D h + d)."""
        return self.up(self.function(self.down(hidden_BTW)))


def hosts(model: nn.Module) -> dict[str, Any]:
    """Return the modules whose output is that of a layer, by name, in order: what adapters are attached to.

    In the BERT family that is the layer's `output`, behind its LayerNorm (post-LN); in mBART the layer itself, which
    ends with the residual sum (pre-LN).
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)]
    return {f"{name}.output" if hasattr(m, "output") else name: getattr(m, "output", m) for name, m in layers}


def attach(model: PreTrainedModel, settings: Bottleneck, name: str, sizes: Mapping[str, int] | None = None) -> None:
    """Add a new adapter to every layer, behind those that are there, and switch it on.

    Args:
        sizes: width of the bottleneck by host name, in place of the settings'; hosts that it lacks get no adapter.

    Raises:
        CheckpointError: the model has an adapter of that name, or no layers that are known.
    """
    found = hosts(model)
    if not found:
        raise CheckpointError(f"{type(model).__name__} has no layers that polygraft knows how to attach adapters to.")
    if name in adapters(model):
        raise CheckpointError(f"the model has an adapter '{name}' already.")
    for path, size in (sizes if sizes is not None else dict.fromkeys(found, settings.bottleneck_size)).items():
        host = found[path]
        if not hasattr(host, ATTRIBUTE):
            host.bottlenecks = nn.ModuleDict()
            host.active_bottlenecks = ()
            host.register_forward_hook(_adapted)
        width = next(m for m in host.modules() if isinstance(m, nn.LayerNorm)).normalized_shape[0]
        adapter = Adapter(width, settings.model_copy(update={"bottleneck_size": size}))
        host.bottlenecks[name] = adapter.to(model.device, model.dtype)
        host.active_bottlenecks = (*host.active_bottlenecks, name)


def _adapted(host: Any, _: Any, hidden_BTW: Tensor) -> Tensor:
    for name in host.active_bottlenecks:
        hidden_BTW = host.bottlenecks[name](hidden_BTW)
    return hidden_BTW


def adapters(model: nn.Module) -> dict[str, dict[str, Adapter]]:
    """Return the adapters by name, in the order of their application, each as host name -> module; {} if none."""
    found: dict[str, dict[str, Adapter]] = {}
    for path, host in hosts(model).items():
        for name, adapter in (host.bottlenecks if hasattr(host, ATTRIBUTE) else {}).items():
            found.setdefault(name, {})[path] = adapter
    return found


def new_name(model: nn.Module, wanted: str) -> str:
    """Return a name that none of the model's adapters has: the wanted one, or that with a number."""
    taken = adapters(model)
    return next(name for i in count(1) if (name := wanted if i == 1 else f"{wanted}_{i}") not in taken)


def activate(model: nn.Module, names: Sequence[str]) -> None:
    """Apply these adapters, in this order, and no others; [] gives the base model.

    Raises:
        CheckpointError: a name that no adapter has.
    """
    known = adapters(model)
    if unknown := [name for name in names if name not in known]:
        raise CheckpointError(f"the model has no adapter '{unknown[0]}'; it has {', '.join(known) or 'none'}.")
    for host in hosts(model).values():
        if hasattr(host, ATTRIBUTE):
            host.active_bottlenecks = tuple(name for name in names if name in host.bottlenecks)


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict of the model without its adapters."""
    return {name: tensor for name, tensor in model.state_dict().items() if f".{ATTRIBUTE}." not in name}


def save(model: nn.Module, folder: Path) -> None:
    """Write all adapters of a model, if it has any, into `folder`: adapter_config.json, adapter_model.safetensors."""
    found = adapters(model)
    if not found:
        return
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: next(iter(layers.values())).settings.model_dump() for name, layers in found.items()}
    (folder / CONFIG).write_text(json.dumps({"type": "bottleneck", "adapters": settings}, indent=2) + "\n")
    tensors = {
        f"{name}:{path}.{key}": tensor.detach().cpu().contiguous()
        for name, layers in found.items()
        for path, adapter in layers.items()
        for key, tensor in adapter.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Attach the adapters that `save` wrote; nothing happens where there are none, or another library's.

    Raises:
        CheckpointError: they are those of another model.
    """
    settings = saved_settings(folder)
    if not settings:
        return
    tensors = load_file(folder / WEIGHTS)
    known = hosts(model)
    for name, how in settings.items():
        paths = [key.removeprefix(f"{name}:").removesuffix(".up.weight") for key in tensors
                 if key.startswith(f"{name}:") and key.endswith(".up.weight")]  # fmt: skip
        if odd := [path for path in paths if path not in known]:
            raise CheckpointError(f"{folder}: the adapter '{name}' is not one of this model, which has no {odd[0]}.")
        attach(model, how, name, {path: tensors[f"{name}:{path}.up.weight"].shape[1] for path in paths})
        for path, adapter in adapters(model)[name].items():
            for key, tensor in adapter.state_dict().items():
                saved = tensors[f"{name}:{path}.{key}"]
                if saved.shape != tensor.shape:
                    raise CheckpointError(
                        f"{folder}: the adapter '{name}' is not one of this model: {path}.{key} is "
                        f"{tuple(saved.shape)}, not {tuple(tensor.shape)}."
                    )
                tensor.copy_(saved)


def saved_settings(folder: Path) -> dict[str, Bottleneck]:
    """Return the settings of the adapters in a folder, by name; {} where there are none."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if config.get("type") != "bottleneck":  # PEFT's are merged into the checkpoint beside them
        return {}
    return {name: Bottleneck.model_validate(how) for name, how in config["adapters"].items()}


@torch.no_grad()
def carry(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Attach those adapters of one model that another of the same layers lacks, and copy their values."""
    lacking = {name: layers for name, layers in adapters(source).items() if name not in adapters(target)}
    for name, layers in lacking.items():
        sizes = {path: adapter.settings.bottleneck_size for path, adapter in layers.items()}
        attach(target, next(iter(layers.values())).settings, name, sizes)
        for path, adapter in adapters(target)[name].items():
            adapter.load_state_dict(layers[path].state_dict())

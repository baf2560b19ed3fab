"""Bytes and operations of a pass, counted while it runs on fake tensors; many layers are counted by a few.

The layers of a stack allocate and compute the same, but for the first and the last ones, which a shortened stack keeps.
One layer between them stands for those that are left out: what it keeps for the backward pass, and its gradients, count
as often; what it frees again within a pass counts once, since layers come one after the other.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from polygraft.models.graft import MODEL_TYPE
from polygraft.models.recomputed import PassFlops

ALIKE = ("bert", "roberta", "xlm-roberta", "mbart", MODEL_TYPE)  # kinds of models all of whose layers are alike
DEPTHS = ("num_hidden_layers", "encoder_layers", "decoder_layers")
REPEATED = 1  # which layer stands for others: not the first one, whose input may need no gradient


def with_layers(config: PreTrainedConfig, most: int) -> PreTrainedConfig:
    """Return a copy of a configuration with at most so many layers in each stack."""
    short = copy.deepcopy(config)
    for part in (short, getattr(short, "encoder", None), getattr(short, "decoder", None)):
        for name in DEPTHS:
            if depth := getattr(part, name, None):
                setattr(part, name, min(depth, most))
    return short


def shortened(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of a model in which a layer stands for many; itself where layers may differ.

    The last layer of an encoder alone may be computed in part (packed.py), and stands for itself.
    """
    layers = REPEATED + (1 if config.is_encoder_decoder else 2)
    return with_layers(config, layers) if config.model_type in ALIKE else config


def repeated_layers(model: nn.Module, config: PreTrainedConfig) -> Iterator[tuple[nn.Module, int]]:
    """Yield the layers of a shortened model that stand for several of the full configuration's, and for how many."""
    if config.model_type not in ALIKE:
        return
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 0)
    stacks = [stack for stack in lists if isinstance(stack[0], GradientCheckpointingLayer)]
    for stack, depth in zip(stacks, _depths(config), strict=True):
        if depth > len(stack):
            yield stack[REPEATED], depth - len(stack) + 1


def _depths(config: PreTrainedConfig) -> list[int]:
    """The layers of each stack, in the order in which the model has them."""
    if config.model_type == MODEL_TYPE:
        return [config.encoder.num_hidden_layers, config.decoder.decoder_layers]
    return [config.encoder_layers, config.decoder_layers] if config.is_encoder_decoder else [config.num_hidden_layers]


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make while it is active, until they are freed; `peak` is the most.

    Tensors that are `there` before are not counted, nor are views of them.
    """

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.made = 0
        self.sizes = {address_of(tensor): 0 for tensor in there}
        self.numbers = dict.fromkeys(self.sizes, 0)  # in the order in which they were made; addresses are used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := address_of(tensor)) not in self.sizes:
                storage = tensor.untyped_storage()
                weakref.finalize(storage, self._freed, key)
                self.made += 1
                self.sizes[key], self.numbers[key] = 0, self.made
                self.resize(key, storage.nbytes())
        return out

    def resize(self, key: int, size: int) -> None:
        """Count a storage as one of another size."""
        self.add(size - self.sizes[key])
        self.sizes[key] = size

    def add(self, size: int) -> None:
        """Count bytes of no storage."""
        self.live += size
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int) -> None:
        self.live -= self.sizes.pop(key)
        del self.numbers[key]


def address_of(tensor: Tensor) -> int:
    """What a storage is known by while it is alive."""
    return tensor.untyped_storage()._cdata


class Repeated:
    """Counts a layer as `times` of them; `once` and `again` are the operations of its twins, as PassFlops has them."""

    def __init__(self, layer: nn.Module, times: int, live: LiveBytes, flops: PassFlops) -> None:
        self.layer, self.times, self.live, self.flops = layer, times, live, flops
        self.once = self.again = self.made = self.waiting = 0
        self.kept: dict[int, int] = {}  # numbers of storages by their addresses
        self.hooks = [layer.register_forward_pre_hook(self._begins), layer.register_forward_hook(self._ends)]

    def repeat_gradients(self) -> None:
        """Count the gradients of the layer's weights, but those that were there before, as those of all layers."""
        for parameter in self.layer.parameters():
            if parameter.grad is not None and self.live.numbers[key := address_of(parameter.grad)] > self.made:
                self.live.resize(key, self.times * self.live.sizes[key])

    def _begins(self, *_: Any) -> None:
        self.made, self.counted = self.live.made, (self.flops.once, self.flops.again)

    def _ends(self, layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self._repeat_flops()
        hidden: Tensor = out[0] if isinstance(out, tuple) else out
        self.kept = {key: number for key, number in self.live.numbers.items() if number > self.made}
        self.kept.pop(address_of(hidden), None)  # it is the next layer that keeps it, as this one does its input
        if hidden.requires_grad:
            key = address_of(args[0])
            self.kept[key] = self.live.numbers[key]
            hidden.register_hook(self._backward_begins)
            args[0].register_hook(self._backward_ends)
        for key in self.kept:
            self.live.resize(key, self.times * self.live.sizes[key])

    def _backward_begins(self, _: Tensor) -> None:
        """The last of the layers comes first: what it frees is its own, and what the others keep is still there."""
        self._begins()
        for key, number in self.kept.items():
            if self.live.numbers.get(key) == number:
                own = self.live.sizes[key] // self.times
                self.waiting += (self.times - 1) * own
                self.live.resize(key, own)
        self.live.add(self.waiting)

    def _backward_ends(self, _: Tensor) -> None:
        self._repeat_flops()
        self.live.add(-self.waiting)
        self.waiting = 0
        self.repeat_gradients()

    def _repeat_flops(self) -> None:
        once, again = self.counted
        self.once += (self.times - 1) * (self.flops.once - once)
        self.again += (self.times - 1) * (self.flops.again - again)


class Counted:
    """While active, counts what a shortened model does as what the full one would do.

    Attributes:
        peak: bytes beyond the weights, at most.
        once, again: operations, and those of them that gradient checkpointing repeats.
    """

    def __init__(self, model: nn.Module, config: PreTrainedConfig) -> None:
        self.model, self.config = model, config
        self.live, self.flops = LiveBytes(model.parameters()), PassFlops()

    def __enter__(self) -> Counted:
        self.repeated = [Repeated(*one, self.live, self.flops) for one in repeated_layers(self.model, self.config)]
        self.live.__enter__()
        self.flops.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.flops.__exit__(*raised)
        self.live.__exit__(*raised)
        for one in self.repeated:
            for hook in one.hooks:
                hook.remove()
        self.peak = self.live.peak
        self.once = self.flops.once + sum(one.once for one in self.repeated)
        self.again = self.flops.again + sum(one.again for one in self.repeated)

    def make_gradients(self) -> None:
        """Give each weight that is trained a gradient, as it has in a later pass of a step."""
        for parameter in self.model.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        for one in self.repeated:
            one.repeat_gradients()

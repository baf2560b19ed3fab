"""Gradient checkpointing: a layer keeps its input alone, and is computed again for its gradients (Chen et al. 2016).

transformers' own does the same in training mode only, which distillation is not in, and binds to a layer's class, past
which packed.py runs. Here it is an attribute of the layer; hooks on it (adapters, sharding) stay outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer


class _NoModules(contextlib.nullcontext[None]):
    """In place of what follows the counter through modules, by hooks that keep all that is computed again."""

    parents = frozenset({"Global"})


class PassFlops(FlopCounterMode):
    """Torch's flop counter, which keeps apart what is computed a second time: `again` is part of the total."""

    active: ClassVar[PassFlops | None] = None

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _NoModules()
        self.again = 0

    def __enter__(self) -> PassFlops:
        PassFlops.active = self
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        PassFlops.active = None
        return super().__exit__(*args)

    @property
    def once(self) -> int:
        """Operations of the pass if nothing were computed twice: what a budget is charged."""
        return self.get_total_flops() - self.again

    @contextlib.contextmanager
    def a_second_time(self) -> Iterator[None]:
        """What is counted in here is counted again."""
        before = self.get_total_flops()
        try:
            yield
        finally:
            self.again += self.get_total_flops() - before


class Recomputed:
    """A layer's forward, run again in the backward pass, on the same random numbers, in place of what it would keep."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=_contexts, **kwargs)


def _contexts() -> tuple[Any, Any]:
    """The contexts of a layer's two computations: the second is counted apart, in the modes of the first.

    Backward passes run without function modes, of which FastDropout is one: it would draw other numbers. The device's
    is put back by `checkpoint` itself.
    """
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return contextlib.nullcontext(), _second(modes, PassFlops.active)


@contextlib.contextmanager
def _second(modes: Sequence[Any], counter: PassFlops | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        if counter is not None:
            stack.enter_context(counter.a_second_time())
        yield


@contextlib.contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """While active, each layer of a model is `Recomputed`, if that is wanted."""
    layers = [module for module in model.modules() if wanted and isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = Recomputed(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextlib.contextmanager
def running(layer: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """While active, a layer runs another forward in place of its own: `Recomputed`, if its own is."""
    own = vars(layer).get("forward")
    layer.forward = Recomputed(forward) if isinstance(own, Recomputed) else forward
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own

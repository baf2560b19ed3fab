"""What a forward and backward pass allocates, counted without allocating it.

The real model runs the real loss on fake tensors, which have shapes and no data, while a dispatch mode keeps the sum of
all storages that are alive.

P parameters, B batch, S source positions, T target positions, N labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from polygraft.checks.counting import Counted, repeated_layers, shortened
from polygraft.machine import Arithmetic
from polygraft.models import adapters
from polygraft.models.recomputed import recomputing
from polygraft.objectives import TextTask
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.seq2seq import summed_loss
from polygraft.objectives.task import BatchShape
from polygraft.settings import Training

BYTES = 4  # weights, gradients and optimizer states are fp32


def make_batch(shape: BatchShape, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """A batch of that shape, as the objectives make them, of tokens without a meaning."""
    target = shape.target or shape.source
    batch = {
        "input_ids": torch.full((shape.batch, shape.source), 5, device=device),
        "attention_mask": torch.ones((shape.batch, shape.source), dtype=torch.int64, device=device),
        "labels": torch.full((shape.batch, target), 5, device=device),
        "label_positions": torch.arange(shape.labels, device=device) % (shape.batch * target),
    }
    if shape.target is None:
        batch["token_positions"] = torch.arange(shape.batch * shape.source, device=device)
    else:
        batch["decoder_input_ids"] = torch.full((shape.batch, target), 5, device=device)
    return batch


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """What one pass costs: bytes beyond the weights at the peak of training and of evaluation, and operations.

    Of the `parameters`, adapters included, `trained` have gradients and optimizer states. `flops` are those that a
    budget is charged; a pass does `flops_again` beside them, for what gradient checkpointing did not keep.
    `evaluation_flops` are those of a forward pass over the same batch.
    """

    parameters: int
    trained: int
    training_bytes: int
    evaluation_bytes: int
    flops: int
    flops_again: int
    evaluation_flops: int


def loss_of(config: PreTrainedConfig, settings: Training | None = None) -> Callable[..., Tensor]:
    """The summed loss that a stage minimises on such a model."""
    if isinstance(settings, TextTask):
        return settings.loss_of(coded=config.is_encoder_decoder)
    return summed_loss if config.is_encoder_decoder else MaskedLM.loss


def make_model(config: PreTrainedConfig) -> Any:
    """A model of that configuration with random weights, with the attention that training uses."""
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForMaskedLM
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    return kind.from_config(config, attn_implementation=attention, dtype=torch.float32)


def parameters_of(config: PreTrainedConfig) -> int:
    """Count the parameters of a model of that configuration, without making it."""
    with torch.device("meta"):
        return _count_parameters(make_model(shortened(config)), config)[0]


def _never_dropped(size: list[int]) -> float:
    """What LayerDrop draws: transformers 5.6 asks whether it is below a share of 0, and fake tensors have no value."""
    assert size == []
    return 1.0


def autocast(device: str, arithmetic: Arithmetic) -> torch.autocast:
    """What a forward pass runs in."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[arithmetic]
    return torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None)


def measure_pass(
    config: PreTrainedConfig,
    shape: BatchShape,
    arithmetic: Arithmetic,
    accumulated: int = 1,
    settings: Training | None = None,
) -> PassCost:
    """Count a training step's passes over a batch (`accumulated` of them), and an evaluation's of twice the size.

    With `settings` only what they train is trained, beside their adapter; else everything. Of a deep model a shallow
    one is run, one of whose layers stands for those that are left out.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loss = loss_of(config, settings)
    with torch.device("meta"):  # PEFT moves its modules, which fake tensors do not let it
        model = make_model(shortened(config))
        if settings:
            adapters.prepare(model, settings.adapter, settings.trainable)
        for part in settings.idle(model) if isinstance(settings, TextTask) else ():
            adapters.freeze(part, model)
    parameters, trained = _count_parameters(model, config)
    with (
        patch.object(torch, "rand", _never_dropped),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.device(device),
        recomputing(model, settings is not None and settings.gradient_checkpointing),
    ):
        model.to_empty(device=device)
        model.tie_weights()
        batch, larger = make_batch(shape, device), make_batch(shape.scaled(2), device)
        with Counted(model, config) as evaluating, torch.no_grad(), autocast(device, arithmetic):
            loss(model.eval(), **larger)
        model.train()
        with Counted(model, config) as training:
            if accumulated > 1:  # from the second pass on, there are gradients from the start
                training.make_gradients()
            with autocast(device, arithmetic):
                total = loss(model, **batch)
            total.backward()  # outside, where the weights' copies are gone that no layer kept
            del total
    return PassCost(
        parameters=parameters,
        trained=trained,
        training_bytes=training.peak,
        evaluation_bytes=evaluating.peak,
        flops=training.once,
        flops_again=training.again,
        evaluation_flops=round(evaluating.once * shape.padded_tokens / shape.scaled(2).padded_tokens),
    )


def _count_parameters(model: nn.Module, config: PreTrainedConfig) -> tuple[int, int]:
    """Of the model of which this is a shortened one, all parameters, and those that are trained."""
    times = {id(p): n for layer, n in repeated_layers(model, config) for p in layer.parameters()}
    counts = [(times.get(id(p), 1) * p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)

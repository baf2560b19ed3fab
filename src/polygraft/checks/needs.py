"""What a stage that trains needs: memory, disk and time, before a second of it is spent.

Memory and operations are counted on fake tensors (memory.py); how fast they go is measured (speed.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig

from polygraft import machine
from polygraft.checks.memory import BYTES, PassCost, measure_pass, parameters_of
from polygraft.checks.speed import Probe
from polygraft.objectives import TextTask
from polygraft.objectives.task import BatchShape
from polygraft.runs.costs import Cost
from polygraft.settings import Budget, Training

Measure = Callable[..., PassCost]  # as memory.measure_pass
SAFE_SHARE = 0.85  # of the available memory, for the proposed batch size
MAX_PROPOSED = 512
ADAM_STATES = 2
OPTIMIZER_TRAFFIC = 7 * BYTES  # bytes moved per parameter: weight, gradient and two states are read, three are written
KEPT_CHECKPOINTS = 3  # two, and the third while it is written
# Two shares that no shape gives. Gaps in a small model's heap, since what is freed is kept (machine.keep_freed_memory):
# resident memory was 1.3 to 1.8 times the tensors of stages that tests/checks/test_needs.py runs as processes.
KEPT_GAPS = 1.5
SAVES = 2  # of a whole checkpoint: to see beforehand that it can be written, and in the end
WRITTEN_PER_SECOND = 3e8  # bytes, of a plain disk
STAGE_SECONDS = 1.2  # of a training stage, whatever the size: tokenizers, files, transformers' Trainer
SAVING_COPIES = 3  # the model, the copy that is loaded again, and the pages of the file that it is read from


@dataclass(frozen=True, kw_only=True)
class Need:
    """One stage's needs; None where it cannot be told.

    `parameters` are those in memory while it runs: fewer than in the checkpoint with a trimmed vocabulary, more with an
    adapter; `trained_parameters` have gradients. `disk_peak_bytes` includes checkpoints that do not stay. `tokens` are
    those trained on, `budget` says for how long, and `training_seconds` of the `seconds` are on it.
    """

    stage: str
    parameters: int
    memory_bytes: int
    disk_bytes: int
    disk_peak_bytes: int
    seconds: float | None
    flops: float | None
    batch_size: int | None = None
    proposed_batch_size: int | None = None
    trained_parameters: int | None = None
    proposed_batch_tokens: int | None = None
    tokens: float | None = None
    budget: str | None = None
    training_seconds: float | None = None

    @property
    def cost(self) -> Cost:
        """What it spends of an `adaptation_budget`; what cannot be told counts as nothing."""
        minutes = ((self.seconds if self.training_seconds is None else self.training_seconds) or 0.0) / 60
        return Cost(self.tokens or 0.0, self.flops or 0.0, minutes, self.seconds or 0.0)


@dataclass(frozen=True)
class Lengths:
    """Token lengths of a sample of `documents`, special tokens included, after cutting; `target` for pairs only."""

    source: Sequence[int]
    target: Sequence[int] | None
    documents: int

    @property
    def mean(self) -> float:
        """Tokens of one document, both sides."""
        return (sum(self.source) + sum(self.target or ())) / len(self.source)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation during training reads, in training documents, and how long its sample takes to be decoded."""

    documents: float = 0.0
    decoding_seconds: float = 0.0


def documents_per_batch(settings: Training, width: float) -> int:
    """How many documents of `width` tokens a batch holds."""
    tokens = settings.per_device_train_batch_tokens
    return settings.per_device_train_batch_size if tokens is None else max(1, int(tokens // width))


def largest_batch(settings: Training, lengths: Lengths, batch: int, coded: bool) -> BatchShape:
    """The batch of the longest documents, which grouping by length makes; `coded`: of a sequence-to-sequence model."""
    source = max(lengths.source)
    batch = min(batch, len(lengths.source))
    if isinstance(settings, TextTask):
        return settings.shape(batch, source, coded)
    target = max(lengths.target or lengths.source)
    return BatchShape(batch, source, target, batch * target)


def training_need(
    stage: str,
    settings: Training,
    config: PreTrainedConfig,
    rows_kept: int | None,
    lengths: Lengths,
    probe: Probe,
    evaluated: Evaluated = Evaluated(),
    measure: Measure = measure_pass,
) -> Need:
    """Estimate a training stage.

    Args:
        config: of the full model.
        rows_kept: rows that are left while training with a trimmed vocabulary, None to train with all.
        lengths: of the training documents.
        evaluated: what every evaluation reads and writes.
        measure: counts passes.
    """
    trained = copy.deepcopy(config)
    trained.vocab_size = rows_kept or config.vocab_size
    arithmetic = machine.arithmetic(settings.precision)
    width = max(lengths.source) + max(lengths.target or [0])
    batch = documents_per_batch(settings, width)
    shape = largest_batch(settings, lengths, batch, config.is_encoder_decoder)

    def measured(shape: BatchShape) -> PassCost:
        return measure(trained, shape, arithmetic, settings.gradient_accumulation_steps, settings)

    step = measured(shape)
    full = parameters_of(config)
    memory = _training_memory(step, full, probe)

    def another() -> tuple[int, PassCost]:
        other = largest_batch(settings, lengths, 1 if shape.batch > 1 else 8, config.is_encoder_decoder)
        return other.batch, measured(other)

    def fits(cost: PassCost) -> bool:
        return _training_memory(cost, full, probe) <= SAFE_SHARE * probe.available_bytes

    proposed = _proposed(shape.batch, step, another, fits)
    cost = _cost(settings, step, shape, lengths, probe)
    written = full * BYTES + (step.trained * BYTES if settings.adapter else 0)
    checkpoint = BYTES * (step.parameters + ADAM_STATES * step.trained)
    in_tokens = proposed * width if proposed and settings.per_device_train_batch_tokens else None
    return Need(
        stage=stage, parameters=step.parameters, memory_bytes=memory, disk_bytes=written,
        disk_peak_bytes=written + KEPT_CHECKPOINTS * checkpoint, flops=cost.flops, tokens=cost.tokens,
        seconds=cost.seconds + _seconds_beside(settings, cost, evaluated, written, checkpoint),
        training_seconds=cost.seconds, batch_size=batch, proposed_batch_size=proposed,
        proposed_batch_tokens=in_tokens, trained_parameters=step.trained,
        budget=in_words(settings.training_budget) + (" at most" if settings.early_stopping_patience else ""),
    )  # fmt: skip


def _seconds_beside(settings: Training, cost: _Spent, evaluated: Evaluated, written: int, checkpoint: int) -> float:
    """What is not training: evaluations, the first one before the first step, checkpoints, and the saved model."""
    evaluations, checkpoints = (_times(every, cost.steps) for every in (settings.eval_steps, settings.save_steps))
    if settings.load_best_model_at_end:
        checkpoints = max(checkpoints, evaluations)
    evaluating = (1 + evaluations) * (evaluated.documents * cost.evaluation_seconds + evaluated.decoding_seconds)
    return STAGE_SECONDS + evaluating + (SAVES * written + checkpoints * checkpoint) / WRITTEN_PER_SECOND


def in_words(budget: Budget) -> str:
    """A budget, as it is shown."""
    return f"{budget.amount:.4g} {budget.unit}"


def _training_memory(step: PassCost, full: int, probe: Probe) -> int:
    """Bytes at the worst moment: a step once Adam has its states, an evaluation beside them, loading, or saving."""
    weights, trained = BYTES * step.parameters, BYTES * step.trained
    states = weights + ADAM_STATES * trained
    stepping = states + max(step.training_bytes, trained)
    evaluating = states + step.evaluation_bytes
    saving = SAVING_COPIES * BYTES * full
    if torch.cuda.is_available():
        return probe.baseline_bytes + max(stepping, evaluating, saving)
    gaps = KEPT_GAPS if weights <= machine.KEPT_MODEL_BYTES else 1
    # weights are views of a mapped file: of a trimmed model the pages of all rows stay, with those of its other weights
    left_out = BYTES * max(0, full - step.parameters)
    return probe.baseline_bytes + max(round(max(stepping, evaluating) * gaps) + left_out, saving)


def _proposed(
    batch: int, step: PassCost, another: Callable[[], tuple[int, PassCost]], fits: Callable[[PassCost], bool]
) -> int | None:
    """The largest power of two, up to 512, whose batches fit into the memory; None if one document does not.

    Bytes are linear in the number of documents, and told by two passes: the one of `batch` documents, and `another`,
    which is not run where the memory would do even if all that the first one takes grew with the documents.
    """
    most = max(1, -(-MAX_PROPOSED // batch))
    if fits(replace(step, training_bytes=most * step.training_bytes, evaluation_bytes=most * step.evaluation_bytes)):
        return MAX_PROPOSED
    other_batch, other = another()
    span = batch - other_batch or 1  # 0 where there is one document in all
    best, size = None, 1
    while size <= MAX_PROPOSED:
        share = (size - other_batch) / span
        between = replace(
            step,
            training_bytes=round(other.training_bytes + share * (step.training_bytes - other.training_bytes)),
            evaluation_bytes=round(other.evaluation_bytes + share * (step.evaluation_bytes - other.evaluation_bytes)),
        )
        if not fits(between):
            break
        best, size = size, 2 * size
    return best


class _Spent(NamedTuple):
    """What a budget buys, and the seconds that reading a document takes in an evaluation."""

    steps: float
    flops: float
    seconds: float
    tokens: float
    evaluation_seconds: float


def _cost(settings: Training, step: PassCost, shape: BatchShape, lengths: Lengths, probe: Probe) -> _Spent:
    width = max(lengths.source) + max(lengths.target or [0])
    per_document = lengths.mean / (shape.batch * width)  # of a pass over the longest: denoising reads and restores it
    documents = documents_per_batch(settings, lengths.mean) * settings.gradient_accumulation_steps
    step_flops = step.flops * per_document * documents
    computed = step_flops * (1 + step.flops_again / step.flops)
    step_seconds = computed / probe.flops_per_second + step.trained * OPTIMIZER_TRAFFIC / probe.bytes_per_second
    unit, amount = settings.training_budget.unit, settings.training_budget.amount
    steps = {
        "steps": amount,
        "epochs": amount * lengths.documents / documents,
        "tokens": amount / (lengths.mean * documents),
        "minutes": 60 * amount / step_seconds,
        "flops": amount / step_flops,
    }[unit]
    return _Spent(
        steps=steps,
        flops=steps * step_flops,
        seconds=steps * step_seconds,
        tokens=steps * lengths.mean * documents,
        evaluation_seconds=step.evaluation_flops * per_document / probe.flops_per_second,
    )


def _times(every: float, steps: float) -> int:
    """How often something is done that is due after so many steps, or below 1 after a share, and in the end."""
    return math.ceil(1 / every - 1e-9) if every < 1 else math.ceil(steps / every)

"""What every stage of a recipe needs: memory, disk and time, before a second of it is spent.

Memory and operations are counted on fake tensors (memory.py); how fast they go is measured by a short probe of a model
of the same width with one layer. Times are for this machine and mean little beyond a factor of two.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from polygraft import machine
from polygraft.checks.memory import (
    BYTES,
    PassCost,
    autocast,
    loss_of,
    make_batch,
    make_model,
    measure_pass,
    parameters_of,
)
from polygraft.machine import Arithmetic
from polygraft.models.checkpoints import decoder_config, positions_of
from polygraft.objectives import TextTask
from polygraft.objectives.linear_loss import CHUNK_LOGITS
from polygraft.objectives.task import BatchShape
from polygraft.runs.costs import Cost
from polygraft.settings import Budget, Evaluate, Training
from polygraft.transfers.methods import Method, Sizes

SAFE_SHARE = 0.85  # of the available memory, for the proposed batch size
MAX_PROPOSED = 512
PROBE_ROWS, PROBE_TOKENS, PROBE_LENGTH, PROBE_RUNS = 2000, 2048, 128, 3
ADAM_STATES = 2
OPTIMIZER_TRAFFIC = 7 * BYTES  # bytes moved per parameter: weight, gradient and two states are read, three are written
KEPT_CHECKPOINTS = 3  # two, and the third while it is written
# Two shares that no shape gives. Gaps in a small model's heap, since what is freed is kept (machine.keep_freed_memory):
# resident memory was 1.3 to 1.8 times the tensors of stages that tests/checks/test_needs.py runs as processes.
KEPT_GAPS = 1.5
SAVING_COPIES = 3  # the model, the copy that is loaded again, and the pages of the file that it is read from


@dataclass(frozen=True)
class Probe:
    """What this machine does, what is free on it, and what a process takes before there is any model."""

    flops_per_second: float
    bytes_per_second: float
    available_bytes: int
    baseline_bytes: int


@dataclass(frozen=True, kw_only=True)
class Need:
    """One stage's needs; None where it cannot be told.

    `parameters` are those in memory while it runs: fewer than in the checkpoint with a trimmed vocabulary, more with an
    adapter; `trained_parameters` have gradients. `disk_peak_bytes` includes checkpoints that do not stay. `tokens` are
    those trained on, `budget` says for how long.
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

    @property
    def cost(self) -> Cost:
        """What it spends of an `adaptation_budget`; what cannot be told counts as nothing."""
        return Cost(self.tokens or 0.0, self.flops or 0.0, (self.seconds or 0.0) / 60, self.seconds or 0.0)


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


def probe_machine(config: PreTrainedConfig, arithmetic: Arithmetic, baseline_bytes: int) -> Probe:
    """Time real passes of a model like `config`, but with one layer and 2,000 rows, and a large copy."""
    small = copy.deepcopy(config)
    small.vocab_size = PROBE_ROWS
    for key in ("num_hidden_layers", "encoder_layers", "decoder_layers"):
        if hasattr(small, key):
            setattr(small, key, 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = min(PROBE_LENGTH, positions_of(config))
    target = tokens if config.is_encoder_decoder else None
    shape = BatchShape(PROBE_TOKENS // tokens, tokens, target, PROBE_TOKENS // 8)
    flops = measure_pass(small, shape, arithmetic).flops
    model, batch, seconds = make_model(small).to(device), make_batch(shape, device), []
    for _ in range(1 + PROBE_RUNS):
        started = time.perf_counter()
        with autocast(device, arithmetic):
            loss = loss_of(small)(model, **batch)
        loss.backward()
        _finish(device)
        seconds.append(time.perf_counter() - started)
    block = torch.ones(2**26, device=device)
    block.clone()
    started = time.perf_counter()
    block.clone()
    _finish(device)
    moved = 2 * block.numel() * BYTES / (time.perf_counter() - started)
    rate = flops / statistics.median(seconds[1:])
    return Probe(rate, moved, machine.available_bytes(), baseline_bytes)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


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
) -> Need:
    """Estimate a training stage.

    Args:
        config: of the full model.
        rows_kept: rows that are left while training with a trimmed vocabulary, None to train with all.
        lengths: of the training documents.
    """
    trained = copy.deepcopy(config)
    trained.vocab_size = rows_kept or config.vocab_size
    arithmetic = machine.arithmetic(settings.precision)
    width = max(lengths.source) + max(lengths.target or [0])
    batch = documents_per_batch(settings, width)
    shape = largest_batch(settings, lengths, batch, config.is_encoder_decoder)
    step = measure_pass(trained, shape, arithmetic, settings.gradient_accumulation_steps, settings)
    full = parameters_of(config)
    memory = _training_memory(step, full, probe)
    proposed = propose(settings, trained, lengths, probe, full, (shape, step))
    flops, seconds, tokens = _cost(settings, step, shape, lengths, probe)
    written = full * BYTES + (step.trained * BYTES if settings.adapter else 0)
    peak = written + KEPT_CHECKPOINTS * BYTES * (step.parameters + ADAM_STATES * step.trained)
    in_tokens = proposed * width if proposed and settings.per_device_train_batch_tokens else None
    return Need(
        stage=stage, parameters=step.parameters, memory_bytes=memory, disk_bytes=written, disk_peak_bytes=peak,
        seconds=seconds, flops=flops, batch_size=batch, proposed_batch_size=proposed, trained_parameters=step.trained,
        proposed_batch_tokens=in_tokens, tokens=tokens,
        budget=_words(settings.training_budget) + (" at most" if settings.early_stopping_patience else ""),
    )  # fmt: skip


def _words(budget: Budget) -> str:
    return f"{budget.amount:.4g} {budget.unit}"


def _training_memory(step: PassCost, full: int, probe: Probe) -> int:
    """Bytes at the worst moment: a step once Adam has its states, an evaluation beside them, loading, or saving."""
    weights, trained = BYTES * step.parameters, BYTES * step.trained
    states = weights + ADAM_STATES * trained
    stepping = states + max(step.training_bytes, trained)
    evaluating = states + step.evaluation_bytes
    saving = SAVING_COPIES * BYTES * full
    kept = weights <= machine.KEPT_MODEL_BYTES and not torch.cuda.is_available()
    training = max(stepping, evaluating) * (KEPT_GAPS if kept else 1)
    return probe.baseline_bytes + round(max(training, saving))


def propose(
    settings: Training,
    config: PreTrainedConfig,
    lengths: Lengths,
    probe: Probe,
    full: int,
    known: tuple[BatchShape, PassCost],
) -> int | None:
    """The largest power of two, up to 512, whose batches fit into 85% of the memory; None if one document does not.

    Beside the pass that is known one more is counted; bytes are linear in the number of documents.
    """
    arithmetic, accumulated = machine.arithmetic(settings.precision), settings.gradient_accumulation_steps
    shape, step = known
    other = largest_batch(settings, lengths, 1 if shape.batch > 1 else 8, config.is_encoder_decoder)
    another = measure_pass(config, other, arithmetic, accumulated, settings)
    span = shape.batch - other.batch or 1  # 0 where there is one document in all
    best, size = None, 1
    while size <= MAX_PROPOSED:
        share = (size - other.batch) / span
        between = replace(
            step,
            training_bytes=round(another.training_bytes + share * (step.training_bytes - another.training_bytes)),
            evaluation_bytes=round(
                another.evaluation_bytes + share * (step.evaluation_bytes - another.evaluation_bytes)
            ),
        )
        if _training_memory(between, full, probe) > SAFE_SHARE * probe.available_bytes:
            break
        best, size = size, 2 * size
    return best


def _cost(
    settings: Training, step: PassCost, shape: BatchShape, lengths: Lengths, probe: Probe
) -> tuple[float, float, float]:
    """Operations, seconds and tokens read of the whole budget."""
    per_token = step.flops / shape.padded_tokens
    width = max(lengths.source) + max(lengths.target or [0])
    per_document = lengths.mean * shape.padded_tokens / (shape.batch * width)  # denoising reads and restores it
    documents = documents_per_batch(settings, lengths.mean) * settings.gradient_accumulation_steps
    step_flops = per_token * per_document * documents
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
    return steps * step_flops, steps * step_seconds, steps * lengths.mean * documents


def language_need(config: PreTrainedConfig, probe: Probe) -> Need:
    """Estimate adding a language: the model, one with more rows, the saved copy."""
    weights = BYTES * parameters_of(config)
    seconds = 4 * weights / probe.bytes_per_second
    memory = probe.baseline_bytes + SAVING_COPIES * weights
    return Need(
        stage="add_languages", parameters=weights // BYTES, memory_bytes=memory, disk_bytes=weights,
        disk_peak_bytes=weights, seconds=seconds, flops=None,
    )  # fmt: skip


def transfer_need(
    settings: Method,
    sources: Sequence[PreTrainedConfig],
    target: PreTrainedConfig,
    result: PreTrainedConfig,
    probe: Probe,
) -> Need:
    """Estimate a transfer: all models at once in fp32, and what the method says that it takes beside them.

    The time of a method that trains is known for a budget in flops or minutes only.
    """
    models, weights = BYTES * sum(map(parameters_of, sources)), BYTES * parameters_of(target)
    written = BYTES * parameters_of(result)
    price = settings.price(_sizes(settings, sources[0] if sources else None, target, written))
    flops, tokens, budget = price.flops, None, None
    seconds: float | None = 2 * flops / probe.flops_per_second + 4 * (models + 3 * weights) / probe.bytes_per_second
    if price.trains is not None:
        tokens, budget = price.trains.tokens, _words(price.trains)
        spent, minutes = price.trains.flops, price.trains.minutes
        trained = 60 * minutes if minutes else spent / probe.flops_per_second if spent else None
        seconds = seconds + trained if trained and seconds else None
        flops += spent or 0.0
    return Need(
        stage="transfer", parameters=written // BYTES,
        memory_bytes=probe.baseline_bytes + models + weights + round(price.beside_bytes),
        disk_bytes=written, disk_peak_bytes=written, seconds=seconds, flops=flops, tokens=tokens, budget=budget,
    )  # fmt: skip


def _sizes(settings: Method, source: PreTrainedConfig | None, target: PreTrainedConfig, result_bytes: int) -> Sizes:
    def pass_bytes(documents: int, tokens: int) -> int:
        arithmetic = machine.arithmetic(getattr(settings, "precision", "fp32"))
        again = getattr(settings, "gradient_checkpointing", False)
        training = Training(adapter=getattr(settings, "adapter", None), gradient_checkpointing=again)
        return measure_pass(target, BatchShape(documents, tokens, 1, 1), arithmetic, 1, training).training_bytes

    width = source.hidden_size if source else 0
    return Sizes(
        source_width=width,
        source_layers=source.num_hidden_layers if source else 0,
        source_body=parameters_of(source) - source.vocab_size * width if source else 0,
        rows=target.vocab_size,
        width=target.d_model,
        encoder_layers=target.encoder_layers,
        encoder_inner=target.encoder_ffn_dim,
        encoder_body=target.encoder_layers * (4 * target.d_model**2 + 2 * target.d_model * target.encoder_ffn_dim),
        result_bytes=result_bytes,
        pass_bytes=pass_bytes,
    )


def evaluate_need(settings: Evaluate, config: PreTrainedConfig, lengths: Lengths, probe: Probe) -> Need:
    """Estimate decoding and scoring: weights, and the logits of references or the caches of all beams.

    Cross-attention's keys and values exist once per document; logits of all beams at once on a GPU only.
    """
    weights, decoder = BYTES * parameters_of(config), decoder_config(config)
    batch = min(settings.per_device_eval_batch_size, len(lengths.source))
    hypotheses = batch * settings.num_beams
    positions = batch * max(lengths.source) + hypotheses * settings.max_new_tokens
    beams = 2 * BYTES * decoder.decoder_layers * decoder.d_model * positions
    if torch.cuda.is_available():
        beams += 2 * BYTES * hypotheses * config.vocab_size
    references = 2 * BYTES * min(CHUNK_LOGITS, batch * settings.max_new_tokens * config.vocab_size)
    memory = probe.baseline_bytes + weights + max(beams, references)
    batches = -(-lengths.documents // batch)
    per_step = max(weights / 2 / probe.bytes_per_second, weights / BYTES * hypotheses / probe.flops_per_second)
    encoding = weights / BYTES * lengths.mean * lengths.documents / probe.flops_per_second
    seconds = batches * settings.max_new_tokens * per_step + encoding
    return Need(
        stage="evaluate", parameters=weights // BYTES, memory_bytes=memory, disk_bytes=0, disk_peak_bytes=0,
        seconds=seconds, flops=None, batch_size=batch,
    )  # fmt: skip

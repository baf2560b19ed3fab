"""What the stages that do not train need: adding languages, transfers, evaluation, forgetting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig

from polygraft import machine
from polygraft.checks.memory import BYTES, measure_pass, parameters_of
from polygraft.checks.needs import SAVING_COPIES, STAGE_SECONDS, WRITTEN_PER_SECOND, Lengths, Need, in_words
from polygraft.checks.speed import Probe
from polygraft.measure.losses import BATCH_LOGITS, BATCH_TOKENS
from polygraft.models.checkpoints import decoder_config
from polygraft.objectives.linear_loss import CHUNK_LOGITS
from polygraft.objectives.task import BatchShape
from polygraft.settings import Decoding, Evaluate, Training
from polygraft.transfers.methods import Method, Sizes


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
    """Estimate a transfer: what is read of all models, in fp32, and what the method says that it takes beside them.

    The time of a method that trains is known for a budget in flops or minutes only.
    """
    read = (one.vocab_size * one.hidden_size if settings.reads_rows_alone else parameters_of(one) for one in sources)
    models, weights = BYTES * sum(read), BYTES * parameters_of(target)
    written = BYTES * parameters_of(result)
    price = settings.price(_sizes(settings, sources[0] if sources else None, target, written))
    flops, tokens, budget = price.flops, None, None
    moved = 4 * (models + 3 * weights) / probe.bytes_per_second
    seconds: float | None = 2 * flops / probe.flops_per_second + moved + written / WRITTEN_PER_SECOND
    if price.trains is not None:
        tokens, budget = price.trains.tokens, in_words(price.trains)
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
    parameters, decoder = parameters_of(config), decoder_config(config)
    batch = min(settings.per_device_eval_batch_size, len(lengths.source))
    hypotheses = batch * settings.num_beams
    positions = batch * max(lengths.source) + hypotheses * settings.max_new_tokens
    beams = 2 * BYTES * decoder.decoder_layers * decoder.d_model * positions
    if torch.cuda.is_available():
        beams += 2 * BYTES * hypotheses * config.vocab_size
    references = 2 * BYTES * min(CHUNK_LOGITS, batch * settings.max_new_tokens * config.vocab_size)
    memory = probe.baseline_bytes + BYTES * parameters + max(beams, references)
    # half of the weights read, half of them write: 2 operations per token and weight are 1 per parameter
    reading = parameters * lengths.mean * lengths.documents / probe.flops_per_second
    seconds = STAGE_SECONDS / 2 + reading + decoding_seconds(settings, config, lengths, probe)
    return Need(
        stage="evaluate", parameters=parameters, memory_bytes=memory, disk_bytes=0, disk_peak_bytes=0,
        seconds=seconds, flops=None, batch_size=batch,
    )  # fmt: skip


def decoding_seconds(settings: Decoding, config: PreTrainedConfig, lengths: Lengths, probe: Probe) -> float:
    """Seconds that outputs for all documents take, as long as the longest reference or as is allowed."""
    parameters = parameters_of(config)
    batch = min(settings.per_device_eval_batch_size, len(lengths.source))
    batches = -(-lengths.documents // batch)
    steps = min(settings.max_new_tokens, max(lengths.target or [settings.max_new_tokens]))
    weights = BYTES * parameters / 2 / probe.bytes_per_second
    per_step = max(weights, parameters * batch * settings.num_beams / probe.flops_per_second)
    encoding = parameters * sum(lengths.source) / len(lengths.source) * lengths.documents / probe.flops_per_second
    return batches * steps * per_step + encoding


def reading_need(
    stage: str, config: PreTrainedConfig, lengths: Lengths, readings: int, probe: Probe, states: int
) -> Need:
    """Estimate restoring texts, by several checkpoints one after the other: weights, and the logits of a batch.

    Args:
        readings: how often each of them reads every document.
    """
    parameters = parameters_of(config)
    logits = 2 * BYTES * min(BATCH_LOGITS, BATCH_TOKENS * config.vocab_size)
    operations = 2 * parameters * lengths.mean * lengths.documents * readings * states
    loading = states * BYTES * parameters / probe.bytes_per_second
    return Need(
        stage=stage, parameters=parameters, memory_bytes=probe.baseline_bytes + BYTES * parameters + logits,
        disk_bytes=0, disk_peak_bytes=0, seconds=operations / probe.flops_per_second + loading, flops=operations,
    )  # fmt: skip

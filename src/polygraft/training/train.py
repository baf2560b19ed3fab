"""ONE training for every stage: a model, a task and data, until the budget is spent. `trainer.py` goes through it."""

from __future__ import annotations

import functools
import gc
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from polygraft import machine, processes
from polygraft.data.batching import Balance, make_batches
from polygraft.machine import Arithmetic
from polygraft.models.recomputed import recomputing
from polygraft.objectives.task import Objective, SizedDataset
from polygraft.settings import Optimization, Running
from polygraft.training import stopping
from polygraft.training.reporting import telling
from polygraft.training.sample import SCORES, DecodedSample
from polygraft.training.spending import Spending, learning_rate_factor
from polygraft.training.trainer import CHECKPOINTS, STATE, StageTrainer, checkpoints_in, last_checkpoint

__all__ = ["CHECKPOINTS", "StageTrainer", "checkpoints_in", "last_checkpoint", "learning_rate_factor", "train"]

UNLIMITED_STEPS = 10**9


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    settings: Optimization,
    objective: Objective,
    eval_objective: Objective,
    data: tuple[SizedDataset, SizedDataset],
    *,
    seed: int,
    out_dir: Path,
    running: Running = Running(),
    balance: Balance | None = None,
    sample: DecodedSample | None = None,
) -> dict[str, Any]:
    """Train a model, in place, on (training, validation) data until the budget is spent.

    An interrupted run goes on from its last checkpoint in `out_dir`/checkpoints; the caller removes these once the
    result is safe. `balance` chooses what an epoch reads, `sample` is decoded at every evaluation. Writes metrics.jsonl
    as it goes; returns steps, tokens, flops, train_seconds, train_loss, eval_loss and eval_loss_first (before the first
    step), and `classes`, the vocabulary that the losses normalise over; where the best model is loaded also its step
    and its scores, with early stopping whether that ended the training, and in fp16 skipped_steps, whose
    gradients overflowed: they are steps like all others, but changed no weight.

    Raises:
        Stopped: Ctrl-C or SIGTERM; a checkpoint of the last step was saved.
        CheckpointError: a loss or a gradient is not a number.
    """
    train_data, eval_data = data
    data_seed = running.seed_of_data(seed)
    batches = make_batches(settings, train_data.lengths, 1, data_seed, processes.count(), processes.rank(), balance)
    checkpoint = last_checkpoint(out_dir)
    spending = Spending(settings, batches, settings.load_best_model_at_end, out_dir.name)
    if checkpoint:
        spending.resume(checkpoint)
    if objective.noise:
        objective.noise.batches = int(spending.spent["steps"]) * settings.gradient_accumulation_steps
    arithmetic = machine.arithmetic(settings.precision)
    if not torch.cuda.is_available():
        machine.keep_freed_memory(sum(p.numel() * p.element_size() for p in model.parameters()))
        model.set_attn_implementation("eager")  # at a few hundred positions twice as fast as sdpa's backward on a CPU
    skips_layers = any(getattr(model.config, f"{side}layerdrop", 0.0) for side in ("", "encoder_", "decoder_"))
    model.forward = functools.partial(objective.loss, model)  # what DDP, FSDP and autocast wrap
    trainer = StageTrainer(
        model=model, args=_arguments(settings, spending, (seed, data_seed), out_dir, arithmetic, skips_layers),
        train_dataset=train_data, eval_dataset=eval_data, processing_class=tokenizer, batches=batches,
        objective=objective, spending=spending, eval_objective=eval_objective, out_dir=out_dir,
        callbacks=[spending], sample=sample, rate=functools.partial(_rate, spending),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # `Progress` shows where it stands; metrics.jsonl keeps the figures
    with telling(trainer, running, out_dir), recomputing(model, settings.gradient_checkpointing):
        _go_through(trainer, checkpoint)
    if settings.load_best_model_at_end:
        trainer.load_weights(trainer.state.best_global_step)
    del model.forward
    summary = _summary(trainer, settings)
    del trainer, spending
    gc.collect()  # these are a ring of references, and its optimizer twice the size of the model
    machine.return_freed_memory()
    return summary


def _rate(spending: Spending) -> float:
    return learning_rate_factor(spending.schedule, spending.share, int(spending.spent["steps"]))


def _go_through(trainer: StageTrainer, checkpoint: Path | None) -> None:
    """Evaluate the model as it is, and train it; or go on from a checkpoint, of which nothing may be left to do."""
    spending = trainer.spending
    with stopping.deferred() as spending.request:
        try:
            if checkpoint and spending.done:
                trainer.state = TrainerState.load_from_json(str(checkpoint / STATE))
                trainer.load_weights(trainer.state.global_step)
                if spending.spent["evaluation_due"]:
                    trainer.catch_up()
                return
            if not checkpoint:
                spending.first = trainer.evaluate()
                trainer.write_metrics()
            with spending.progress:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.heed_together()
        except stopping.Stopped:
            trainer.save_where_it_stopped()
            raise


def _arguments(
    settings: Optimization,
    spending: Spending,
    seeds: tuple[int, int],
    out_dir: Path,
    arithmetic: Arithmetic,
    skips_layers: bool,
) -> TrainingArguments:
    best = getattr(settings, "metric_for_best_model", "loss")
    return TrainingArguments(
        output_dir=str(out_dir / CHECKPOINTS),
        max_steps=int(spending.amount) if spending.unit == "steps" else UNLIMITED_STEPS,
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, adam_beta2=settings.adam_beta2,
        adam_epsilon=1e-6, max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        remove_unused_columns=False, dataloader_pin_memory=False,
        # `Spending` says when to log, evaluate and save; "steps" that never come only make Trainer note the best.
        logging_strategy="no", eval_strategy="steps", eval_steps=UNLIMITED_STEPS, save_strategy="steps",
        save_steps=UNLIMITED_STEPS, metric_for_best_model=f"eval_{best}", greater_is_better=best != "loss",
        bf16=arithmetic == "bf16", fp16=arithmetic == "fp16", use_cpu=not torch.cuda.is_available(),
        seed=seeds[0], data_seed=seeds[1],
        ddp_find_unused_parameters=skips_layers, disable_tqdm=True, report_to=[], logging_nan_inf_filter=False,
    )  # fmt: skip


def _summary(trainer: StageTrainer, settings: Optimization) -> dict[str, Any]:
    spent, first, history = trainer.spending.spent, trainer.spending.first, trainer.state.log_history
    losses = [line["loss"] for line in history if "loss" in line]
    evaluations = [line for line in history if line.get("step") and "eval_loss" in line]
    model = trainer.accelerator.unwrap_model(trainer.model)
    kept = evaluations[-1] if evaluations else {}
    more: dict[str, Any] = {}
    if settings.load_best_model_at_end:
        kept = next(line for line in evaluations if line["step"] == trainer.state.best_global_step)
        more = {key: kept[key] for key in (f"eval_{name}" for name in SCORES) if key in kept}
        more["best_step"] = kept["step"]
    if settings.early_stopping_patience:
        more["stopped_early"] = trainer.spending.stopped_early
    if trainer.accelerator.scaler:
        more["skipped_steps"] = int(spent["skipped_steps"])
    return {
        "steps": int(spent["steps"]), "tokens": int(spent["tokens"]), "flops": spent["flops"],
        "train_seconds": round(60 * spent["minutes"], 2), "train_loss": losses[-1] if losses else None,
        "eval_loss": kept.get("eval_loss"), "eval_loss_first": first["eval_loss"], "classes": model.config.vocab_size,
        **more,
    }  # fmt: skip

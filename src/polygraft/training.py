"""ONE trainer for every stage: transformers.Trainer, driven by a budget, with losses summed over tokens.

Three things differ from the plain Trainer. The loss is the objective's, a sum over labels divided by the number of
labels in the whole accumulated batch, so that accumulation and several processes equal one large batch. The end, the
learning rate, evaluations and checkpoints follow the share of the budget that is spent, whatever its unit. And what
was spent (tokens, floating-point operations, seconds) is counted, saved with the checkpoints and reported.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from polygraft import machine
from polygraft.data.batching import LengthGroupedBatches, make_batches
from polygraft.dropout import FastDropout
from polygraft.errors import CheckpointError
from polygraft.objectives.noise import Noise
from polygraft.progress import Progress
from polygraft.settings import Training

UNLIMITED_STEPS = 10**9
LOGS_PER_BUDGET = 50
EVAL_SIZE = 2  # times the training batch: without gradients, more fits
STEPS_WITH_FLOPS_COUNTED = 3  # the rest is extrapolated per padded token: counting slows a step down
CHECKPOINTS = "checkpoints"


class SizedDataset(Protocol):
    """A map-style dataset."""

    @property
    def lengths(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Objective(Protocol):
    """What a training task offers (polygraft.objectives)."""

    @property
    def noise(self) -> Noise | None: ...

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]: ...

    @property
    def loss(self) -> Callable[..., Tensor]: ...

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]: ...
    def tokens(self, batch: dict[str, Tensor]) -> Tensor: ...


class Spending(TrainerCallback, ExportableState):
    """Count what is spent, and end, evaluate, save and log at shares of the budget. Saved with every checkpoint."""

    def __init__(self, settings: Training, batches: LengthGroupedBatches, save_evaluated: bool, title: str) -> None:
        """With `save_evaluated` there is a checkpoint for every evaluation, so that the best one can be kept."""
        self.batches = batches
        steps_per_epoch = math.ceil(len(batches) / settings.gradient_accumulation_steps)
        self.unit, self.amount = settings.budget.unit, settings.budget.amount
        if self.unit == "epochs":  # a known number of steps, so that epochs are counted in steps
            self.unit, self.amount = "steps", math.ceil(self.amount * steps_per_epoch)
        self.settings, self.save_evaluated, self.progress = settings, save_evaluated, Progress(title)
        self.spent = {"steps": 0, "tokens": 0, "flops": 0.0, "minutes": 0.0, "padded": 0, "counted": 0.0}
        self.first: dict[str, float] = {}  # the evaluation before the first step
        self.last_share = 0.0
        self.resumed_at = time.monotonic()

    def resume(self, checkpoint: Path) -> None:
        """Go on from what was spent when a checkpoint was saved."""
        saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["Spending"]
        self.spent, self.first = saved["attributes"]["spent"], saved["attributes"]["first"]
        self.last_share = self.share

    @property
    def share(self) -> float:
        return min(1.0, self.spent[self.unit] / self.amount)

    def state(self) -> dict:
        """What Trainer writes into trainer_state.json, and `resume` reads."""
        return {"args": {}, "attributes": {"spent": dict(self.spent), "first": dict(self.first)}}

    def add_batch(self, tokens: int, padded_tokens: int, flops: float | None) -> None:
        """Count one forward and backward pass; without `flops`, by the rate of the counted ones."""
        if flops is not None:
            self.spent["padded"] += padded_tokens
            self.spent["counted"] += flops
        self.spent["tokens"] += tokens
        rate = self.spent["counted"] / max(1, self.spent["padded"])
        self.spent["flops"] += flops if flops is not None else rate * padded_tokens

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the batches which epoch begins; it may be resumed in its middle."""
        self.batches.set_epoch(int(state.epoch))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs before the scheduler's step, which therefore sees this step's spending."""
        now = time.monotonic()
        self.spent["steps"] += 1
        self.spent["minutes"] += (now - self.resumed_at) / 60
        self.resumed_at = now

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        done = self.share >= 1.0
        control.should_training_stop |= done
        control.should_log |= done or self._crossed(1 / LOGS_PER_BUDGET)
        control.should_evaluate |= done or self._crossed(self.settings.eval_steps)
        control.should_save |= not done and self._crossed(self.settings.save_steps)
        control.should_save |= self.save_evaluated and control.should_evaluate
        self.last_share = self.share
        self.progress.update(self.share, int(self.spent["tokens"]))
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.resumed_at = time.monotonic()  # evaluation is not on the budget

    def _crossed(self, every: float) -> bool:
        """Whether this step passed a multiple of `every`: steps, or below 1 a share of the budget."""
        if every >= 1:
            return self.spent["steps"] % round(every) == 0
        return math.floor(self.share / every + 1e-9) > math.floor(self.last_share / every + 1e-9)


def _is_news(record: logging.LogRecord) -> bool:
    """Tied weights are stored once, which Trainer reports as missing keys at every reload."""
    return "missing keys" not in record.getMessage() and "mtime may not be reliable" not in record.getMessage()


for _name in ("transformers.trainer", "transformers.trainer_utils"):
    logging.getLogger(_name).addFilter(_is_news)


class StageTrainer(Trainer):
    """A Trainer whose model computes the objective's summed loss."""

    objective: Objective
    eval_objective: Objective
    eval_data: Any

    def __init__(
        self, *, batches: LengthGroupedBatches, objective: Objective, spending: Spending, eval_objective: Objective,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(data_collator=objective.collate, **kwargs)
        self.batches, self.objective = batches, objective
        self.eval_objective, self.spending = eval_objective, spending
        self.eval_data = kwargs["eval_dataset"]
        self.model_accepts_loss_kwargs = True  # have the labels of the whole accumulated batch counted
        self._loss_shifts_labels = False

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of `self.batches`, which are this process's own: nothing is left for accelerate to share."""
        data: Any = self.train_dataset
        return DataLoader(data, batch_sampler=self.batches, collate_fn=self.objective.collate)

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the summed loss over the number of labels, times the processes whose gradients are averaged."""
        return model(**inputs) / num_items_in_batch * self.accelerator.num_processes

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: Any = None) -> Tensor:
        """Run one forward and backward pass and count what it cost."""
        processes = self.accelerator.num_processes
        size = torch.stack([self.objective.tokens(inputs).cpu(), torch.tensor(self._padded(inputs))])
        if processes > 1:
            size = self.accelerator.reduce(size.to(self.args.device), "sum")
        tokens, padded = size.tolist()
        with FastDropout() if self.args.device.type == "cpu" else contextlib.nullcontext():
            if self.spending.spent["steps"] < STEPS_WITH_FLOPS_COUNTED:
                with FlopCounterMode(display=False) as counter:
                    loss = super().training_step(model, inputs, num_items_in_batch)
                self.spending.add_batch(tokens, padded, float(counter.get_total_flops()) * processes)
            else:
                loss = super().training_step(model, inputs, num_items_in_batch)
                self.spending.add_batch(tokens, padded, None)
        return loss

    @staticmethod
    def _padded(inputs: dict) -> int:
        decoder = inputs["decoder_input_ids"].numel() if "decoder_input_ids" in inputs else 0
        return inputs["input_ids"].numel() + decoder

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Learning rates as a function of the share of the budget that is spent."""
        settings, spending = self.spending.settings, self.spending
        self.lr_scheduler = LambdaLR(
            self.optimizer,  # type: ignore[arg-type]
            lambda _: learning_rate_factor(settings, spending.share, int(spending.spent["steps"])),
        )
        return self.lr_scheduler

    @torch.inference_mode()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return and log `eval_loss`, the mean over all labels ()."""
        model = self.accelerator.unwrap_model(self.model).eval()
        batches = make_batches(self.spending.settings, self.eval_data.lengths, EVAL_SIZE).in_order()
        loader = DataLoader(self.eval_data, batch_sampler=batches, collate_fn=self.eval_objective.collate)
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for batch in loader:
            batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with self.compute_loss_context_manager():
                for name, (total, count) in self.eval_objective.eval_sums(model, batch).items():
                    sums[name] += float(total)
                    counts[name] += int(count)
        metrics = {name: sums[name] / max(1, counts[name]) for name in sums}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was spent so far to each line of the log."""
        spent = self.spending.spent
        logs |= {"tokens": int(spent["tokens"]), "seconds": round(60 * spent["minutes"], 3), "flops": spent["flops"]}
        super().log(logs, start_time)


def learning_rate_factor(settings: Training, share: float, steps: int) -> float:
    """Return the factor on the peak learning rate after a share of the budget: linear warm-up, then the decay."""
    warmup = settings.warmup_steps
    if warmup >= 1 and steps < warmup:
        return (steps + 1) / warmup
    if warmup < 1 and share < warmup:
        return max(share, 1e-3) / warmup
    start = warmup if warmup < 1 else 0.0
    left = (1.0 - share) / (1.0 - start)
    decays = {"linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))), "constant": 1.0}
    return decays[settings.lr_scheduler_type]


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    settings: Training,
    objective: Objective,
    eval_objective: Objective,
    data: tuple[SizedDataset, SizedDataset],
    *,
    seed: int,
    out_dir: Path,
    keep_best: bool = False,
) -> dict[str, Any]:
    """Train a model, in place, on (training, validation) data until the budget is spent.

    An interrupted run goes on from its last checkpoint in `out_dir`/checkpoints; `remove_checkpoints` once the model is
    saved. With `keep_best` the model ends as it was at the lowest validation loss. Writes metrics.jsonl; returns steps,
    tokens, flops, train_seconds, train_loss, eval_loss and eval_loss_first (before the first step), and `classes`, the
    vocabulary that the losses normalise over.
    """
    train_data, eval_data = data
    processes, process = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    batches = make_batches(settings, train_data.lengths, 1, seed, processes, process)
    checkpoint = last_checkpoint(out_dir)
    spending = Spending(settings, batches, keep_best, out_dir.name)
    if checkpoint:
        spending.resume(checkpoint)
    if objective.noise:
        objective.noise.batches = int(spending.spent["steps"]) * settings.gradient_accumulation_steps
    bf16 = machine.use_bf16(settings.precision)
    if not torch.cuda.is_available():
        machine.keep_freed_memory(sum(p.numel() * p.element_size() for p in model.parameters()))
        model.set_attn_implementation("eager")  # at a few hundred positions twice as fast as sdpa's backward on a CPU
    model.forward = functools.partial(objective.loss, model)  # what DDP, FSDP and autocast wrap
    trainer = StageTrainer(
        model=model, args=_arguments(settings, spending, seed, out_dir, bf16, keep_best), train_dataset=train_data,
        eval_dataset=eval_data, processing_class=tokenizer, batches=batches, objective=objective, spending=spending,
        eval_objective=eval_objective, callbacks=[spending],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # `Progress` shows where it stands; metrics.jsonl keeps the figures
    if not checkpoint:
        spending.first = trainer.evaluate()
    with spending.progress:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    del model.forward
    summary = _summary(trainer, out_dir)
    del trainer
    gc.collect()  # a trainer is a ring of references, and its optimizer twice the size of the model
    machine.return_freed_memory()
    return summary


def _arguments(
    settings: Training, spending: Spending, seed: int, out_dir: Path, bf16: bool, keep_best: bool
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out_dir / CHECKPOINTS),
        max_steps=int(spending.amount) if spending.unit == "steps" else UNLIMITED_STEPS,
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, adam_beta2=settings.adam_beta2,
        adam_epsilon=1e-6, max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        remove_unused_columns=False, dataloader_pin_memory=False,
        # `Spending` says when to log, evaluate and save; "steps" that never come only make Trainer keep the best.
        logging_strategy="no", eval_strategy="steps", eval_steps=UNLIMITED_STEPS, save_strategy="steps",
        save_steps=UNLIMITED_STEPS, save_total_limit=2, load_best_model_at_end=keep_best,
        metric_for_best_model="eval_loss", greater_is_better=False,
        bf16=bf16, use_cpu=not torch.cuda.is_available(), seed=seed, data_seed=seed,
        disable_tqdm=True, report_to=[], logging_nan_inf_filter=False,
    )  # fmt: skip


def last_checkpoint(out_dir: Path) -> Path | None:
    """Return the newest complete checkpoint of an interrupted run (Trainer writes trainer_state.json last)."""
    found = [p for p in (out_dir / CHECKPOINTS).glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def remove_checkpoints(out_dir: Path) -> None:
    """Remove what only an interrupted run needs."""
    shutil.rmtree(out_dir / CHECKPOINTS, ignore_errors=True)


def _summary(trainer: StageTrainer, out_dir: Path) -> dict[str, Any]:
    """Write the log, and sum up."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    spent, first, history = trainer.spending.spent, trainer.spending.first, trainer.state.log_history
    losses = [line["loss"] for line in history if "loss" in line]
    if losses and not math.isfinite(losses[-1]):
        raise CheckpointError(f"training diverged (loss {losses[-1]}). Lower learning_rate or raise warmup_steps.")
    evals = [line["eval_loss"] for line in history if "eval_loss" in line]
    lines = [{"step": 0, "tokens": 0, "seconds": 0.0, **first}]
    lines += [line for line in history if line.get("step") and ("loss" in line or "eval_loss" in line)]
    (out_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "steps": int(spent["steps"]), "tokens": int(spent["tokens"]), "flops": spent["flops"],
        "train_seconds": round(60 * spent["minutes"], 2), "train_loss": losses[-1] if losses else None,
        "eval_loss": min(evals, default=None) if trainer.args.load_best_model_at_end else evals[-1] if evals else None,
        "eval_loss_first": first["eval_loss"], "classes": model.config.vocab_size,
    }  # fmt: skip

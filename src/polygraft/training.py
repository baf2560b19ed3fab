"""ONE trainer for every stage: transformers.Trainer, driven by a budget, with losses summed over tokens.

Three things differ from the plain Trainer. The loss is the objective's, a sum over labels divided by the number of
labels in the whole accumulated batch, so that accumulation and several processes equal one large batch. The end, the
learning rate, evaluations and checkpoints follow the share of the budget that is spent (`spending.py`). And it can be
interrupted anywhere: checkpoints appear whole or not at all, and what goes on from one is what was never interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import math
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_callback import ExportableState, TrainerState

from polygraft import machine, processes, stopping
from polygraft.data.batching import LengthGroupedBatches, make_batches
from polygraft.data.files import appearing, write_atomically
from polygraft.dropout import FastDropout
from polygraft.errors import CheckpointError
from polygraft.models.checkpoints import tied_names
from polygraft.objectives import Objective, SizedDataset
from polygraft.settings import Training
from polygraft.spending import Spending, learning_rate_factor

UNLIMITED_STEPS = 10**9
EVAL_SIZE = 2  # times the training batch: without gradients, more fits
STEPS_WITH_FLOPS_COUNTED = 3  # the rest is extrapolated per padded token: counting slows a step down
CHECKPOINTS, STATE = "checkpoints", "trainer_state.json"
ROWS_NAMED = 8


class Numbered(Dataset):
    """Items beside their numbers, so that a batch can say what it is made of."""

    def __init__(self, data: SizedDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        return index, self.data[index]


class StageTrainer(Trainer):
    """A Trainer whose model computes the objective's summed loss."""

    objective: Objective
    eval_objective: Objective
    train_data: Any
    eval_data: Any

    def __init__(
        self, *, batches: LengthGroupedBatches, objective: Objective, spending: Spending, eval_objective: Objective,
        out_dir: Path, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(data_collator=objective.collate, **kwargs)
        self.batches, self.objective = batches, objective
        self.eval_objective, self.spending, self.out_dir = eval_objective, spending, out_dir
        self.train_data, self.eval_data = kwargs["train_dataset"], kwargs["eval_dataset"]
        self.model_accepts_loss_kwargs = True  # have the labels of the whole accumulated batch counted
        self._loss_shifts_labels = False
        self.step_items: list[int] = []  # of the training data, read since the last step
        self.asked_to_stop = False
        spending.catch_up = self.catch_up

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of `self.batches`, which are this process's own: nothing is left for accelerate to share."""
        return self._loader(Numbered(self.train_data), self.batches, self._collate_numbered)

    def _collate_numbered(self, items: list[tuple[int, dict[str, Any]]]) -> dict[str, Tensor]:
        numbers, rows = zip(*items, strict=True)
        return {**self.objective.collate(list(rows)), "items": torch.tensor(numbers)}

    @staticmethod
    def _loader(data: Any, batches: Any, collate: Callable) -> DataLoader:
        """A loader that draws nothing from the global random numbers: these then depend on the steps alone."""
        return DataLoader(data, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the summed loss over the number of labels, times the processes whose gradients are averaged."""
        return model(**inputs) / num_items_in_batch * self.accelerator.num_processes

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: Any = None) -> Tensor:
        """Run one forward and backward pass and count what it cost.

        Raises:
            Stopped: that was asked for.
            CheckpointError: the loss is not a number.
        """
        self._heed()
        items = inputs.pop("items").tolist()
        self.step_items += items
        counted = self.spending.spent["steps"] < STEPS_WITH_FLOPS_COUNTED
        counter = FlopCounterMode(display=False) if counted else contextlib.nullcontext()
        with FastDropout() if self.args.device.type == "cpu" else contextlib.nullcontext(), counter:
            loss = super().training_step(model, inputs, num_items_in_batch)
        flops = float(counter.get_total_flops()) if isinstance(counter, FlopCounterMode) else 0.0
        here: list[float] = [int(self.objective.tokens(inputs)), self._padded(inputs), flops, float(loss)]
        tokens, padded, flops, loss_sum, asked = self._over_processes([*here, self.spending.request.signal])
        if not math.isfinite(loss_sum):
            raise self._diverged(f"in step {self.state.global_step + 1}: the loss is {loss_sum}", items)
        self.spending.add_batch(int(tokens), int(padded), flops if counted else None)
        self.spending.spent["loss"] += loss_sum / self.accelerator.num_processes
        self.asked_to_stop = asked > 0
        if not self.accelerator.sync_gradients:  # in the middle of a step; at its end the next one heeds
            self._heed()
        return loss

    def _heed(self) -> None:
        """Raise Stopped if a signal asked for it: in several processes once all know."""
        if self.asked_to_stop or (self.spending.request.signal and self.accelerator.num_processes == 1):
            raise stopping.Stopped(self.spending.request.signal or signal.SIGTERM)

    def _over_processes(self, values: list[float]) -> list[float]:
        """Return the values summed over all processes."""
        if self.accelerator.num_processes == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        return self.accelerator.reduce(tensor, "sum").tolist()

    @staticmethod
    def _padded(inputs: dict) -> int:
        decoder = inputs["decoder_input_ids"].numel() if "decoder_input_ids" in inputs else 0
        return inputs["input_ids"].numel() + decoder

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm of the gradient; it is not a number in all processes or in none.

        Raises:
            CheckpointError: it is not a number. No weight has been changed by it.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            step = self.state.global_step + 1
            raise self._diverged(f"in step {step}: the norm of the gradient is {float(norm)}", self.step_items)
        self.step_items = []
        return norm

    def _diverged(self, what: str, items: list[int]) -> CheckpointError:
        """The error that ends the training. No weight was changed by what is not a number, so checkpoints stay."""
        kept = last_checkpoint(self.out_dir)
        names = getattr(self.train_data, "names", lambda numbers: [f"item {number}" for number in numbers])
        read = f", reading {', '.join(names(items[:ROWS_NAMED]))}" if items else ""
        return CheckpointError(
            f"training diverged {what}{read}{', …' if len(items) > ROWS_NAMED else ''}. "
            f"{f'What was learned before is in {kept}. ' if kept else ''}Lower learning_rate (it is "
            f"{self.spending.settings.learning_rate:g}) or raise warmup_steps; if it is these rows every time, look at "
            "them."
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Learning rates as a function of the share of the budget that is spent."""
        spending = self.spending
        self.lr_scheduler = LambdaLR(
            self.optimizer,  # type: ignore[arg-type]
            lambda _: learning_rate_factor(spending.schedule, spending.share, int(spending.spent["steps"])),
        )
        return self.lr_scheduler

    @torch.inference_mode()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return and log `eval_loss`, the mean over all labels (); what the main process measures counts.

        Raises:
            Stopped: that was asked for.
            CheckpointError: the loss is not a number.
        """
        model = self.accelerator.unwrap_model(self.model).eval()
        batches = make_batches(self.spending.settings, self.eval_data.lengths, EVAL_SIZE).in_order()
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        self.spending.spent["evaluation_due"] = True
        for batch in self._loader(self.eval_data, batches, self.eval_objective.collate):
            self._heed()
            batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with self.compute_loss_context_manager():
                for name, (total, count) in self.eval_objective.eval_sums(model, batch).items():
                    sums[name] += float(total)
                    counts[name] += int(count)
        metrics = processes.agreed({name: sums[name] / max(1, counts[name]) for name in sums})
        if not math.isfinite(metrics["eval_loss"]):
            step, loss = self.state.global_step, metrics["eval_loss"]
            raise self._diverged(f"after step {step}: the loss on the validation data is {loss}", [])
        self.spending.spent["evaluation_due"] = False
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, what was spent beside it, and keep metrics.jsonl up to date."""
        if "loss" in logs:
            logs["loss"] = self.spending.mean_loss()
        spent = self.spending.spent
        logs |= {"tokens": int(spent["tokens"]), "seconds": round(60 * spent["minutes"], 3), "flops": spent["flops"]}
        super().log(logs, start_time)
        if self.spending.first:
            self.write_metrics()

    def write_metrics(self) -> None:
        """Write metrics.jsonl: the evaluation before the first step, then every line of losses so far."""
        if not processes.is_main():
            return
        lines = [{"step": 0, "tokens": 0, "seconds": 0.0, **self.spending.first}]
        history = self.state.log_history
        lines += [line for line in history if line.get("step") and ("loss" in line or "eval_loss" in line)]
        write_atomically(self.out_dir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def catch_up(self) -> None:
        """Do the evaluation that was interrupted when the run was stopped."""
        self._determine_best_metric(self.evaluate(), None)

    def checkpoint_folder(self) -> Path:
        """Return the folder of a checkpoint of the last step."""
        return self.out_dir / CHECKPOINTS / f"checkpoint-{self.state.global_step}"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write what Trainer writes; it has its name once it is whole and on the disk, and older ones go after that.

        Raises:
            CheckpointError: a weight is not a number.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise self._diverged(f"in step {self.state.global_step}: weights are no longer numbers", [])
        here = appearing(self.checkpoint_folder()) if processes.is_main() else contextlib.nullcontext(Path())
        with here as hidden:
            hidden = processes.agreed(hidden)
            self.save_model(str(hidden), _internal_call=True)
            self._save_optimizer_and_scheduler(str(hidden))
            self._save_scaler(str(hidden))
            self._save_rng_state(str(hidden))
            processes.wait()
            if processes.is_main():
                parts = [p for p in (*self.callback_handler.callbacks, self.control) if isinstance(p, ExportableState)]
                states: Any = {type(part).__name__: part.state() for part in parts}
                self.state.stateful_callbacks = states
                self.state.save_to_json(str(hidden / STATE))
        if processes.is_main():
            kept = {f"checkpoint-{step}" for step in (self.state.global_step, self.state.best_global_step)}
            for old in checkpoints_in(self.out_dir)[:-2]:
                if old.name not in kept:
                    shutil.rmtree(old, ignore_errors=True)
        processes.wait()

    def save_where_it_stopped(self) -> None:
        """Save a checkpoint of the last step, from which the run goes on as if it had not been stopped."""
        due = self.spending.spent["evaluation_due"]
        self.spending.return_to_last_step()
        self.spending.spent["evaluation_due"] = due
        if self.state.global_step and processes.agreed(not self.checkpoint_folder().exists()):
            self._save_checkpoint(self.model, None)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse weights that are not this model's. Tied ones are stored under one of their names."""
        model: Any = self.model
        owner, missing = tied_names(model), set(load_result.missing_keys)
        loaded = {owner.get(name, name) for name in model.state_dict() if name not in missing}
        odd = [name for name in missing if owner.get(name, name) not in loaded] + list(load_result.unexpected_keys)
        if odd:
            raise CheckpointError(f"{self.out_dir / CHECKPOINTS}: the checkpoints are of another model: {odd[0]}.")

    def load_weights(self, step: int | None) -> None:
        """Give the model the weights of a checkpoint."""
        self._load_from_checkpoint(str(self.out_dir / CHECKPOINTS / f"checkpoint-{step}"))


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

    An interrupted run goes on from its last checkpoint in `out_dir`/checkpoints; the caller removes these once the
    result is safe. With `keep_best` the model ends as it was at the lowest validation loss. Writes metrics.jsonl as
    it goes; returns steps, tokens, flops, train_seconds, train_loss, eval_loss and eval_loss_first (before the first
    step), and `classes`, the vocabulary that the losses normalise over.

    Raises:
        Stopped: Ctrl-C or SIGTERM; a checkpoint of the last step was saved.
        CheckpointError: a loss or a gradient is not a number.
    """
    train_data, eval_data = data
    batches = make_batches(settings, train_data.lengths, 1, seed, processes.count(), processes.rank())
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
    skips_layers = any(getattr(model.config, f"{side}layerdrop", 0.0) for side in ("", "encoder_", "decoder_"))
    model.forward = functools.partial(objective.loss, model)  # what DDP, FSDP and autocast wrap
    trainer = StageTrainer(
        model=model, args=_arguments(settings, spending, seed, out_dir, bf16, skips_layers), train_dataset=train_data,
        eval_dataset=eval_data, processing_class=tokenizer, batches=batches, objective=objective, spending=spending,
        eval_objective=eval_objective, out_dir=out_dir, callbacks=[spending],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # `Progress` shows where it stands; metrics.jsonl keeps the figures
    _go_through(trainer, checkpoint)
    if keep_best:
        trainer.load_weights(trainer.state.best_global_step)
    del model.forward
    summary = _summary(trainer, keep_best)
    del trainer, spending
    gc.collect()  # these are a ring of references, and its optimizer twice the size of the model
    machine.return_freed_memory()
    return summary


def _go_through(trainer: StageTrainer, checkpoint: Path | None) -> None:
    """Evaluate the model as it is, and train it; or go on from a checkpoint, of which nothing may be left to do."""
    spending = trainer.spending
    with stopping.deferred() as spending.request:
        try:
            if checkpoint and spending.share >= 1.0:
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
        except stopping.Stopped:
            trainer.save_where_it_stopped()
            raise


def _arguments(
    settings: Training, spending: Spending, seed: int, out_dir: Path, bf16: bool, skips_layers: bool
) -> TrainingArguments:
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
        save_steps=UNLIMITED_STEPS, metric_for_best_model="eval_loss", greater_is_better=False,
        bf16=bf16, use_cpu=not torch.cuda.is_available(), seed=seed, data_seed=seed,
        ddp_find_unused_parameters=skips_layers, disable_tqdm=True, report_to=[], logging_nan_inf_filter=False,
    )  # fmt: skip


def checkpoints_in(out_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the oldest first."""
    found = [p for p in (out_dir / CHECKPOINTS).glob("checkpoint-*") if (p / STATE).is_file()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def last_checkpoint(out_dir: Path) -> Path | None:
    """Return the newest complete checkpoint of an interrupted run."""
    return next(reversed(checkpoints_in(out_dir)), None)


def _summary(trainer: StageTrainer, keep_best: bool) -> dict[str, Any]:
    spent, first, history = trainer.spending.spent, trainer.spending.first, trainer.state.log_history
    losses = [line["loss"] for line in history if "loss" in line]
    evals = [line["eval_loss"] for line in history if line.get("step") and "eval_loss" in line]
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "steps": int(spent["steps"]), "tokens": int(spent["tokens"]), "flops": spent["flops"],
        "train_seconds": round(60 * spent["minutes"], 2), "train_loss": losses[-1] if losses else None,
        "eval_loss": min(evals, default=None) if keep_best else evals[-1] if evals else None,
        "eval_loss_first": first["eval_loss"], "classes": model.config.vocab_size,
    }  # fmt: skip

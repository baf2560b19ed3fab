"""transformers.Trainer with losses summed over tokens, numbers that are watched, and checkpoints that are whole.

Three things differ from the plain Trainer. The loss is the objective's, a sum over labels divided by the number of
labels in the whole accumulated batch, so that accumulation and several processes equal one large batch. The end, the
learning rate, evaluations and checkpoints follow the share of the budget that is spent (`spending.py`). And it can be
interrupted anywhere: checkpoints appear whole or not at all, and what goes on from one is what was never interrupted.
"""

from __future__ import annotations

import contextlib
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
from transformers import Trainer
from transformers.trainer_callback import ExportableState

from polygraft import processes
from polygraft.data.batching import LengthGroupedBatches, make_batches
from polygraft.data.files import appearing, write_atomically
from polygraft.errors import CheckpointError
from polygraft.models.checkpoints import tied_names
from polygraft.models.recomputed import PassFlops
from polygraft.objectives.task import Objective, SizedDataset
from polygraft.training import stopping
from polygraft.training.dropout import FastDropout
from polygraft.training.sample import DecodedSample
from polygraft.training.spending import Spending

EVAL_SIZE = 2  # times the training batch: without gradients, more fits
STEPS_WITH_FLOPS_COUNTED = 3  # the rest is extrapolated per padded token: counting slows a step down
CHECKPOINTS, STATE = "checkpoints", "trainer_state.json"
ROWS_NAMED = 8
LOWEST_SCALE = 1e-4  # of gradients in fp16; fairseq's `--min-loss-scale`
FP16 = " Or the model leaves the range of fp16: give precision: bf16 or fp32."


def checkpoints_in(out_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the oldest first."""
    found = [p for p in (out_dir / CHECKPOINTS).glob("checkpoint-*") if (p / STATE).is_file()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def last_checkpoint(out_dir: Path) -> Path | None:
    """Return the newest complete checkpoint of an interrupted run."""
    return next(reversed(checkpoints_in(out_dir)), None)


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
        out_dir: Path, rate: Callable[[], float], sample: DecodedSample | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(data_collator=objective.collate, **kwargs)
        self.batches, self.objective = batches, objective
        self.eval_objective, self.spending, self.out_dir = eval_objective, spending, out_dir
        self.train_data, self.eval_data = kwargs["train_dataset"], kwargs["eval_dataset"]
        self.model_accepts_loss_kwargs = True  # have the labels of the whole accumulated batch counted
        self._loss_shifts_labels = False
        self.rate, self.sample = rate, sample
        self.step_items: list[int] = []  # of the training data, read since the last step
        self.asked_to_stop = False
        spending.catch_up = self.catch_up

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of `self.batches`, which are this process's own: nothing is left for accelerate to share."""
        return self._loader(Numbered(self.train_data), self.batches, self._collate_numbered)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Return the batches of a step: none where an evaluation that was caught up with has ended the training."""
        return ([], None) if self.spending.done else super().get_batch_samples(*args, **kwargs)

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
            CheckpointError: the loss is not a number; in fp16 `_get_grad_norm` sees to that.
        """
        self._heed()
        items = inputs.pop("items").tolist()
        self.step_items += items
        counted = self.spending.spent["steps"] < STEPS_WITH_FLOPS_COUNTED
        counter = PassFlops() if counted else contextlib.nullcontext()
        with FastDropout() if self.args.device.type == "cpu" else contextlib.nullcontext(), counter:
            loss = super().training_step(model, inputs, num_items_in_batch)
        flops = float(counter.once) if isinstance(counter, PassFlops) else 0.0
        here: list[float] = [int(self.objective.tokens(inputs)), self._padded(inputs), flops, float(loss)]
        tokens, padded, flops, loss_sum, asked = self._over_processes([*here, self.spending.request.signal])
        if not math.isfinite(loss_sum) and not self.accelerator.scaler:
            raise self._diverged(f"in step {self.state.global_step + 1}: the loss is {loss_sum}", items)
        self.spending.add_batch(int(tokens), int(padded), flops if counted else None)
        self.spending.spent["step_loss"] += loss_sum / self.accelerator.num_processes
        self.asked_to_stop = asked > 0
        if not self.accelerator.sync_gradients:  # in the middle of a step; at its end the next one heeds
            self._heed()
        return loss

    def _heed(self) -> None:
        """Raise Stopped if a signal asked for it: in several processes once all know."""
        if self.asked_to_stop or (self.spending.request.signal and self.accelerator.num_processes == 1):
            raise stopping.Stopped(self.spending.request.signal or signal.SIGTERM)

    def heed_together(self) -> None:
        """Raise Stopped in all processes if any was asked to: nothing comes after this in which it would be heeded."""
        (asked,) = self._over_processes([self.spending.request.signal])
        self.asked_to_stop = asked > 0
        self._heed()

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

        In fp16 the scaler then skips the step and halves its scale.

        Raises:
            CheckpointError: it is not a number, at the lowest scale in fp16. No weight has been changed by it.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            scaler = self.accelerator.scaler
            if scaler is None or scaler.get_scale() < LOWEST_SCALE:
                step = self.state.global_step + 1
                raise self._diverged(f"in step {step}: the norm of the gradient is {float(norm)}", self.step_items)
            self.spending.spent["skipped_steps"] += 1
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
            f"them.{FP16 if self.accelerator.scaler else ''}"
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Learning rates by `rate`, the factor on the peak."""
        self.lr_scheduler = LambdaLR(self.optimizer, lambda _: self.rate())  # type: ignore[arg-type]
        return self.lr_scheduler

    @torch.inference_mode()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return and log `eval_loss`, the mean over all labels, and the sample's scores; the main process's count.

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
        metrics = {name: sums[name] / max(1, counts[name]) for name in sums}
        if self.sample is not None and math.isfinite(metrics["eval_loss"]):
            metrics |= self.sample.scores(model, self._heed)
        metrics = processes.agreed(metrics)
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

"""What a training run spends, and what follows from it: its end, its learning rate, evaluations and checkpoints.

All of them are functions of the share of the budget that is spent, whatever its unit, and what is spent is the same
number in all processes, so that they decide alike.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from polygraft import processes
from polygraft.data.batching import LengthGroupedBatches
from polygraft.progress import Progress
from polygraft.settings import Optimization
from polygraft.training.stopping import Request

LOGS_PER_BUDGET = 50
LOWEST_RISE = 0.01  # of the peak: transformers' first step has rate 0, and learns nothing


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes: the shape of its decay, and its warm-up."""

    kind: str
    warmup_steps: float
    warmup_end: float | None
    """The share of the budget at which the warm-up ends; None while that is not known."""


class Spending(TrainerCallback, ExportableState):
    """Count what is spent, and end, evaluate, save and log at shares of the budget. Saved with every checkpoint."""

    def __init__(self, settings: Optimization, batches: LengthGroupedBatches, save_evaluated: bool, title: str) -> None:
        """With `save_evaluated` there is a checkpoint for every evaluation, so that the best one can be kept."""
        self.batches = batches
        steps_per_epoch = math.ceil(len(batches) / settings.gradient_accumulation_steps)
        self.unit, self.amount = settings.training_budget.unit, settings.training_budget.amount
        if self.unit == "epochs":  # a known number of steps, so that epochs are counted in steps
            self.unit, self.amount = "steps", math.ceil(self.amount * steps_per_epoch)
        self.settings, self.save_evaluated, self.progress = settings, save_evaluated, Progress(title)
        self.spent: dict[str, Any] = {
            "steps": 0, "tokens": 0, "flops": 0.0, "minutes": 0.0, "padded": 0, "counted": 0.0,
            "loss": 0.0, "loss_steps": 0,  # since the last line of the log
            "step_loss": 0.0,  # of the batches since the last step
            "skipped_steps": 0,  # in fp16, since gradients overflowed
            "warmed_up": None,  # the share at which the warm-up ended
            "evaluation_due": False,  # whether an evaluation was interrupted
            "no_better": 0,  # evaluations since one was better than the best before it
        }  # fmt: skip
        self.first: dict[str, float] = {}  # the evaluation before the first step
        self.last_share = 0.0
        self.started = time.monotonic()
        self.request = Request()
        self.catch_up: Callable[[], None] = lambda: None  # evaluates, where that was interrupted
        self.safe = self._moment()

    def resume(self, checkpoint: Path) -> None:
        """Go on from what was spent when a checkpoint was saved."""
        saved = read_spending(checkpoint)
        self.spent |= saved["spent"]
        self.first = saved["first"]
        self.last_share = self.share

    @property
    def share(self) -> float:
        return min(1.0, self.spent[self.unit] / self.amount)

    @property
    def stopped_early(self) -> bool:
        """Whether `early_stopping_patience` ended the training."""
        patience = self.settings.early_stopping_patience
        return patience is not None and self.spent["no_better"] >= patience

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.share >= 1.0 or self.stopped_early

    @property
    def schedule(self) -> Schedule:
        """The schedule of learning rates, with what is known of it by now."""
        warmup = self.settings.warmup_steps
        end = self.spent["warmed_up"]
        if warmup < 1:
            end = warmup
        elif self.unit == "steps":
            end = min(1.0, warmup / self.amount)
        return Schedule(self.settings.lr_scheduler_type, warmup, end)

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

    def add_step(self, minutes: float) -> None:
        """Count one step of the optimizer, `minutes` by the main process's clock."""
        self.spent["steps"] += 1
        if math.isfinite(loss := self.spent["step_loss"]):  # else it overflowed in fp16, and the step was skipped
            self.spent |= {"loss": self.spent["loss"] + loss, "loss_steps": self.spent["loss_steps"] + 1}
        self.spent["step_loss"] = 0.0
        self.spent["minutes"] += minutes
        if self.spent["warmed_up"] is None and self.spent["steps"] >= self.settings.warmup_steps:
            self.spent["warmed_up"] = self.share

    def minutes_passed(self) -> float:
        """Return the minutes since this was last asked, evaluating and saving left out."""
        now = time.monotonic()
        passed, self.started = now - self.started, now
        return passed / 60

    def mean_loss(self) -> float:
        """Return the mean training loss of the steps since this was last asked."""
        mean = self.spent["loss"] / max(1, self.spent["loss_steps"])
        self.spent |= {"loss": 0.0, "loss_steps": 0}
        return mean

    def return_to_last_step(self) -> None:
        """Forget what was done since the last step: what was spent, and the state of the random numbers."""
        self.spent, generators = copy.deepcopy(self.safe[0]), self.safe[1]
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(generators[3])

    def _moment(self) -> tuple[dict[str, Any], tuple[Any, ...]]:
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        generators = (random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus)
        return copy.deepcopy(self.spent), generators

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.spent["evaluation_due"]:
            self.catch_up()
        self.safe = self._moment()
        self.started = time.monotonic()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the batches which epoch begins; it may be resumed in its middle."""
        self.batches.set_epoch(int(state.epoch))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs before the scheduler's step, which therefore sees this step's spending."""
        self.add_step(processes.agreed(self.minutes_passed()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        done = self.share >= 1.0
        control.should_training_stop |= done
        control.should_log |= done or self._crossed(1 / LOGS_PER_BUDGET)
        control.should_evaluate |= done or self._crossed(self.settings.eval_steps)
        control.should_save |= done or self._crossed(self.settings.save_steps)
        control.should_save |= self.save_evaluated and control.should_evaluate
        self.last_share = self.share
        self.safe = self._moment()
        self.progress.update(self.share, int(self.spent["tokens"]))
        return control

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.safe = self._moment()  # the sum of losses begins anew

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Count evaluations without a gain, as transformers' EarlyStoppingCallback; `state` knows the best before."""
        best, now, sign = state.best_metric, metrics[args.metric_for_best_model], 1 if args.greater_is_better else -1
        better = best is None or sign * (now - best) > self.settings.early_stopping_threshold
        self.spent["no_better"] = 0 if better else self.spent["no_better"] + 1
        control.should_training_stop |= self.stopped_early
        self.safe = self._moment()
        self.started = time.monotonic()  # evaluation is not on the budget

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()  # nor is saving

    def _crossed(self, every: float) -> bool:
        """Whether this step passed a multiple of `every`: steps, or below 1 a share of the budget."""
        if every >= 1:
            return self.spent["steps"] % round(every) == 0
        return math.floor(self.share / every + 1e-9) > math.floor(self.last_share / every + 1e-9)


def read_spending(checkpoint: Path) -> dict[str, Any]:
    """Return {"spent", "first"} of a checkpoint."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["Spending"]["attributes"]


def learning_rate_factor(schedule: Schedule, share: float, steps: int) -> float:
    """Return the factor on the peak learning rate after a share of the budget: linear warm-up, then the decay.

    As transformers' schedules, with shares of the budget for steps; but the first step of a warm-up, which there has
    rate 0, has LOWEST_RISE of the peak.
    """
    end = schedule.warmup_end
    if end is None:
        return min(1.0, max(steps / schedule.warmup_steps, LOWEST_RISE))
    if share < end:
        return min(1.0, max(share / end, LOWEST_RISE))
    left = (1.0 - share) / (1.0 - end) if end < 1.0 else 1.0
    decays = {"linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))), "constant": 1.0}
    return decays[schedule.kind]

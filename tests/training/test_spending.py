"""What follows from the share of the budget that is spent: learning rates (those of transformers), what is saved."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from polygraft.data.batching import LengthGroupedBatches
from polygraft.objectives import MLM
from polygraft.settings import Budget
from polygraft.training.spending import LOWEST_RISE, Spending, learning_rate_factor

SCHEDULES = ("linear", "cosine", "constant")


def spending(unit="steps", amount=20, **changes):
    how = MLM(budget=Budget.model_validate({unit: amount}), **changes)
    return Spending(how, LengthGroupedBatches(np.ones((64, 1)), 0, documents=8), False, "x")


def factors(counting, steps, spend):
    """The factor of each step, with `spend` called after it."""
    found = []
    for _ in range(steps):
        found.append(learning_rate_factor(counting.schedule, counting.share, counting.spent["steps"]))
        spend(counting)
    return found


def transformers_own(schedule, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 20), (1, 20), (5, 20), (19, 20), (7, 7)])
def test_schedules_are_those_of_transformers(schedule, warmup, steps):
    """Whatever the unit: warm-up in steps or as a share of them; a budget in steps, or in tokens, 100 a step."""
    expected = transformers_own(schedule, warmup, steps)
    if warmup:
        assert expected[0] == 0.0, "a step that learns nothing: the one difference"
        expected[0] = min(1.0, max(expected[0], LOWEST_RISE))
    shares = [warmup] if warmup == 1 else [warmup, warmup / steps]  # 1 / 20 is 1 step, but 1 is not a share
    for given in shares if warmup < steps else [warmup]:
        in_steps = spending("steps", steps, warmup_steps=given, lr_scheduler_type=schedule)
        assert factors(in_steps, steps, lambda s: s.add_step(0.0)) == pytest.approx(expected, abs=1e-12)

        def one_step(counting):
            counting.add_batch(100, 100, None)
            counting.add_step(0.0)

        in_tokens = spending("tokens", 100 * steps, warmup_steps=given, lr_scheduler_type=schedule)
        assert factors(in_tokens, steps, one_step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warmup", [1e-4, 1e-2, 0.049, 0.3, 0.999, 1.0, 2.5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_step_is_above_the_peak(schedule, warmup):
    found = factors(spending(warmup_steps=warmup, lr_scheduler_type=schedule), 20, lambda s: s.add_step(0.0))
    assert all(0.0 < factor <= 1.0 for factor in found)
    drops = [b - a for a, b in itertools.pairwise(found)]
    assert min(drops) > -0.5 or schedule == "constant" or warmup > 0.9, "nowhere does the rate break down"


def test_decay_begins_where_a_warm_up_in_steps_ends_after_resuming(tmp_path):
    """The share at the end of the warm-up is only known once it is there, and is saved with the checkpoint."""
    how = {"unit": "tokens", "amount": 2000, "warmup_steps": 4}

    def one_step(counting):
        counting.add_batch(100, 100, None)
        counting.add_step(0.0)

    whole = factors(spending(**how), 20, one_step)
    first = spending(**how)
    before = factors(first, 9, one_step)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": {"Spending": first.state()}}))
    second = spending(**how)
    second.resume(tmp_path)
    assert before + factors(second, 11, one_step) == whole
    assert second.spent == {**first.spent, "steps": 20, "tokens": 2000, "loss_steps": 20}


def test_returning_to_the_last_step_undoes_what_a_broken_off_one_spent():
    counting = spending()
    counting.on_train_begin(None, None, None)
    drawn = torch.rand(1)
    counting.add_batch(7, 7, 1.0)
    counting.return_to_last_step()
    assert counting.spent["tokens"] == 0
    assert counting.spent["counted"] == 0.0
    assert torch.rand(1) == drawn, "the random numbers, too"

"""What a stage spent of a budget that an arm's stages share, and what that leaves."""

from __future__ import annotations

import json

import pytest

from polygraft.errors import DataError, PolygraftError
from polygraft.objectives import Denoising
from polygraft.recipe import Recipe
from polygraft.runs.costs import Cost, adaptation_cost, target_section

# A stage's record, and what it spent: tokens, minutes, flops.
COSTS = {
    "training": (
        {"stage": "adapt", "seconds": 90.0, "result": {"tokens": 500, "train_seconds": 30.0, "flops": 1e9}},
        (500, 0.5, 1e9),
    ),
    "transfer that counts nothing": ({"stage": "transfer", "seconds": 6.0, "result": {}}, (0, 0.1, 0)),
    "calibration": ({"stage": "transfer", "seconds": 6.0, "result": {"flops": 2e9}}, (0, 0.1, 2e9)),
    "distillation, whose calibration takes time as well": (
        {"stage": "transfer", "seconds": 90.0, "result": {"tokens": 5, "train_seconds": 30.0, "flops": 3e9}},
        (5, 1.5, 3e9),
    ),
    "distillation that was resumed near its end": (
        {"stage": "transfer", "seconds": 6.0, "result": {"tokens": 5, "train_seconds": 30.0, "flops": 3e9}},
        (5, 0.5, 3e9),
    ),
}


@pytest.mark.parametrize(("record", "cost"), COSTS.values(), ids=COSTS)
def test_what_a_stage_spent(record, cost):
    found = Cost.of(record)
    assert (found.tokens, found.minutes, found.flops) == pytest.approx(cost, rel=1e-12)
    assert found.seconds == record["seconds"]


def recipe(total: dict | None, target: dict | None) -> Recipe:
    pairs, finetune = {"train_file": "p.jsonl"}, {"budget": {"steps": 1}}
    return Recipe(name="r", pairs=pairs, finetune=finetune, adaptation_budget=total, adapt_target=target)


SPENT = {
    "add_languages": Cost(tokens=9, minutes=9.0, flops=9e9),  # not part of adaptation
    "adapt": Cost(tokens=60, minutes=0.5, flops=1e9),
    "transfer": Cost(tokens=0, minutes=0.25, flops=5e8),
    "warm_up": Cost(tokens=10, minutes=0.25, flops=0.0),
}


@pytest.mark.parametrize(
    ("total", "left"),
    [({"tokens": 100}, {"tokens": 30}), ({"minutes": 1.5}, {"minutes": 0.5}), ({"flops": 2e9}, {"flops": 5e8})],
)
def test_what_is_left(total, left):
    how = {"learning_rate": 1e-3, "adapter": {"type": "lora"}}
    assert target_section(recipe(total, how), SPENT, "here") == Denoising(budget=left, **how)
    assert target_section(recipe(total, how), {}, "here") == Denoising(budget=total, **how)


def test_without_a_shared_budget_nothing_changes():
    assert target_section(recipe(None, {"budget": {"epochs": 2}}), SPENT, "here") == Denoising(budget={"epochs": 2})
    assert target_section(recipe({"tokens": 5}, None), SPENT, "here") is None


def test_nothing_left():
    said = r"^here: nothing is left .* = 1 minutes; spent by adapt 0\.5, transfer 0\.25, warm_up 0\.25\. Raise"
    with pytest.raises(PolygraftError, match=said):
        target_section(recipe({"minutes": 1}, {}), SPENT, "here")


def test_what_an_arm_spent(tmp_path):
    for seed, seconds in ((1, 10.0), (2, 30.0)):
        for stage, flops in (("adapt", 1e9), ("transfer", 2e9), ("finetune", 8e9)):
            folder = tmp_path / f"seed-{seed}" / stage
            folder.mkdir(parents=True)
            record = {"stage": stage, "seconds": seconds, "result": {"flops": flops, "tokens": 7}}
            (folder / "stage.json").write_text(json.dumps(record))
    runs = [tmp_path / "seed-1", tmp_path / "seed-2"]
    found = adaptation_cost(runs, ["adapt", "transfer", "finetune"])
    assert (found.seconds, found.flops, found.tokens) == (40.0, 3e9, 14)
    assert adaptation_cost(runs, ["transfer", "finetune"]).flops == 2e9  # what the arm lacks is left over
    (tmp_path / "seed-2" / "adapt" / "stage.json").write_text('{"seconds": "long"}')
    with pytest.raises(DataError, match=r"seed-2.adapt.stage\.json: not a stage record"):
        adaptation_cost(runs, ["adapt"])

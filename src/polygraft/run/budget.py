"""One budget for all of an arm's adaptation: what its stages spent, and what that leaves for `adapt_target`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polygraft.errors import PolygraftError
from polygraft.recipe import Recipe
from polygraft.settings import Budget, Denoising

EARLIER_STAGES = ("adapt", "transfer", "warm_up")
UNITS = ("tokens", "minutes", "flops")
"""What stages on different models can spend from one purse."""

Cost = Mapping[str, float]
"""An amount in each of UNITS."""


def cost_of(record: Mapping[str, Any]) -> Cost:
    """What a finished stage spent, by its stage.json.

    Tokens are those trained on; floating-point operations are all that were counted, calibration included. Minutes are
    those of training; a transfer's are those of the whole stage, since most of its work is no training.
    """
    result = record["result"]
    seconds = result.get("train_seconds", 0.0)
    if record["stage"] == "transfer":
        seconds = max(seconds, record["seconds"])
    return {"tokens": result.get("tokens", 0), "minutes": seconds / 60, "flops": result.get("flops", 0.0)}


def target_denoising(recipe: Recipe, costs: Mapping[str, Cost], where: str) -> Denoising | None:
    """The settings of an arm's `adapt_target`, its budget what the earlier stages left of `adaptation_budget`.

    Args:
        costs: of the arm's stages so far, by name.
        where: the arm, for the error.

    Raises:
        PolygraftError: nothing is left.
    """
    section, total = recipe.adapt_target, recipe.adaptation_budget
    if section is None:
        return None
    if total is None:
        return section.within(section.budget)
    spent = {stage: costs[stage][total.unit] for stage in EARLIER_STAGES if stage in costs}
    left = total.amount - sum(spent.values())
    if left <= 0:
        by_stage = ", ".join(f"{stage} {amount:.6g}" for stage, amount in spent.items())
        raise PolygraftError(
            f"{where}: nothing is left for adapt_target of adaptation_budget = {total.amount:g} {total.unit}; spent by "
            f"{by_stage}. Raise adaptation_budget, or lower the budgets of the earlier stages."
        )
    return section.within(Budget.model_validate({total.unit: round(left) if total.unit == "tokens" else left}))

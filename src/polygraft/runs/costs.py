"""What stages and arms cost, and what one budget for all of an arm's adaptation leaves for `adapt_target`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polygraft.errors import DataError, PolygraftError
from polygraft.objectives import TextTask
from polygraft.recipe import Recipe
from polygraft.recipe.stages import ADAPTATION, BEFORE_TARGET
from polygraft.runs.records import STAGE_FILE
from polygraft.settings import Budget


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        tokens: trained on.
        flops: all floating-point operations that were counted, calibration included.
        minutes: of training; of a transfer, most of whose work is no training, of the whole stage.
        seconds: of everything, evaluation, loading and saving included.
    """

    tokens: float = 0.0
    flops: float = 0.0
    minutes: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Cost:
        """What a finished stage spent, by its stage.json."""
        result, seconds = record["result"], float(record["seconds"])
        trained = result.get("train_seconds", 0.0)
        minutes = (max(trained, seconds) if record["stage"] == "transfer" else trained) / 60
        return cls(result.get("tokens", 0), result.get("flops", 0.0), minutes, seconds)

    @classmethod
    def mean(cls, costs: Sequence[Sequence[Cost]]) -> Cost:
        """The sum of the costs of each run's stages, averaged over runs."""
        sums = {unit: sum(getattr(cost, unit) for run in costs for cost in run) for unit in asdict(cls())}
        return cls(**{unit: amount / len(costs) for unit, amount in sums.items()})


def adaptation_cost(runs: Sequence[Path], stages: Sequence[str]) -> Cost:
    """What an arm spent before fine-tuning, mean over the folders of its seeds.

    Only `stages`, those of the arm, cost anything: others that lie in its folders are left over from another recipe.

    Raises:
        DataError: a stage.json that is none.
    """
    paths = [[run / name / STAGE_FILE for name in ADAPTATION if name in stages] for run in runs]
    return Cost.mean([[_cost_in(path) for path in one if path.is_file()] for one in paths])


def _cost_in(path: Path) -> Cost:
    try:
        return Cost.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "Delete this folder and run the recipe again."
        raise DataError(f"{path}: not a stage record ({error}). {remedy}") from None


def target_section(recipe: Recipe, costs: Mapping[str, Cost], where: str) -> TextTask | None:
    """The settings of an arm's `adapt_target`, its budget what the earlier stages left of `adaptation_budget`.

    Args:
        costs: of the arm's stages so far, by name.
        where: the arm, for the error.

    Raises:
        PolygraftError: nothing is left.
    """
    section, total = recipe.adapt_target, recipe.adaptation_budget
    if section is None or total is None:
        return section
    spent = {stage: getattr(costs[stage], total.unit) for stage in BEFORE_TARGET if stage in costs}
    left = total.amount - sum(spent.values())
    if left <= 0:
        by_stage = ", ".join(f"{stage} {amount:.6g}" for stage, amount in spent.items())
        raise PolygraftError(
            f"{where}: nothing is left for adapt_target of adaptation_budget = {total.amount:g} {total.unit}; spent by "
            f"{by_stage}. Raise adaptation_budget, or lower the budgets of the earlier stages."
        )
    budget = Budget.model_validate({total.unit: round(left) if total.unit == "tokens" else left})
    return section.model_copy(update={"budget": budget})

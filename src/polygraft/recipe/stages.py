"""The stages of an arm, in the order in which they run: sections of a recipe and folders of a run have their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """A stage: its name, its title for people, and whether it adapts the target, at a cost that arms differ in."""

    name: str
    title: str
    adapts: bool


STAGES = (
    Stage("add_languages", "Adding languages", False),
    Stage("adapt", "Adapting the source", True),
    Stage("transfer", "Transfer", True),
    Stage("warm_up", "Warming up the bridge", True),
    Stage("adapt_target", "Adapting the target", True),
    Stage("finetune", "Fine-tuning", False),
    Stage("evaluate", "Evaluation", False),
)
ADAPTATION = tuple(stage.name for stage in STAGES if stage.adapts)
BEFORE_TARGET = ADAPTATION[:-1]
"""What spends an `adaptation_budget` before `adapt_target` gets the rest."""
UNITS = ("tokens", "minutes", "flops")
"""What stages on different models can spend from one purse."""


def stages_of(arm: Mapping[str, Any]) -> list[str]:
    """Name the stages that an arm has, by its sections."""
    return [stage.name for stage in STAGES if arm.get(stage.name) or stage.name in ("finetune", "evaluate")]

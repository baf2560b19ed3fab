"""The stages of an arm, in the order in which they run: sections of a recipe and folders of a run have their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from polygraft.recipe import Recipe


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
    Stage("forgetting", "Forgetting", False),
)
ADAPTATION = tuple(stage.name for stage in STAGES if stage.adapts)
BEFORE_TARGET = ADAPTATION[:-1]
"""What spends an `adaptation_budget` before `adapt_target` gets the rest."""
UNITS = ("tokens", "minutes", "flops")
"""What stages on different models can spend from one purse."""


def stages_of(arm: Recipe) -> list[str]:
    """Name the stages that an arm has, in order."""
    return [stage.name for stage in STAGES if getattr(arm, stage.name)]

"""Placebos: the arm as it is, but for the knowledge that is said to help. What an arm gains over them comes from it."""

from __future__ import annotations

from collections.abc import Iterator

from polygraft.recipe import Recipe
from polygraft.settings import Placebo
from polygraft.transfers.methods import EmbeddingsTransfer

EXPLANATIONS: dict[str, str] = {
    "recentre": "never-learned rows lose their common drift, and nothing is transferred",
    "random": "noise of the same size in place of what was transferred",
    "permuted": "what was transferred, at the wrong tokens",
    "untuned": "the same from the source before it was adapted",
}


def placebo_name(arm: str, kind: Placebo) -> str:
    """What an arm's placebo, and the folder of its runs, is called."""
    return f"{arm}+{kind}"


def placebos(arm: Recipe, wanted: tuple[Placebo, ...]) -> Iterator[tuple[Placebo, Recipe]]:
    """Yield the placebos that make sense for an arm; none for one without a transfer, or whose transfer is a placebo.

    `untuned` is left out where it changes nothing by construction: methods that move what adaptation changed.
    """
    transfer = arm.transfer
    if transfer is None or is_placebo(arm):
        return
    for name in wanted:
        if name == "recentre":
            recentred = {"transfer": EmbeddingsTransfer(mode="recentre"), "adapt": None, "warm_up": None}
            yield name, arm.model_copy(update=recentred)
        elif name == "untuned":
            if arm.adapt is not None and not transfer.needs.adaptation:
                yield name, arm.model_copy(update={"adapt": None})
        elif placebo := transfer.with_control(name):
            yield name, arm.model_copy(update={"transfer": placebo})


def is_placebo(arm: Recipe) -> bool:
    """Whether an arm's transfer brings nothing that the source knows."""
    return arm.transfer is not None and (not arm.transfer.needs.source or arm.transfer.placebo)

"""What arms have forgotten of the languages that the target knew: from a run to what page and card show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polygraft.report.folder import Run
from polygraft.report.formats import decimal, effect
from polygraft.scoring.forgetting import ALL, Forgotten, Shift, forgotten

PLACES = 3


@dataclass(frozen=True, kw_only=True)
class ForgottenRow:
    """A language in an arm: losses as text, and the changes with their intervals; the arm's name stands once."""

    name: str
    arm: int
    first: bool
    language: str
    documents: int
    target: str
    adapted: tuple[str, str, str]
    finetuned: tuple[str, str, str]


def forgotten_rows(run: Run) -> list[ForgottenRow]:
    """One row per arm and language, of the seeds that were measured; several languages end with their mean."""
    rows = []
    confidence = run.recipe.verdict.confidence if run.recipe.verdict else 0.95
    for arm in run.arms:
        measured = [one.restored for one in arm.runs if one.restored]
        found = forgotten(measured, confidence) if measured else {}
        for place, (language, one) in enumerate(found.items()):
            row = ForgottenRow(
                name=arm.name,
                arm=arm.index,
                first=place == 0,
                language="mean" if language == ALL else language,
                documents=one.documents,
                target=decimal(one.target, PLACES),
                adapted=_change(one.adapted),
                finetuned=_change(one.finetuned),
            )
            rows.append(row)
    return rows


def _change(change: Shift) -> tuple[str, str, str]:
    return decimal(change.loss, PLACES), *effect(change.effect, change.low, change.high, PLACES, None)


def card_rows(found: Mapping[str, Forgotten]) -> list[tuple[str, ...]]:
    """A line per language of a model card: the losses, and what adaptation and all of it changed."""
    return [
        (language, decimal(one.target, PLACES), *(f"{loss} ({more})" for loss, more, _ in map(_change, changes)))
        for language, one in found.items()
        if language != ALL
        for changes in [(one.adapted, one.finetuned)]
    ]

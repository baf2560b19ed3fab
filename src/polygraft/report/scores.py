"""Scores of all arms, averaged over seeds and singly: from a run to what the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from polygraft.report import plots
from polygraft.report.files import ScoresFile
from polygraft.report.folder import ALL_LANGUAGES, Run, SeedRun
from polygraft.report.formats import MISSING, decimal, interval
from polygraft.scoring.bootstrap import Score
from polygraft.scoring.metrics import METRICS, Metric, shown_first
from polygraft.scoring.words import LEADS

REFERENCE_NAME = "references"
MOST_COLUMNS = 5  # of scores, that fit beside the names on a page 1,280 pixels wide


@dataclass(frozen=True)
class Cell:
    """A score as text, its interval, and its range over seeds."""

    value: str
    interval: str = ""
    spread: str = ""


@dataclass(frozen=True, kw_only=True)
class System:
    """What was scored: an arm (its colour index, the seeds that are evaluated), the lead baseline, the references."""

    name: str
    arm: int | None
    seeds: Sequence[int]
    scores: Sequence[Mapping[str, Mapping[str, Score]]]

    def of(self, language: str, metric: str) -> list[Score]:
        """One score, by seed; those in whose test pairs the language is."""
        return [by[language][metric] for by in self.scores if metric in by.get(language, {})]


def evaluated(runs: Sequence[SeedRun]) -> list[tuple[SeedRun, ScoresFile]]:
    """Those that have scores, and these."""
    return [(run, run.scores) for run in runs if run.scores]


def systems(run: Run) -> list[System]:
    """Each arm that has been evaluated; last the lead baseline and the references, which are the same in all."""
    found = []
    for arm in run.arms:
        scored = evaluated(arm.runs)
        by_seed = [scores.systems.model for _, scores in scored]
        found.append(System(name=arm.name, arm=arm.index, seeds=[one.seed for one, _ in scored], scores=by_seed))
    some = [scores.systems for _, scores in evaluated(run.seed_runs)[:1]]
    found.append(System(name=lead_name(run), arm=None, seeds=(), scores=[one.lead for one in some]))
    found.append(System(name=REFERENCE_NAME, arm=None, seeds=(), scores=[one.reference for one in some]))
    return [system for system in found if system.scores]


def lead_name(run: Run) -> str:
    """What the system is called that takes no model."""
    return LEADS[run.recipe.evaluate.lead_tokens == 0].name


def lead_sentence(run: Run) -> str:
    """What it is."""
    return LEADS[run.recipe.evaluate.lead_tokens == 0].sentence


def languages(found: Sequence[System]) -> list[str]:
    """All languages or directions scored; with a single one, only that (its "all" would say the same again)."""
    single = sorted({language for system in found for by in system.scores for language in by} - {ALL_LANGUAGES})
    return single if len(single) < 2 else [ALL_LANGUAGES, *single]


def _cell(scores: Sequence[Score], metric: Metric) -> Cell:
    if not scores:
        return Cell(MISSING)
    values = [score.score for score in scores]
    ends = interval(fmean(score.low for score in scores), fmean(score.high for score in scores), metric.places)
    spread = interval(min(values), max(values), metric.places) if len(values) > 1 else ""
    return Cell(decimal(fmean(values), metric.places), ends, spread)


def score_groups(run: Run) -> list[list[str]]:
    """The scores that a table has room for: first those that arms are compared by, then the others in turn."""
    first = shown_first(run.recipe.verdict)
    others = [name for name in METRICS if name not in first]
    size = -(-len(others) // max(1, -(-len(others) // MOST_COLUMNS))) or 1  # tables of like width
    return [first, *(others[start : start + size] for start in range(0, len(others), size))]


def score_tables(run: Run) -> list[dict[str, Any]]:
    """For each language or direction a table per group of scores."""
    found, groups = systems(run), score_groups(run)
    return [
        {"language": language_title(language), "groups": [_table(found, language, names) for names in groups]}
        for language in languages(found)
    ]


def _table(found: Sequence[System], language: str, names: Sequence[str]) -> dict[str, Any]:
    """Columns are scores; rows are the systems that have some of them, and single seeds of these."""
    found = [system for system in found if any(system.of(language, name) for name in names)]

    def cells(system: System, seeds: slice) -> list[Cell]:
        return [_cell(system.of(language, name)[seeds], METRICS[name]) for name in names]

    return {
        "metrics": [METRICS[name] for name in names],
        "rows": [{"system": system, "cells": cells(system, slice(None))} for system in found],
        "singles": [
            {"system": system, "seed": seed, "cells": cells(system, slice(place, place + 1))}
            for system in found
            for place, seed in enumerate(system.seeds)
        ],
    }


def language_title(language: str) -> str:
    """A language or a direction for people: de_DE → fr_XX."""
    return "All languages" if language == ALL_LANGUAGES else language.replace("-", " → ")


def score_plots(run: Run) -> list[Markup]:
    """A dot plot per score that arms are compared by, over all languages together."""
    found = systems(run)
    drawn: list[Markup] = []
    for language in languages(found)[:1]:
        for name in shown_first(run.recipe.verdict):
            metric = METRICS[name]
            estimates = [_estimate(system, scores) for system in found if (scores := system.of(language, name))]
            said = "; ".join(f"{item.label} {decimal(item.value, metric.places)}" for item in estimates)
            description = f"{metric.title} ({metric.hint}): {said}."
            key = f"score{len(drawn)}"
            plot = plots.dots(key, metric.title, metric.hint, estimates, places=metric.places, description=description)
            drawn.append(plot)
    return drawn


def _estimate(system: System, scores: Sequence[Score]) -> plots.Drawn:
    values = [score.score for score in scores]
    return plots.Drawn(
        label=system.name,
        value=fmean(values),
        low=fmean(score.low for score in scores),
        high=fmean(score.high for score in scores),
        arm=system.arm,
        marks=values if len(values) > 1 else (),
    )


def signature(run: Run) -> list[tuple[str, str]]:
    """How the scores were computed, as the first evaluated run says."""
    first = evaluated(run.seed_runs)[:1]
    return [(METRICS[name].title, said) for _, scores in first for name, said in scores.signature.items()]


def documents(run: Run) -> int | None:
    """The number of test documents, None before any were scored."""
    return next((scores.documents for _, scores in evaluated(run.seed_runs)), None)

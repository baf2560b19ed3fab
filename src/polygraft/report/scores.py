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
from polygraft.scoring.metrics import METRICS, Metric

LEAD_NAME, REFERENCE_NAME = "lead baseline", "references"


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
    found.append(System(name=LEAD_NAME, arm=None, seeds=(), scores=[one.lead for one in some]))
    found.append(System(name=REFERENCE_NAME, arm=None, seeds=(), scores=[one.reference for one in some]))
    return [system for system in found if system.scores]


def languages(found: Sequence[System]) -> list[str]:
    """All languages scored; with a single one, only that (its "all" would say the same again)."""
    single = sorted({language for system in found for by in system.scores for language in by} - {ALL_LANGUAGES})
    return single if len(single) < 2 else [ALL_LANGUAGES, *single]


def _cell(scores: Sequence[Score], metric: Metric) -> Cell:
    if not scores:
        return Cell(MISSING)
    values = [score.score for score in scores]
    ends = interval(fmean(score.low for score in scores), fmean(score.high for score in scores), metric.places)
    spread = interval(min(values), max(values), metric.places) if len(values) > 1 else ""
    return Cell(decimal(fmean(values), metric.places), ends, spread)


def score_tables(run: Run) -> list[dict[str, Any]]:
    """One table per language: columns are METRICS, rows are systems, each with rows of single seeds."""
    found = systems(run)
    return [
        {
            "language": language,
            "rows": [
                {"system": system, "cells": [_cell(system.of(language, name), METRICS[name]) for name in METRICS]}
                for system in found
            ],
            "singles": [
                {
                    "system": system,
                    "seed": seed,
                    "cells": [_cell(system.of(language, name)[place : place + 1], METRICS[name]) for name in METRICS],
                }
                for system in found
                for place, seed in enumerate(system.seeds)
            ],
        }
        for language in languages(found)
    ]


def score_plots(run: Run) -> list[Markup]:
    """A dot plot per main metric, over all languages together."""
    found = systems(run)
    drawn: list[Markup] = []
    for language in languages(found)[:1]:
        for name, metric in METRICS.items():
            if not metric.main:
                continue
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

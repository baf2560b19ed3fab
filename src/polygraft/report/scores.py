"""Scores of all arms, averaged over seeds and singly, and the sample outputs: from a run to what the page shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from polygraft.report import plots
from polygraft.report.folder import ALL_LANGUAGES, LEAD, Run, SeedRun, mapping, number
from polygraft.report.formats import MISSING, decimal, interval, plain

SAMPLES = 8
SHOWN_SOURCE_CHARACTERS = 420
# Name, unit with direction, and decimals of the metrics that evaluate writes, in the order of the table.
# Others come after these.
METRICS = {
    "loss_per_token": ("Loss", "nats per reference token, lower is better", 3),
    "chrf++": ("chrF++", "0 to 100, higher is better", 1),
    "rouge1": ("ROUGE-1", "0 to 100, higher is better", 1),
    "rouge2": ("ROUGE-2", "0 to 100, higher is better", 1),
    "rougeL": ("ROUGE-L", "0 to 100, higher is better", 1),
    "length_ratio": ("Length", "output / reference words, 1 is ideal", 2),
    "copy_rate": ("Copied", "share of output words that are in the source", 2),
}
PLOTTED = ("loss_per_token", "chrf++", "rougeL")


@dataclass(frozen=True)
class Cell:
    """A score as text, its interval below, the spread over seeds as a tooltip and in brackets."""

    value: str
    interval: str = ""
    spread: str = ""


@dataclass(frozen=True)
class Values:
    """One metric of one system over its seeds."""

    scores: list[float]
    lows: list[float]
    highs: list[float]

    @property
    def mean(self) -> float:
        return fmean(self.scores)


def _metric(scores: dict[str, Any], metric: str) -> tuple[float, float | None, float | None] | None:
    """(score, low, high) from {"score": …} or from a bare number."""
    entry = scores.get(metric)
    score = number(mapping(entry).get("score")) if isinstance(entry, dict) else number(entry)
    if score is None:
        return None
    return score, number(mapping(entry).get("low")), number(mapping(entry).get("high"))


def _collect(runs: Iterable[dict[str, Any]], language: str, metric: str) -> Values | None:
    found = [entry for scores in runs if (entry := _metric(mapping(scores.get(language)), metric))]
    if not found:
        return None
    complete = [(low, high) for _, low, high in found if low is not None and high is not None]
    # A mean interval over only some of the seeds would belong to another mean than the one shown.
    if len(complete) < len(found):
        complete = []
    return Values([score for score, _, _ in found], [low for low, _ in complete], [high for _, high in complete])


def _lead(run: Run) -> list[dict[str, Any]]:
    """The lead baseline's scores: the same in every arm and seed, so the first are taken."""
    return [scores for seed_run in run.seed_runs if (scores := seed_run.system(LEAD))][:1]


def systems(run: Run) -> list[tuple[str, int | None, list[dict[str, Any]]]]:
    """(name, colour index, scores by seed) of each arm that has been evaluated, the lead baseline last."""
    arms: list[tuple[str, int | None, list[dict[str, Any]]]] = [
        (arm.name, arm.index, [scores for seed_run in arm.runs if (scores := seed_run.system("model"))])
        for arm in run.arms
    ]
    found = [system for system in arms if system[2]]
    return [*found, ("lead", None, _lead(run))] if _lead(run) else found


def languages(run: Run) -> list[str]:
    """All languages scored; with a single one, only that (its "all" would say the same again)."""
    found = {language for _, _, runs in systems(run) for scores in runs for language in scores}
    single = sorted(found - {ALL_LANGUAGES})
    return single if len(single) == 1 else [ALL_LANGUAGES] * (ALL_LANGUAGES in found) + single


def metrics(run: Run) -> list[str]:
    """The metrics that any system has, in the table's order."""
    found = {
        metric
        for _, _, runs in systems(run)
        for scores in runs
        for by_metric in scores.values()
        for metric in mapping(by_metric)
        if _metric(mapping(by_metric), metric)
    }
    known = [metric for metric in METRICS if metric in found]
    return known + sorted(found - set(known))


def metric_name(metric: str) -> str:
    """The metric as people write it."""
    return METRICS[metric][0] if metric in METRICS else metric


def metric_hint(metric: str) -> str:
    """Its unit and direction, empty where unknown."""
    return METRICS[metric][1] if metric in METRICS else ""


def places_of(metric: str) -> int:
    """Decimals that are worth showing."""
    return METRICS[metric][2] if metric in METRICS else 3


def _cell(values: Values | None, places: int) -> Cell:
    if values is None:
        return Cell(MISSING)
    ends = interval(fmean(values.lows), fmean(values.highs), places) if values.lows else ""
    spread = interval(min(values.scores), max(values.scores), places) if len(values.scores) > 1 else ""
    return Cell(decimal(values.mean, places), ends, spread)


def score_tables(run: Run) -> list[dict[str, Any]]:
    """One table per language: columns are metrics, rows are systems, each with rows of single seeds."""
    columns = metrics(run)
    tables = []
    for language in languages(run):
        collected = {
            (name, metric): _collect(runs, language, metric) for name, _, runs in systems(run) for metric in columns
        }
        rows = [
            {
                "name": name,
                "arm": index,
                "seeds": len(runs),
                "cells": [_cell(collected[name, metric], places_of(metric)) for metric in columns],
            }
            for name, index, runs in systems(run)
        ]
        tables.append({"language": language, "rows": rows, "singles": _single_seeds(run, language, columns)})
    return tables


def _single_seeds(run: Run, language: str, columns: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": seed_run.arm,
            "arm": arm.index,
            "seed": seed_run.seed,
            "cells": [_cell(_collect([seed_run.system("model")], language, m), places_of(m)) for m in columns],
        }
        for arm in run.arms
        for seed_run in arm.runs
        if seed_run.system("model")
    ]


def score_plots(run: Run) -> list[Markup]:
    """A dot plot per main metric, over all languages together."""
    shown = languages(run)[:1]
    drawn: list[Markup] = []
    for language in shown:
        for metric in [metric for metric in metrics(run) if metric in PLOTTED]:
            estimates = [
                plots.Estimate(
                    label=name if index is not None else "lead baseline",
                    value=values.mean,
                    low=fmean(values.lows) if values.lows else None,
                    high=fmean(values.highs) if values.highs else None,
                    arm=index,
                    marks=values.scores if len(values.scores) > 1 else (),
                )
                for name, index, runs in systems(run)
                if (values := _collect(runs, language, metric))
            ]
            name, hint, places = METRICS[metric]
            said = "; ".join(f"{item.label} {decimal(item.value, places)}" for item in estimates)
            key = f"score{len(drawn)}"
            drawn.append(plots.dots(key, name, hint, estimates, places, f"{name} ({hint}): {said}."))
    return drawn


def signature(run: Run) -> list[tuple[str, str]]:
    """How the scores were computed, as the first evaluated run says."""
    found = [mapping(seed_run.scores.get("signature")) for seed_run in run.seed_runs if seed_run.scores]
    return [(metric_name(name), plain(value)) for name, value in found[0].items()] if found else []


def documents(run: Run) -> str:
    """The number of test documents, or a dash."""
    counts = [seed_run.scores.get("documents") for seed_run in run.seed_runs if seed_run.scores]
    return plain(counts[0]) if counts else MISSING


# ---------------------------------------------------------------- sample outputs


def _identity(row: dict[str, Any]) -> tuple[str, str]:
    return str(row.get("lang", "")), str(row.get("id", ""))


def choose(identities: Iterable[tuple[str, str]], amount: int = SAMPLES) -> list[tuple[str, str]]:
    """The fixed rule: sort by the SHA-256 of the document's id (and language), take `amount` at equal distances."""
    digest = {item: hashlib.sha256(item[1].encode("utf-8", "replace")).hexdigest() for item in identities}
    ordered = sorted(digest, key=lambda item: (digest[item], item))
    step = max(1.0, len(ordered) / amount)
    return [ordered[int(index * step)] for index in range(min(amount, len(ordered)))]


def _loss(row: dict[str, Any]) -> str:
    nats, tokens = number(row.get("loss_nats")), number(row.get("reference_tokens"))
    return decimal(nats / tokens, 2) if nats is not None and tokens else MISSING


def samples(run: Run) -> list[dict[str, Any]]:
    """The chosen documents: source, reference, lead and each arm's output (its first evaluated seed)."""
    shown: list[tuple[int, SeedRun, dict[tuple[str, str], dict[str, Any]]]] = []
    for arm in run.arms:
        evaluated = next((seed_run for seed_run in arm.runs if seed_run.predictions), None)
        if evaluated:
            shown.append((arm.index, evaluated, {_identity(row): row for row in evaluated.predictions}))
    if not shown:
        return []
    common = set.intersection(*(set(rows) for _, _, rows in shown))
    result = []
    for identity in choose(common):
        first = shown[0][2][identity]
        source = str(first.get("source", ""))
        cut = len(source) if len(source) <= SHOWN_SOURCE_CHARACTERS + 80 else SHOWN_SOURCE_CHARACTERS
        outputs = [
            {"arm": index, "name": seed_run.arm, "text": str(rows[identity].get("prediction", "")),
             "loss": _loss(rows[identity])}
            for index, seed_run, rows in shown
        ]  # fmt: skip
        result.append(
            {
                "id": identity[1],
                "lang": identity[0],
                "html_lang": identity[0].replace("_XX", "").replace("_", "-"),
                "source": source[:cut],
                "source_rest": source[cut:],
                "reference": str(first.get("reference", "")),
                "lead": str(first["lead"]) if "lead" in first else None,
                "outputs": outputs,
            }
        )
    return result

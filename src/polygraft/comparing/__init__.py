"""`polygraft score` and `polygraft compare`: outputs of any toolkit, several seeds each. No torch.

The scores are METRICS' and columns of numbers that came with the outputs; the comparison is `scoring.comparison`'s: one
primary score decides the word, all others are secondary and adjusted together (Holm). docs/compare.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Literal

import numpy as np

from polygraft.comparing.outputs import LOSS_COLUMNS, OutputRow, aligned, read, with_references
from polygraft.comparing.results import ComparedScore, ComparedSystems, OutputScore, OutputScores
from polygraft.data.sources import sources
from polygraft.errors import RecipeError
from polygraft.scoring.bootstrap import Bootstrap, mean_statistics, paired_bootstrap, ratio_of_sums
from polygraft.scoring.comparison import ArmScores, Comparison, compare_arms
from polygraft.scoring.metrics import METRICS, Metric, bleu, metrics_of, own_signature
from polygraft.scoring.verdict import together
from polygraft.settings import OutputScoring

Statistics = dict[str, np.ndarray]
"""Of one file, by score: what `Metric.statistics` counts."""
ENOUGH_FOR_PROCESSES = 4000  # outputs; fewer are scored before other processes have started


def _metrics(scoring: OutputScoring) -> dict[str, Metric]:
    """All scores that there can be, by name."""
    if odd := sorted(set(scoring.score_column) & set(METRICS)):
        raise RecipeError(f"score_column: '{odd[0]}' is the name of a score that is computed. Rename the column.")
    own = {name: _of_column(name, -1 if name in scoring.lower_is_better else 1) for name in scoring.score_column}
    return {**METRICS, "bleu": bleu(scoring.tokenize), **own}


def _of_column(name: str, better: Literal[-1, 1]) -> Metric:
    """The mean of a column of numbers."""
    return Metric(
        title=name, unit="mean", better=better, places=3, statistics=partial(_numbers, name),
        from_sums=ratio_of_sums, signature=partial(own_signature, name, "column of the files|mean:documents"),
    )  # fmt: skip


def _numbers(name: str, rows: Sequence[OutputRow]) -> np.ndarray:
    return mean_statistics([row.numbers[name] for row in rows])


def score(files: Sequence[str], scoring: OutputScoring = OutputScoring(), name: str | None = None) -> OutputScores:
    """Score one system, a file per seed.

    Raises:
        DataError: files that cannot be used, or do not have the same documents.
    """
    _named(files=files)
    names, metrics = _files(files), _metrics(scoring)
    rows = _read(names, scoring)
    used = _usable(rows, metrics)
    return _scores(name or _names(names)[0], names, rows, _count(rows, used), used, scoring)


def compare(
    files: Sequence[str],
    against: Sequence[str],
    scoring: OutputScoring = OutputScoring(),
    *,
    metric: str = "chrf++",
    margin: float | None = None,
    names: Sequence[str] = (),
) -> ComparedSystems:
    """Compare a system with another one, a file per seed each; `margin`, in the primary score's unit, for equivalence.

    Raises:
        RecipeError: no such score, or a margin that is none.
        DataError: files that cannot be used, or do not have the same documents.
    """
    if margin is not None and not margin > 0:
        raise RecipeError(f"margin: {margin} must be above 0, in the unit of '{metric}'.")
    _named(files=files, against=against)
    ours, theirs, metrics = _files(files), _files(against), _metrics(scoring)
    primary = _metric_name(metric, metrics)
    rows = _read([*ours, *theirs], scoring)
    used = _usable(rows, metrics)
    if primary not in used:
        raise RecipeError(f"metric: '{primary}' cannot be computed: {_NEEDS.get(primary, 'its columns are missing')}.")
    if used[primary].better == 0:
        raise RecipeError(f"metric: '{primary}' has no direction that is good, so that it can decide nothing.")
    counted = _count(rows, used)
    first, second = counted[: len(ours)], counted[len(ours) :]
    found = {
        name: compare_arms(
            ArmScores.of([one[name] for one in first], one_metric),
            ArmScores.of([one[name] for one in second], one_metric),
            metric=one_metric, margin=margin if name == primary else None, confidence=scoring.confidence,
        )
        for name, one_metric in used.items()
    }  # fmt: skip
    decided = [name for name, one in used.items() if one.better and name != primary]
    if decided:
        found |= zip(decided, together([found[name] for name in decided]), strict=True)
    pair = (first[0], second[0]) if len(first) == len(second) == 1 else None
    table = {name: _row(name, used[name], found[name], pair) for name in used}
    said = names or _names(ours, theirs)
    scored = [
        _scores(said[0], ours, rows[: len(ours)], first, used, scoring),
        _scores(said[1], theirs, rows[len(ours) :], second, used, scoring),
    ]
    others = [row for name, row in table.items() if name != primary]
    return ComparedSystems(treatment=scored[0], control=scored[1], primary=table[primary], secondary=others)


def _row(name: str, metric: Metric, found: Comparison, pair: tuple[Statistics, Statistics] | None) -> ComparedScore:
    p_value = paired_bootstrap(pair[0][name], pair[1][name], metric.from_sums) if pair else None
    return ComparedScore(name=name, metric=metric, found=found, p_paired_bootstrap=p_value)


# ---------------------------------------------------------------- files


def _named(**given: Sequence[str]) -> None:
    for what, names in given.items():
        if not names:
            raise RecipeError(f"{what}: no file is named. Name the outputs, a file per seed; before --against.")


def _files(names: Sequence[str]) -> list[str]:
    """The files behind names, each a seed."""
    return [source.name for source in sources(list(names))]


def _read(files: Sequence[str], scoring: OutputScoring) -> list[list[OutputRow]]:
    """The outputs of all files, with references, in the order of the first."""
    beside = None
    if scoring.references is not None:
        column = scoring.reference_column or "reference"
        beside = read(scoring.references, OutputScoring(prediction_column=column))
    found = [with_references(file, read(file, scoring), beside) for file in files]
    return aligned(files, found)


def _names(*systems: Sequence[str]) -> list[str]:
    """What systems are called: the first part in which the paths of their first files differ; one alone, its folder."""
    paths = [Path(files[0]) for files in systems]
    if len(paths) == 1:
        return [paths[0].parent.name if len(systems[0]) > 1 and paths[0].parent.name else paths[0].stem]
    for parts in zip(*(path.parts for path in paths), strict=False):
        if len(set(parts)) > 1:
            return [Path(part).stem for part in parts]
    return [str(path) for path in paths]


# ---------------------------------------------------------------- scores

_NEEDS = {
    "loss_per_token": f"it needs the columns {' and '.join(LOSS_COLUMNS)} in all files",
    "copy_rate": "it needs the column of sources (--source-column) in all files",
    "wrong_language": "it needs the language (--lang, --lang-column)",
}


def _usable(rows: Sequence[Sequence[OutputRow]], metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The scores for which all rows have what they need."""
    whole = [row for one in rows for row in one]
    lacking = set()
    if any(row.numbers.keys().isdisjoint(LOSS_COLUMNS) for row in whole):
        lacking.add("loss_per_token")
    if any(row.source is None for row in whole):
        lacking.add("copy_rate")
    if any(row.lang is None for row in whole):
        lacking.add("wrong_language")
    return {name: metric for name, metric in metrics.items() if name not in lacking}


def _metric_name(given: str, metrics: Mapping[str, Metric]) -> str:
    """The name of a score as METRICS has it, given with other capitals or hyphens."""

    def plain(name: str) -> str:
        return "".join(char for char in name.casefold() if char.isalnum() or char == "+")

    for name, metric in metrics.items():
        if plain(given) in (plain(name), plain(metric.title)):
            return name
    raise RecipeError(f"metric: '{given}' is no score. Scores: {', '.join(metrics)}.")


def _count(rows: Sequence[Sequence[OutputRow]], metrics: Mapping[str, Metric]) -> list[Statistics]:
    """The statistics of every file; those of many outputs in as many processes as there are processors."""
    named = [[replace(row, lang=row.lang or "") for row in one] for one in rows]
    work: Callable[[Sequence[OutputRow]], Statistics] = partial(_count_one, metrics)
    processors = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(rows))
    many = sum(map(len, rows)) >= ENOUGH_FOR_PROCESSES
    if processors > 1 and many and "fork" in get_all_start_methods():
        _count_one(metrics, named[0][:1])  # what is loaded now, the processes share
        with ProcessPoolExecutor(processors, mp_context=get_context("fork")) as pool:
            return list(pool.map(work, named))
    return list(map(work, named))


def _count_one(metrics: Mapping[str, Metric], rows: Sequence[OutputRow]) -> Statistics:
    return {name: metric.statistics(rows) for name, metric in metrics.items()}


def _scores(
    system: str,
    files: Sequence[str],
    rows: Sequence[Sequence[OutputRow]],
    counted: Sequence[Statistics],
    metrics: Mapping[str, Metric],
    scoring: OutputScoring,
) -> OutputScores:
    bootstrap = Bootstrap(confidence=scoring.confidence)
    langs = {row.lang or "" for row in rows[0]}
    people = [replace(row, prediction=row.reference or "", lang=row.lang or "") for row in rows[0]]
    alone = metrics_of("reference")
    table = {}
    for name, metric in metrics.items():
        seeds = [metric.score(one[name], bootstrap) for one in counted]
        reference = metric.score(metric.statistics(people), bootstrap).score if name in alone else None
        table[name] = OutputScore(
            title=metric.title,
            places=metric.places,
            score=float(np.mean([one.score for one in seeds])),
            low=float(np.mean([one.low for one in seeds])),
            high=float(np.mean([one.high for one in seeds])),
            by_file=[one.score for one in seeds],
            reference=reference,
        )
    signatures = {name: metric.signature(bootstrap, langs) for name, metric in metrics.items()}
    return OutputScores(system=system, files=files, documents=len(rows[0]), scores=table, signatures=signatures)

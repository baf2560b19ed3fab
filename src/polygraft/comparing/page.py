"""The page of `polygraft compare`: the word, forest plots, the table; one self-contained file, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from polygraft import report
from polygraft.comparing.results import INTERVALS, ComparedScore, ComparedSystems, OutputScore
from polygraft.data.files import write_atomically
from polygraft.report import plots
from polygraft.report.formats import decimal, interval, p_value, plural
from polygraft.report.svg import ARM_COLOURS
from polygraft.report.verdict_view import BADGES
from polygraft.scoring.figures import level
from polygraft.scoring.verdict import adjusted_p


def write(found: ComparedSystems, path: Path) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, render(found))


def render(found: ComparedSystems) -> str:
    """The page as a string; the same files give the same string."""
    folders = [Path(__file__).parent, Path(report.__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("compare.html.j2").render(_context(found))


def _context(found: ComparedSystems) -> dict[str, Any]:
    ours, theirs, primary = found.treatment, found.control, found.primary
    badge, sign = BADGES[found.word]
    numbers = [plural(len(one.files), "file") for one in (ours, theirs)]
    files = numbers[0] if numbers[0] == numbers[1] else " against ".join(numbers)
    rows = [primary, *found.secondary]
    alone = "" if primary.found.includes_seeds else "The intervals cover the choice of documents only, not of seeds."
    return {
        "treatment": ours,
        "control": theirs,
        "subtitle": f"{plural(ours.documents, 'document')} · {files} each" if numbers[0] == numbers[1] else files,
        "badge": badge,
        "sign": sign,
        "word": found.word,
        "sentence": found.sentence,
        "primary": primary.metric,
        "plots": _plots(rows),
        "rows": [_cells(row, found) for row in rows],
        "paired": primary.p_paired_bootstrap is not None,
        "basis": alone,
        "colours": ARM_COLOURS,
        "signatures": [(one.title, ours.signatures[name]) for name, one in ours.scores.items()],
        "intervals": INTERVALS,
    }


def _cells(row: ComparedScore, found: ComparedSystems) -> dict[str, str]:
    """A row of the table as text."""
    metric, one = row.metric, row.found
    level_of_all = found.primary.found.confidence
    ours, theirs = found.treatment.scores[row.name], found.control.scores[row.name]
    middle, ends = row.figures
    p = None if row.neutral else adjusted_p(one, level_of_all)["p_value_holm"]
    return {
        "title": metric.title,
        "hint": metric.hint,
        "treatment": decimal(ours.score, metric.places),
        "treatment_files": _spread(ours),
        "control": decimal(theirs.score, metric.places),
        "control_files": _spread(theirs),
        "reference": decimal(ours.reference, metric.places),
        "effect": middle,
        "interval": ends,
        "level": level(one.confidence) if ends else "",
        "p_value": p_value(p, 1 - level_of_all).removeprefix("= "),
        "paired": decimal(row.p_paired_bootstrap, 4),
        "word": "" if row.neutral else one.word,
        "badge": BADGES[one.word][0],
    }


def _spread(score: OutputScore) -> str:
    values = score.by_file
    return f"files {interval(min(values), max(values), score.places)}" if len(values) > 1 else ""


def _plots(rows: Sequence[ComparedScore]) -> list[Markup]:
    """A forest plot per unit and direction, that of the primary score first."""

    def kind(row: ComparedScore) -> tuple[str, int]:
        alone = row.metric.unit == "mean" or row.found.margin is not None
        return row.name if alone else _axis(row), row.metric.better

    first = kind(rows[0])
    directed = sorted((row for row in rows if not row.neutral), key=lambda row: (kind(row) != first, kind(row)))
    return [_plot(f"forest{place}", list(group)) for place, (_, group) in enumerate(groupby(directed, key=kind))]


def _axis(row: ComparedScore) -> str:
    """What the differences are in."""
    unit = row.metric.unit
    return "percentage points" if unit.startswith("%") else "points" if unit == "0 to 100" else unit


def _plot(key: str, rows: Sequence[ComparedScore]) -> Markup:
    estimates = []
    for row in rows:
        middle, ends = row.figures
        text = f"{middle}  [{ends}]" if ends else middle
        low, high = (row.found.low, row.found.high) if ends else (None, None)
        estimates.append(
            plots.Drawn(label=row.metric.title, value=row.found.effect, low=low, high=high, arm=0, text=text)
        )
    said = "; ".join(f"{one.label}: {one.text}" for one in estimates)
    return plots.forest(
        key, estimates, axis=f"difference, {_axis(rows[0])}", better=rows[0].metric.better,
        description=f"Differences with intervals. {said}.", margin=rows[0].found.margin,
    )  # fmt: skip

"""Plots of values with their intervals: effects against 0, scores beside each other, similarities of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from polygraft.report.formats import decimal
from polygraft.report.svg import ROLES, ROW, axes_of, colour_of, figure_of, heading, inline, marker_of, note, shortened
from polygraft.scoring.figures import MINUS, exactly


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A value with its interval; `arm` colours it (None: neutral); `marks` are its single seeds."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    arm: int | None = None
    text: str = ""
    marks: Sequence[float] = ()


def _draw_estimate(axes: Axes, row: float, estimate: Drawn) -> None:
    colour = colour_of(estimate.arm)
    for mark in estimate.marks:
        axes.plot(
            [mark], [row], marker=marker_of(estimate.arm), markersize=4, color=colour, alpha=0.45, linestyle="none"
        )
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2.2)
    size, edge, around = (12, 2.2, colour) if estimate.arm is None else (8, 1.2, ROLES["paper"])
    style: dict[str, Any] = {"marker": marker_of(estimate.arm), "color": colour, "linestyle": "none"}
    axes.plot([estimate.value], [row], markersize=size, markeredgewidth=edge, markeredgecolor=around, **style)


def _limits(estimates: Sequence[Drawn], always: Sequence[float] = ()) -> tuple[float, float]:
    ends = [end for item in estimates for end in (item.value, item.low, item.high, *item.marks) if end is not None]
    low, high = min([*ends, *always]), max([*ends, *always])
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.1
    return low - pad, high + pad


def _signed_tick(value: float, _: object) -> str:
    return f"{value:+g}".replace("-", MINUS) if abs(value) > 1e-12 else "0"


def forest(
    key: str,
    estimates: Sequence[Drawn],
    *,
    axis: str,
    better: int,
    description: str,
    margin: float | None = None,
) -> Markup:
    """Effects against 0 and the ± `margin` band, one row each: a line of text, the interval below it.

    `better` is the sign of effects that favour the treatment.
    """
    with figure_of(400, 66 + 46 * len(estimates), key) as figure:
        axes = axes_of(figure, 4, 4, 20, 46)
        always = [0.0] if margin is None else [-1.35 * margin, 1.35 * margin]
        axes.set_xlim(*_limits(estimates, always))
        axes.set_ylim(len(estimates) - 0.6, -0.6)
        if margin is not None:
            # The words would be cut off beside a band at the edge: they may lean to either side of its middle.
            low, high = axes.get_xlim()
            lean = min(max(0.0, low + 0.24 * (high - low)), high - 0.24 * (high - low))
            text, style = f"equivalent within ±{exactly(margin)}", {"ha": "center", "color": ROLES["muted"]}
            note(axes, text, (lean, 1), (0, 6), xycoords=("data", "axes fraction"), fontsize=11, **style)
        for row, estimate in enumerate(estimates):
            # Band and zero line stand only behind the intervals, so that they do not cross the words.
            if margin is not None:
                axes.fill_between([-margin, margin], row - 0.2, row + 0.22, color=ROLES["band"], linewidth=0)
            axes.plot([0, 0], [row - 0.2, row + 0.22], color=ROLES["ink"], linewidth=1, solid_capstyle="butt")
            _draw_estimate(axes, row, estimate)
            weight = "bold" if row == 0 else "normal"
            label = shortened(estimate.label, max(12, min(44, 57 - len(estimate.text))))  # both share a line
            for text, at, align in ((label, 0, "left"), (estimate.text, 1, "right")):
                note(axes, text, (at, row), (0, 13), xycoords=ROW, ha=align, fontsize=11.5, fontweight=weight)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_signed_tick))
        left, right = ("← better", "worse →") if better < 0 else ("← worse", "better →")
        for text, x, align in ((left, 0, "left"), (axis, 0.5, "center"), (right, 1, "right")):
            note(axes, text, (x, 0), (0, -36), ha=align, color=ROLES["muted"])
        return inline(figure, key, description)


def dots(key: str, title: str, hint: str, estimates: Sequence[Drawn], *, places: int, description: str) -> Markup:
    """Scores of one metric with intervals, one row per system; the neutral one (the lead baseline) as a rule, too."""
    with figure_of(290, 74 + 38 * len(estimates), key) as figure:
        axes = axes_of(figure, 4, 44, 44, 26)
        axes.set_xlim(*_limits(estimates))
        axes.set_ylim(len(estimates) - 0.5, -0.75)
        axes.grid(axis="x", color=ROLES["grid"], linewidth=0.6)
        for row, estimate in enumerate(estimates):
            if estimate.arm is None:
                axes.axvline(estimate.value, color=ROLES["muted"], linewidth=1, linestyle=(0, (3, 3)))
            _draw_estimate(axes, row, estimate)
            colour = colour_of(estimate.arm, text=True)
            value, style = decimal(estimate.value, places), {"xycoords": ROW, "color": colour}
            note(axes, shortened(estimate.label, 24), (0, row), (0, 9), **style)
            note(axes, value, (1, row), (40, -4), ha="right", fontweight="bold", **style)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        heading(axes, title, hint)
        return inline(figure, key, description)


def layer_map(
    key: str, similarity: Sequence[Sequence[float]], matched: Sequence[int], *, sides: tuple[str, str], description: str
) -> Markup:
    """Similarities of all pairs of layers, source upwards and target rightwards, with the chosen match as a line."""
    rows, columns = len(similarity), len(similarity[0])
    width = max(430, 54 + 30 * columns)
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
    with figure_of(width, 52 + 30 * rows, key) as figure:
        axes = axes_of(figure, 46, width - 46 - 30 * columns, 8, 44)
        for source, row in enumerate(similarity):
            for target, value in enumerate(row):
                at, share = (target - 0.5, source - 0.5), min(1.0, max(0.0, value))
                axes.add_patch(Rectangle(at, 1, 1, facecolor=ROLES["arm-0"], alpha=share, linewidth=0))
                axes.text(target, source, f"{value:.2f}".lstrip("0"), color=ROLES["ink"], **middle)
        style: dict[str, Any] = {"color": ROLES["arm-1"], "linewidth": 2, "marker": "o", "markersize": 16}
        axes.plot(range(columns), matched, markerfacecolor="none", **style)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_ylim(-0.6, rows - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"layer of {sides[1]}")
        axes.set_ylabel(f"layer of {sides[0]}")
        return inline(figure, key, description)

"""Plots of losses over the tokens read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from polygraft.report.formats import count
from polygraft.report.svg import ROLES, ROW, axes_of, colour_of, figure_of, heading, inline, marker_of, note, shortened


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The losses of one stage under one seed, over the tokens read. A curve without a label is drawn only."""

    label: str
    arm: int
    train: Sequence[tuple[float, float]] = ()
    evaluation: Sequence[tuple[float, float]] = ()


def losses(key: str, title: str, hint: str, curves: Sequence[Curve], *, description: str) -> Markup:
    """Training losses (thin) and evaluation losses (thick, with points) over tokens read, labelled at their ends."""
    with figure_of(430, 290, key) as figure:
        axes = axes_of(figure, 34, 76, 44, 40)
        axes.set_ylim(*_loss_limits(curves))
        ends: list[tuple[float, float, Curve]] = []
        for curve in curves:
            style: dict[str, Any] = {"color": colour_of(curve.arm)}
            _draw_line(axes, _thinned(curve.train), linewidth=1.0, alpha=0.45, **style)
            style |= {"marker": marker_of(curve.arm), "markeredgecolor": ROLES["paper"], "markeredgewidth": 0.8}
            _draw_line(axes, curve.evaluation, linewidth=2.0, markersize=5.5, **style)
            last = [*_thinned(curve.train)[-1:], *curve.evaluation[-1:]]
            if last and curve.label:
                ends.append((*last[-1], curve))
        _label_ends(axes, ends)
        axes.grid(axis="y", color=ROLES["grid"], linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.set_xlabel("tokens read", labelpad=4)
        heading(axes, title, hint)
        return inline(figure, key, description)


def _loss_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """All evaluations, and training losses but for the highest 2%, which are the first noisy steps."""
    train = sorted(loss for curve in curves for _, loss in _thinned(curve.train))
    shown = [loss for curve in curves for _, loss in curve.evaluation] + train[: max(1, int(len(train) * 0.98))]
    low, high = min(shown), max(shown)
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad


def _draw_line(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> None:
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], **style)


def _thinned(points: Sequence[tuple[float, float]], most: int = 120) -> list[tuple[float, float]]:
    """At most `most` points: means over equal runs of neighbours."""
    if len(points) <= most:
        return list(points)
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, Curve]]) -> None:
    """Name each curve: in the margin, or, if it ends early, below its end."""
    (low, high), right = axes.get_ylim(), max((x for x, _, _ in ends), default=0.0)
    late = [end for end in ends if end[0] >= 0.82 * right]
    early = [end for end in ends if end[0] < 0.82 * right]
    if early:  # losses fall, so there is room below the end of a line, if the frame leaves it
        low = min(low, min(y for _, y, _ in early) - 0.14 * (high - low))
        axes.set_ylim(low, high)
    heights = _spread([min(max(y, low), high) for _, y, _ in late], (high - low) * 0.062)
    bold: dict[str, Any] = {"fontsize": 11.5, "fontweight": "bold", "annotation_clip": False}
    for (_, _, curve), height in zip(late, heights, strict=True):
        style = bold | {"xycoords": ROW, "color": colour_of(curve.arm, text=True)}
        note(axes, shortened(curve.label, 13), (1, height), (4, -4), **style)
    for x, y, curve in early:
        style = bold | {"xycoords": "data", "color": colour_of(curve.arm, text=True)}
        note(axes, shortened(curve.label, 13), (x, y), (0, -10), ha="center", va="top", **style)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Label positions at least `gap` apart, near `heights`, in the same order."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = [0.0] * len(heights)
    for previous, index in zip([None, *order], order, strict=False):
        placed[index] = heights[index] if previous is None else max(heights[index], placed[previous] + gap)
    overshoot = sum(placed[index] - heights[index] for index in order) / max(len(order), 1)
    return [height - overshoot for height in placed]

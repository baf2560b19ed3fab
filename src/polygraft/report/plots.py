"""Plots as inline SVG that follows the page: colours are CSS variables, letters are real text in the page's font.

matplotlib draws with placeholder colours, one per role; `_inline` replaces each by `var(--role)`, so that one drawing
serves the light and the dark page. Sizes are CSS pixels; the page shows a plot at 0.85 to 1.3 times its size.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from polygraft.report.formats import count, decimal
from polygraft.scoring.figures import MINUS, exactly

ARM_COLOURS = 6
MARKERS = "osD^vPX*"
ROW = ("axes fraction", "data")  # of a point: across the frame, and at a height of the data
_ROLES = {"ink": "#010101", "muted": "#020202", "grid": "#030303", "band": "#040404", "paper": "#050505"}
_ROLES |= {f"arm-{index}": f"#0a000{index}" for index in range(ARM_COLOURS)}
_ROLES |= {f"arm-{index}-text": f"#0b000{index}" for index in range(ARM_COLOURS)}
_BY_PLACEHOLDER = {placeholder: role for role, placeholder in _ROLES.items()}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "axes.unicode_minus": True, "font.size": 11.0,
    "axes.edgecolor": _ROLES["grid"], "axes.labelcolor": _ROLES["muted"], "axes.labelsize": 11.0,
    "xtick.color": _ROLES["grid"], "ytick.color": _ROLES["grid"], "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
    "xtick.labelcolor": _ROLES["muted"], "ytick.labelcolor": _ROLES["muted"], "text.color": _ROLES["ink"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "path.simplify": True, "lines.solid_capstyle": "round",
}  # fmt: skip


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


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The losses of one stage under one seed, over the tokens read. A curve without a label is drawn only."""

    label: str
    arm: int
    train: Sequence[tuple[float, float]] = ()
    evaluation: Sequence[tuple[float, float]] = ()


def _colour(arm: int | None, text: bool = False) -> str:
    if arm is None:
        return _ROLES["muted"]
    return _ROLES[f"arm-{arm % ARM_COLOURS}{'-text' if text else ''}"]


def _marker(arm: int | None) -> str:
    return "|" if arm is None else MARKERS[arm % len(MARKERS)]


@contextmanager
def _figure(width: int, height: int, key: str) -> Iterator[Figure]:
    """A figure of `width` x `height` CSS pixels; `key` makes the ids of its SVG repeatable."""
    style: Any = _STYLE | {"svg.hashsalt": key}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Widths are measured in matplotlib's own font, which lacks many scripts; the page's fonts draw the text.
        warnings.filterwarnings("ignore", message=".*missing from font.*")
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        yield figure


def _axes(figure: Figure, left: int, right: int, top: int, bottom: int) -> Axes:
    """Axes inside margins given in CSS pixels."""
    width, height = figure.get_size_inches() * 72
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    axes.tick_params(length=3, pad=4)
    return axes


def _inline(figure: Figure, key: str, description: str) -> Markup:
    """The figure as an <svg> element for HTML: namespaces, metadata and fonts removed, ids unique, colours themed."""
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    drawn = buffer.getvalue().decode("utf-8").partition("?>")[2]
    # Control characters in an arm's name would not be XML.
    root = ElementTree.fromstring(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", drawn))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        element.attrib = _attributes(element, key)
    viewbox = root.attrib["viewBox"]
    root.attrib = {"class": "plot", "viewBox": viewbox, "role": "img", "aria-label": description}
    # The string comes from our own drawing; ElementTree has escaped the texts in it.
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _attributes(element: ElementTree.Element, key: str) -> dict[str, str]:
    kept = {}
    for name, value in element.attrib.items():
        name = name.rpartition("}")[2]
        if name == "id" and element.tag == "g":
            continue
        if name == "id":
            value = f"{key}-{value}"
        elif name == "href":
            value = value.replace("#", f"#{key}-")
        elif name == "clip-path":
            value = value.replace("url(#", f"url(#{key}-")
        elif name == "style":
            value = re.sub(r"font-family:[^;]*;? ?", "", value)
            value = re.sub(r"#[0-9a-f]{6}", lambda found: _themed(found.group()), value)
        elif name == "transform" and value.startswith("rotate(-0 "):
            continue
        elif name in ("d", "x", "y", "width", "height"):
            value = re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found.group()):.1f}", value).replace("\n", "")
        kept[name] = value
    return kept


def _themed(placeholder: str) -> str:
    role = _BY_PLACEHOLDER.get(placeholder)
    return f"var(--{role})" if role else placeholder


def _draw_estimate(axes: Axes, row: float, estimate: Drawn) -> None:
    colour = _colour(estimate.arm)
    for mark in estimate.marks:
        axes.plot([mark], [row], marker=_marker(estimate.arm), markersize=4, color=colour, alpha=0.45, linestyle="none")
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2.2)
    size, edge, around = (12, 2.2, colour) if estimate.arm is None else (8, 1.2, _ROLES["paper"])
    style: dict[str, Any] = {"marker": _marker(estimate.arm), "color": colour, "linestyle": "none"}
    axes.plot([estimate.value], [row], markersize=size, markeredgewidth=edge, markeredgecolor=around, **style)


def _note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Words beside a point: of the frame (0 to 1), or as `xycoords` says; the offset is in CSS pixels."""
    axes.annotate(text, at, offset, textcoords="offset points", **{"xycoords": "axes fraction", **style})


def _limits(estimates: Sequence[Drawn], always: Sequence[float] = ()) -> tuple[float, float]:
    ends = [end for item in estimates for end in (item.value, item.low, item.high, *item.marks) if end is not None]
    low, high = min([*ends, *always]), max([*ends, *always])
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.1
    return low - pad, high + pad


def _signed_tick(value: float, _: object) -> str:
    return f"{value:+g}".replace("-", MINUS) if abs(value) > 1e-12 else "0"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


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
    with _figure(400, 66 + 46 * len(estimates), key) as figure:
        axes = _axes(figure, 4, 4, 20, 46)
        always = [0.0] if margin is None else [-1.35 * margin, 1.35 * margin]
        axes.set_xlim(*_limits(estimates, always))
        axes.set_ylim(len(estimates) - 0.6, -0.6)
        if margin is not None:
            # The words would be cut off beside a band at the edge: they may lean to either side of its middle.
            low, high = axes.get_xlim()
            lean = min(max(0.0, low + 0.24 * (high - low)), high - 0.24 * (high - low))
            text, style = f"equivalent within ±{exactly(margin)}", {"ha": "center", "color": _ROLES["muted"]}
            _note(axes, text, (lean, 1), (0, 6), xycoords=("data", "axes fraction"), fontsize=11, **style)
        for row, estimate in enumerate(estimates):
            # Band and zero line stand only behind the intervals, so that they do not cross the words.
            if margin is not None:
                axes.fill_between([-margin, margin], row - 0.2, row + 0.22, color=_ROLES["band"], linewidth=0)
            axes.plot([0, 0], [row - 0.2, row + 0.22], color=_ROLES["ink"], linewidth=1, solid_capstyle="butt")
            _draw_estimate(axes, row, estimate)
            weight = "bold" if row == 0 else "normal"
            label = _shortened(estimate.label, max(12, min(44, 57 - len(estimate.text))))  # both share a line
            for text, at, align in ((label, 0, "left"), (estimate.text, 1, "right")):
                _note(axes, text, (at, row), (0, 13), xycoords=ROW, ha=align, fontsize=11.5, fontweight=weight)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_signed_tick))
        left, right = ("← better", "worse →") if better < 0 else ("← worse", "better →")
        for text, x, align in ((left, 0, "left"), (axis, 0.5, "center"), (right, 1, "right")):
            _note(axes, text, (x, 0), (0, -36), ha=align, color=_ROLES["muted"])
        return _inline(figure, key, description)


def dots(key: str, title: str, hint: str, estimates: Sequence[Drawn], *, places: int, description: str) -> Markup:
    """Scores of one metric with intervals, one row per system; the neutral one (the lead baseline) as a rule, too."""
    with _figure(290, 74 + 38 * len(estimates), key) as figure:
        axes = _axes(figure, 4, 44, 44, 26)
        axes.set_xlim(*_limits(estimates))
        axes.set_ylim(len(estimates) - 0.5, -0.75)
        axes.grid(axis="x", color=_ROLES["grid"], linewidth=0.6)
        for row, estimate in enumerate(estimates):
            if estimate.arm is None:
                axes.axvline(estimate.value, color=_ROLES["muted"], linewidth=1, linestyle=(0, (3, 3)))
            _draw_estimate(axes, row, estimate)
            colour = _colour(estimate.arm, text=True)
            value, style = decimal(estimate.value, places), {"xycoords": ROW, "color": colour}
            _note(axes, _shortened(estimate.label, 24), (0, row), (0, 9), **style)
            _note(axes, value, (1, row), (40, -4), ha="right", fontweight="bold", **style)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _title(axes, title, hint)
        return _inline(figure, key, description)


def _title(axes: Axes, title: str, hint: str) -> None:
    for text, offset, size, weight, role in ((title, 24, 12.5, "bold", "ink"), (hint, 10, 10.5, "normal", "muted")):
        _note(axes, text, (0, 1), (0, offset), fontsize=size, fontweight=weight, color=_ROLES[role])


def _thinned(points: Sequence[tuple[float, float]], most: int = 120) -> list[tuple[float, float]]:
    """At most `most` points: means over equal runs of neighbours."""
    if len(points) <= most:
        return list(points)
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Label positions at least `gap` apart, near `heights`, in the same order."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = [0.0] * len(heights)
    for previous, index in zip([None, *order], order, strict=False):
        placed[index] = heights[index] if previous is None else max(heights[index], placed[previous] + gap)
    overshoot = sum(placed[index] - heights[index] for index in order) / max(len(order), 1)
    return [height - overshoot for height in placed]


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


def losses(key: str, title: str, hint: str, curves: Sequence[Curve], *, description: str) -> Markup:
    """Training losses (thin) and evaluation losses (thick, with points) over tokens read, labelled at their ends."""
    with _figure(430, 290, key) as figure:
        axes = _axes(figure, 34, 76, 44, 40)
        axes.set_ylim(*_loss_limits(curves))
        ends: list[tuple[float, float, Curve]] = []
        for curve in curves:
            style: dict[str, Any] = {"color": _colour(curve.arm)}
            _draw_line(axes, _thinned(curve.train), linewidth=1.0, alpha=0.45, **style)
            style |= {"marker": _marker(curve.arm), "markeredgecolor": _ROLES["paper"], "markeredgewidth": 0.8}
            _draw_line(axes, curve.evaluation, linewidth=2.0, markersize=5.5, **style)
            last = [*_thinned(curve.train)[-1:], *curve.evaluation[-1:]]
            if last and curve.label:
                ends.append((*last[-1], curve))
        _label_ends(axes, ends)
        axes.grid(axis="y", color=_ROLES["grid"], linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.set_xlabel("tokens read", labelpad=4)
        _title(axes, title, hint)
        return _inline(figure, key, description)


def layer_map(
    key: str, similarity: Sequence[Sequence[float]], matched: Sequence[int], *, sides: tuple[str, str], description: str
) -> Markup:
    """Similarities of all pairs of layers, source upwards and target rightwards, with the chosen match as a line."""
    rows, columns = len(similarity), len(similarity[0])
    width = max(430, 54 + 30 * columns)
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
    with _figure(width, 52 + 30 * rows, key) as figure:
        axes = _axes(figure, 46, width - 46 - 30 * columns, 8, 44)
        for source, row in enumerate(similarity):
            for target, value in enumerate(row):
                at, share = (target - 0.5, source - 0.5), min(1.0, max(0.0, value))
                axes.add_patch(Rectangle(at, 1, 1, facecolor=_ROLES["arm-0"], alpha=share, linewidth=0))
                axes.text(target, source, f"{value:.2f}".lstrip("0"), color=_ROLES["ink"], **middle)
        style: dict[str, Any] = {"color": _ROLES["arm-1"], "linewidth": 2, "marker": "o", "markersize": 16}
        axes.plot(range(columns), matched, markerfacecolor="none", **style)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_ylim(-0.6, rows - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"layer of {sides[1]}")
        axes.set_ylabel(f"layer of {sides[0]}")
        return _inline(figure, key, description)


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
        style = bold | {"xycoords": ROW, "color": _colour(curve.arm, text=True)}
        _note(axes, _shortened(curve.label, 13), (1, height), (4, -4), **style)
    for x, y, curve in early:
        style = bold | {"xycoords": "data", "color": _colour(curve.arm, text=True)}
        _note(axes, _shortened(curve.label, 13), (x, y), (0, -10), ha="center", va="top", **style)

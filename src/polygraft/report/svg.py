"""Drawings as inline SVG that follows the page: colours are CSS variables, letters are real text in the page's font.

matplotlib draws with placeholder colours, one per role; `inline` replaces each by `var(--role)`, so that one drawing
serves the light and the dark page. Sizes are CSS pixels; the page shows a plot at 0.85 to 1.3 times its size.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ARM_COLOURS = 6
MARKERS = "osD^vPX*"
ROW = ("axes fraction", "data")  # of a point: across the frame, and at a height of the data
ROLES = {"ink": "#010101", "muted": "#020202", "grid": "#030303", "band": "#040404", "paper": "#050505"}
ROLES |= {f"arm-{index}": f"#0a000{index}" for index in range(ARM_COLOURS)}
ROLES |= {f"arm-{index}-text": f"#0b000{index}" for index in range(ARM_COLOURS)}
_BY_PLACEHOLDER = {placeholder: role for role, placeholder in ROLES.items()}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "axes.unicode_minus": True, "font.size": 11.0,
    "axes.edgecolor": ROLES["grid"], "axes.labelcolor": ROLES["muted"], "axes.labelsize": 11.0,
    "xtick.color": ROLES["grid"], "ytick.color": ROLES["grid"], "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
    "xtick.labelcolor": ROLES["muted"], "ytick.labelcolor": ROLES["muted"], "text.color": ROLES["ink"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "path.simplify": True, "lines.solid_capstyle": "round",
}  # fmt: skip


def colour_of(arm: int | None, text: bool = False) -> str:
    """The placeholder of an arm's colour, of lines or (darker) of text; None is neutral."""
    if arm is None:
        return ROLES["muted"]
    return ROLES[f"arm-{arm % ARM_COLOURS}{'-text' if text else ''}"]


def marker_of(arm: int | None) -> str:
    """An arm's marker, so that arms are told apart without colour."""
    return "|" if arm is None else MARKERS[arm % len(MARKERS)]


@contextmanager
def figure_of(width: int, height: int, key: str) -> Iterator[Figure]:
    """A figure of `width` x `height` CSS pixels; `key` makes the ids of its SVG repeatable."""
    style: Any = _STYLE | {"svg.hashsalt": key}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Widths are measured in matplotlib's own font, which lacks many scripts; the page's fonts draw the text.
        warnings.filterwarnings("ignore", message=".*missing from font.*")
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        yield figure


def axes_of(figure: Figure, left: int, right: int, top: int, bottom: int) -> Axes:
    """Axes inside margins given in CSS pixels."""
    width, height = figure.get_size_inches() * 72
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    axes.tick_params(length=3, pad=4)
    return axes


def inline(figure: Figure, key: str, description: str) -> Markup:
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


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Words beside a point: of the frame (0 to 1), or as `xycoords` says; the offset is in CSS pixels."""
    axes.annotate(text, at, offset, textcoords="offset points", **{"xycoords": "axes fraction", **style})


def heading(axes: Axes, title: str, hint: str) -> None:
    """A title, and the unit below it, above the frame."""
    for text, offset, size, weight, role in ((title, 24, 12.5, "bold", "ink"), (hint, 10, 10.5, "normal", "muted")):
        note(axes, text, (0, 1), (0, offset), fontsize=size, fontweight=weight, color=ROLES[role])


def shortened(text: str, most: int) -> str:
    """`text` of at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"

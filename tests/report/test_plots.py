"""Plots: text that follows the page's colours, escaped names, labels apart."""

from __future__ import annotations

import re

import pytest

from polygraft.report.curves import Curve, _spread, _thinned, losses
from polygraft.report.plots import Drawn, dots, forest


def test_plots_are_themed_text_not_pixels(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    # verdict; diagnosis and its layers; three metrics; MLM, denoising twice, fine-tuning
    assert len(plots) == 1 + 2 + 3 + 4
    drawn = "".join(plots)
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []  # every colour is a variable that dark mode changes
    assert "DejaVu" not in drawn and all('role="img"' in plot and "aria-label" in plot for plot in plots)
    assert ">detour</text>" in drawn and ">equivalent within ±0.05</text>" in drawn
    declared = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", drawn)) <= declared


@pytest.mark.parametrize("name", ["<script>alert(1)", "a$b_{$", "ліфт", "移植", "x\x07y", "a&b"])
def test_names_are_escaped(name, assert_well_formed):
    estimates = [Drawn(label=name, value=1.0, low=0.5, high=1.5, arm=0, text=name)]
    curve = Curve(label=name, arm=0, evaluation=[(0, 2.0), (10, 1.0)])
    html = forest("one", estimates, axis=name, better=1, description=name)
    html += dots("two", name, name, estimates, places=1, description=name)
    html += losses("three", name, name, [curve], description=name)
    assert "<script" not in html
    assert assert_well_formed(html).text.count(name.replace("\x07", "")[:12]) == 3 + 3 + 3


@pytest.mark.parametrize(("better", "left"), [(-1, "← better"), (1, "← worse")])
def test_the_good_side_is_named(better, left):
    drawn = forest("key", [Drawn(label="a", value=1.0)], axis="", better=better, description="")
    assert f">{left}</text>" in drawn


def test_labels_keep_their_distance_and_thinning_keeps_the_mean():
    placed = _spread([1.0, 1.01, 3.0], gap=0.5)
    assert placed[1] - placed[0] >= 0.5 - 1e-9 and placed[2] - placed[1] >= 0.5
    points = [(float(index), float(index % 7)) for index in range(1200)]
    thinned = _thinned(points)
    assert len(thinned) == 120
    assert sum(y for _, y in thinned) / 120 == pytest.approx(sum(y for _, y in points) / 1200)

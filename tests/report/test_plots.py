"""Plots: text that follows the page's colours, escaped names, labels apart."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from polygraft.report import write
from polygraft.report.plots import _spread, _thinned


def test_plots_are_themed_text_not_pixels(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 1 + 3 + 4  # verdict; three metrics; MLM, denoising twice, fine-tuning
    drawn = "".join(plots)
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []  # every colour is a variable that dark mode changes
    assert "DejaVu" not in drawn and all('role="img"' in plot and "aria-label" in plot for plot in plots)
    assert ">detour</text>" in drawn and ">equivalent within ±0.05</text>" in drawn
    declared = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", drawn)) <= declared


@pytest.mark.parametrize("name", ["<script>alert(1)", "a$b_{$", "ліфт", "移植", "x\x07y", "a&b"])
def test_arm_names_are_escaped_in_plots(tmp_path, name, make_run, assert_well_formed, Balance):
    root = make_run(tmp_path / "run", [1])
    (root / "detour").rename(root / name)
    recipe = yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["arms"][name] = recipe["arms"].pop("detour")
    (root / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    html = write(root).read_text(encoding="utf-8")
    assert "<script" not in html
    drawn = "".join(words for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) for words in Balance(svg).words)
    assert name.replace("\x07", "")[:12] in drawn
    assert_well_formed(html)


def test_labels_keep_their_distance_and_thinning_keeps_the_mean():
    placed = _spread([1.0, 1.01, 3.0], gap=0.5)
    assert placed[1] - placed[0] >= 0.5 - 1e-9 and placed[2] - placed[1] >= 0.5
    points = [(float(index), float(index % 7)) for index in range(1200)]
    thinned = _thinned(points)
    assert len(thinned) == 120
    assert sum(y for _, y in thinned) / 120 == pytest.approx(sum(y for _, y in points) / 1200)

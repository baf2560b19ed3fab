"""The verdict's section: its badge, its direction, what each arm cost."""

from __future__ import annotations

import json
import shutil

import pytest

from polygraft.report import write
from polygraft.report.formats import MISSING, count, flops, seconds


@pytest.mark.parametrize(
    ("word", "badge"),
    [("helped", "▲ helped"), ("hurt", "▼ hurt"), ("equivalent", "= equivalent"),
     ("not enough evidence", "? not enough evidence")],
)  # fmt: skip
def test_badge_names_the_word_with_a_sign(copy, word, badge, change):
    change(copy / "verdict.json", word=word)
    assert f">{badge}</span>" in write(copy).read_text(encoding="utf-8")


@pytest.mark.parametrize(("better", "side"), [(-1, "below"), (1, "above")])
def test_direction_is_the_metrics(copy, better, side, change):
    change(copy / "verdict.json", better=better)
    html = write(copy).read_text(encoding="utf-8")
    assert f"{side} 0 favours detour" in html
    assert (">← better</text>" if side == "below" else ">better →</text>") in html


def test_a_verdict_is_shown_with_all_it_rests_on(copy, change, text_of):
    verdict = json.loads((copy / "verdict.json").read_text(encoding="utf-8"))
    second = {**verdict["comparisons"][0], "p_value_holm": 0.0444, "confidence": 0.975, "word": "helped"}
    change(copy / "verdict.json", comparisons=[second], p_value=0.03, includes_seeds=True)
    text = text_of(copy)
    for said in (
        "2 seeds (1, 2), 24 test documents, 95% interval, p = 0.030 of no difference; below 0 favours detour.",
        "97.5% 0.044 helped", "detour against lead baseline",
    ):  # fmt: skip
        assert said in text, said
    change(copy / "verdict.json", low=None, high=None, includes_seeds=False, p_value=None)
    text = text_of(copy)
    assert "interval covers the choice of documents only, not of seeds" in text and f"{MISSING} 2 seeds" in text


def test_costs_are_the_verdicts(run, page, assert_well_formed):
    cost = json.loads((run / "verdict.json").read_text(encoding="utf-8"))["cost"]["detour"]
    text = assert_well_formed(page).text
    said = f"detour {seconds(cost['seconds'])} {count(cost['tokens'])} {flops(cost['flops'])} Adaptation and transfer"
    assert f"plain 0.0 s 0 0 FLOP {said}" in text


def test_without_a_verdict_costs_are_those_of_arms_that_have_spent_them(run, copy, page, assert_well_formed, text_of):
    (copy / "verdict.json").unlink()
    costs = ("What each arm cost", "Adaptation and transfer, mean")
    whole = assert_well_formed(page).text
    text = text_of(copy)
    assert text[text.index(costs[0]) : text.index(costs[1])] == whole[whole.index(costs[0]) : whole.index(costs[1])]
    shutil.rmtree(copy / "detour" / "seed-2" / "adapt_target")
    assert f"plain 0.0 s 0 0 FLOP detour {MISSING} {MISSING} {MISSING} Adaptation" in text_of(copy)

"""The verdict's section: its badge, its direction, what each arm cost."""

from __future__ import annotations

import pytest

from polygraft.report import formats, write


@pytest.mark.parametrize(
    ("word", "badge"),
    [("helped", "▲ helped"), ("hurt", "▼ hurt"), ("not enough evidence", "? not enough evidence"), ("odd", "odd")],
)
def test_badge_names_the_word_with_a_sign(tmp_path, word, badge, make_run, change):
    root = make_run(tmp_path / "run", [1])
    change(root / "verdict.json", word=word, p_value=None, margin=None)
    assert f">{badge}</span>" in write(root).read_text(encoding="utf-8")


@pytest.mark.parametrize(("metric", "side"), [("loss per reference token (nats)", "below"), ("chrF++", "above")])
def test_direction_follows_the_metric(tmp_path, metric, side, make_run, change):
    root = make_run(tmp_path / "run", [1])
    change(root / "verdict.json", metric=metric)
    html = write(root).read_text(encoding="utf-8")
    assert f"{side} 0 favours detour" in html
    assert ("← better" if side == "below" else "better →") in html


def test_without_a_verdict_costs_are_summed_for_finished_arms_only(tmp_path, make_run, cut, assert_well_formed):
    root = make_run(tmp_path / "run", [1])
    cut(root, "verdict.json", "detour/*/adapt_target/stage.json")
    text = assert_well_formed(write(root).read_text(encoding="utf-8")).text
    costs = text[text.index("What each arm cost") : text.index("What is missing")]
    assert (
        f"plain 0.0 s 0 0 FLOP direct 25 s 150 k 3.9 TFLOP detour {formats.MISSING} {formats.MISSING} {formats.MISSING}"
        in costs
    )

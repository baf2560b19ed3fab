"""comparison.py: every word follows from the interval, and Holm's levels from p-values; cases, and scipy."""

from __future__ import annotations

import pytest
from scipy import special, stats

from polygraft.scoring.comparison import Comparison, holm_levels


def made_up(low, high, *, margin=0.05, better=-1, seeds=5, freedom=7.0) -> Comparison:
    """A comparison with about this interval."""
    half = (high - low) / 2
    return Comparison(
        "loss",
        better,
        0.95,
        margin,
        (low + high) / 2,
        half / special.stdtrit(freedom, 0.975),
        freedom,
        2.0,
        2.0,
        seeds,
        9,
    )


@pytest.mark.parametrize(
    ("low", "high", "better", "margin", "word"),
    [
        (-0.2, -0.1, -1, 0.05, "helped"),
        (0.1, 0.2, -1, 0.05, "hurt"),
        (0.1, 0.2, 1, None, "helped"),
        (-0.2, -0.1, 1, None, "hurt"),
        (-0.04, 0.04, -1, 0.05, "equivalent"),
        (-0.04, -0.01, -1, 0.05, "equivalent"),
        (-0.056, 0.066, -1, 0.05, "not enough evidence"),  # the 90% interval would lie within
        (-0.06, -0.01, -1, 0.05, "helped"),
        (-0.06, 0.01, -1, 0.05, "not enough evidence"),
        (-0.04, 0.04, 1, None, "not enough evidence"),
        (0.0, 0.0, -1, 0.05, "equivalent"),
        (0.05, 0.05, -1, 0.05, "hurt"),  # at the margin is not within
        (0.0, 0.0, 1, None, "not enough evidence"),
    ],
)
def test_the_interval_decides(low, high, better, margin, word):
    found = made_up(low, high, better=better, margin=margin)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.word == found.suggestion == word
    few = made_up(low, high, better=better, margin=margin, seeds=2)
    assert (few.word, few.suggestion) == ("not enough evidence", word)


@pytest.mark.parametrize(("low", "high"), [(-0.04, 0.03), (-0.06, 0.01), (-0.2, -0.1), (0.01, 0.04), (-3.0, 2.0)])
def test_p_values_are_where_the_interval_ends(low, high):
    """Two one-sided t tests by scipy's t distribution; and the interval of level 1 - p ends where p says."""
    found = made_up(low, high)
    law = stats.t(7.0, found.effect, found.standard_error)
    assert found.p_value == pytest.approx(2 * min(law.cdf(0), law.sf(0)))
    assert found.p_equivalence == pytest.approx(min(1.0, 2 * max(law.cdf(-0.05), law.sf(0.05))))
    at = made_up(low, high)
    level = special.stdtrit(7.0, 1 - found.p_value / 2) * at.standard_error
    assert level == pytest.approx(abs(found.effect))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(c(0.01,0.04,0.03,0.005), "holm")
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, 0.021, 0.9], [0.06, 0.06, 0.9]),  # 0.021 < 0.05 / 2, but the one before it stopped
        ([0.001], [0.001]),
        ([], []),
    ],
)
def test_holm_levels_decide_as_adjusted_p_values(p_values, adjusted):
    levels = holm_levels(p_values, 0.05)
    assert [p < level for p, level in zip(p_values, levels, strict=True)] == [p < 0.05 for p in adjusted]


def test_holm_levels_are_alpha_over_what_is_open():
    assert holm_levels([0.01, 0.04, 0.03, 0.005], 0.05) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])

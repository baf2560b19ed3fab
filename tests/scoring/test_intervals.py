"""Intervals: how often they hold the truth, what pairing gains, and what cannot be known."""

import numpy as np
import pytest

from polygraft.scoring import intervals
from polygraft.scoring.bootstrap import Bootstrap
from polygraft.scoring.intervals import Estimate, ratio

TRIALS = 400
DOCUMENTS = {"uk": 20, "ko": 12, "de": 28}
RATES = {"uk": 2.5, "ko": 4.0, "de": 2.0}


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", Bootstrap(resamples=300))


def corpus(random, hardness=0.0):
    """Documents of uneven length whose bits per character vary, as skewed as the nano models'."""
    languages = [language for language, number in DOCUMENTS.items() for _ in range(number)]
    characters = random.gamma(4.0, 75.0, len(languages)).round() + 20
    rates = np.array([RATES[language] for language in languages]) + hardness
    return characters, rates * random.gamma(12.0, 1 / 12.0, len(languages)), languages


@pytest.mark.usefixtures("few_draws")
def test_coverage_of_the_interval():
    random = np.random.default_rng(0)
    truth, held = np.mean(list(RATES.values())), 0
    for _ in range(TRIALS):
        characters, rates, languages = corpus(random)
        found = ratio(characters * rates, characters, languages).estimate()
        held += found.low <= truth <= found.high
    assert 0.925 <= held / TRIALS <= 0.98  # measured: 0.938; one standard error is 0.011


@pytest.mark.usefixtures("few_draws")
def test_coverage_and_false_alarms_of_a_paired_difference():
    random = np.random.default_rng(1)
    held, alarms, gains = 0, 0, []
    for _ in range(TRIALS):
        characters, rates, languages = corpus(random)
        noise = 1 + 0.05 * random.standard_normal((2, len(languages)))
        first, second = (ratio(characters * rates * one, characters, languages) for one in noise)
        difference = second.minus(first)
        held += difference.estimate().low <= 0 <= difference.estimate().high
        alarms += difference.p_value() < 0.05
        gains.append(difference.standard_error()[0] / first.standard_error()[0])
    assert 0.925 <= held / TRIALS <= 0.98  # measured: 0.955
    assert alarms == TRIALS - held, "interval and p-value agree"
    # 0.05 sqrt(2) of noise against documents that differ by 12 ** -0.5: what is hard for both cancels
    assert np.mean(gains) == pytest.approx(0.05 * 2**0.5 * 12**0.5, rel=0.15)


def test_value_is_the_mean_of_the_languages_ratios():
    top, bottom = np.array([2.0, 4.0, 10.0]), np.array([1.0, 2.0, 2.0])
    found = ratio(top, bottom, ["uk", "uk", "ko"])
    assert found.points == {"uk": 2.0, "ko": 5.0}
    assert found.value == 3.5
    assert found.only("uk").estimate().value == 2.0


def test_difference_over_shared_languages_is_paired_wherever_they_stand():
    random = np.random.default_rng(2)
    characters, rates, languages = corpus(random)
    whole = ratio(characters * rates, characters, languages)
    without = np.array(languages) != "uk"
    part = ratio(
        (characters * rates + characters)[without], characters[without], [one for one in languages if one != "uk"]
    )
    difference = part.minus(whole)
    assert set(difference.points) == {"ko", "de"}
    assert difference.value == pytest.approx(1.0)
    assert difference.standard_error()[0] == pytest.approx(0.0, abs=1e-12)
    assert difference.p_value() < 1e-9


def test_single_documents_leave_it_unknown():
    found = ratio(np.array([3.0, 2.0, 4.0]), np.ones(3), ["uk", "ko", "ko"])
    assert found.estimate().low is None
    assert found.p_value() == 1.0
    assert found.estimate().text() == "3.00"
    assert found.only("ko").estimate().low is not None


TEXTS = {
    "with its interval": ((2.314, 2.2, 2.4), False, "2.31 (2.20 to 2.40)"),
    "signed": ((0.5, -0.25, 1.0), True, "+0.50 (\N{MINUS SIGN}0.25 to +1.00)"),
    "a zero has no sign": ((-0.001, -1.0, 0.0), True, "0.00 (\N{MINUS SIGN}1.00 to 0.00)"),
    "an end above 0 is not 0": ((0.02, 0.001, 0.04), True, "+0.020 (+0.001 to +0.040)"),
    "an end below 0 is not 0": (
        (-0.02, -0.04, -4e-6),
        False,
        "\N{MINUS SIGN}0.020000 (\N{MINUS SIGN}0.040000 to \N{MINUS SIGN}0.000004)",
    ),
    "hardly above 0": ((1e-12, 9e-13, 2e-12), False, "1e\N{MINUS SIGN}12 (9e\N{MINUS SIGN}13 to 2e\N{MINUS SIGN}12)"),
    "huge": ((1e300, -1e299, 2e300), False, "1e+300 (\N{MINUS SIGN}1e+299 to 2e+300)"),
    "alone": ((2.0, None, None), False, "2.00"),
}


@pytest.mark.parametrize(("figures", "signed", "text"), TEXTS.values(), ids=TEXTS)
def test_text(figures, signed, text):
    assert Estimate(*figures).text(signed) == text


def test_equal_models_differ_by_nothing():
    found = ratio(np.array([3.0, 2.0]), np.ones(2), ["uk", "uk"])
    assert found.minus(found).p_value() == 1.0
    assert found.minus(found).estimate().text(signed=True) == "0.00 (0.00 to 0.00)"

"""comparison.py: coverage and false alarms by simulation, and hand-made cases for every word."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from polygraft.comparison import (
    CHRF,
    LOSS,
    ROUGE_L,
    DocumentScores,
    compare,
    compare_resampled,
    decide,
    holm,
    resample,
    standard_error,
)
from polygraft.metrics import Bootstrap, chrf_pp


def simulated_arm(rng, seeds, tokens_D, means_D, seed_noise, document_noise) -> list[DocumentScores]:
    """Loss per token = means + one draw per seed + one draw per seed and document."""
    return [
        DocumentScores.of_loss(
            (means_D + rng.normal(0, seed_noise) + rng.normal(0, document_noise, len(means_D))) * tokens_D, tokens_D
        )
        for _ in range(seeds)
    ]


def simulated_pair(rng, seeds, effect, seed_noise=0.03, documents=60, arm_by_document=0.3, document_noise=0.2):
    tokens_D = rng.integers(5, 25, size=documents).astype(float)
    means_D = rng.normal(4, 1, size=documents)
    treated_D = means_D + effect + rng.normal(0, arm_by_document, size=documents)
    return (
        simulated_arm(rng, seeds, tokens_D, treated_D, seed_noise, document_noise),
        simulated_arm(rng, seeds, tokens_D, means_D, seed_noise, document_noise),
    )


# Measured with 1500 runs of each of 16 settings, 3 and 5 seeds, 60 and 200 documents: coverage 0.929 to 0.990 (at least
# 0.979 where neither seeds nor arms differ but in noise per document), "helped" without an effect 0.006 to 0.033.
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_noise", [0.03, 0.15])
def test_intervals_cover_and_false_alarms_are_rare(seeds, seed_noise):
    rng = np.random.default_rng(seeds)
    runs, covered, helped, hurt = 500, 0, 0, 0
    for run in range(runs):
        found = compare(*simulated_pair(rng, seeds, 0.0, seed_noise), margin=1e-9, resamples=150, seed=run)
        covered += found.low <= 0.0 <= found.high
        helped += found.word == "helped"
        hurt += found.word == "hurt"
    assert 0.92 < covered / runs < 0.98
    assert (helped + hurt) / runs < 0.05 + 0.03  # two-sided error 5%, three standard errors of 500 runs
    assert helped
    assert hurt


def test_real_effects_are_found():
    rng = np.random.default_rng(0)
    words = [compare(*simulated_pair(rng, 5, -0.4), margin=0.05, resamples=150, seed=run).word for run in range(40)]
    assert words.count("helped") == 40


def test_equivalence_is_rarely_claimed_at_the_margin():
    """True effect = margin: the chance of a wrong "equivalent" is alpha."""
    rng = np.random.default_rng(1)
    runs = 400
    equivalent = 0
    for run in range(runs):
        pair = simulated_pair(rng, 5, 0.2, 0.03, arm_by_document=0.1, document_noise=0.1)
        equivalent += compare(*pair, margin=0.2, resamples=150, seed=run).word == "equivalent"
    assert 0 < equivalent / runs < 0.05 + 0.033


def constant_arm(*losses: float, documents: int = 40, jitter: float = 0.0) -> list[DocumentScores]:
    """Seeds with the given loss per token in every document, plus a jitter by document, alike in all seeds."""
    shift_D = jitter * np.sin(np.arange(documents))
    return [DocumentScores.of_loss((loss + shift_D) * 10, np.full(documents, 10)) for loss in losses]


CONTROL = (2.00, 2.02, 1.98, 2.01, 1.99)


@pytest.mark.parametrize(
    ("treatment", "word"),
    [
        ((1.80, 1.82, 1.78, 1.81, 1.79), "helped"),
        ((2.20, 2.22, 2.18, 2.21, 2.19), "hurt"),
        ((2.00, 2.01, 1.99, 2.02, 1.98), "equivalent"),
        ((1.97, 1.98, 1.96, 1.97, 1.975), "equivalent"),  # significantly better, but all of it within the margin
        ((1.70, 2.30, 1.95, 2.20, 1.80), "not enough evidence"),
        ((1.93, 1.96, 1.95, 1.97, 1.94), "helped"),  # beyond 0, partly beyond the margin
    ],
)
def test_words(treatment, word):
    found = compare(constant_arm(*treatment), constant_arm(*CONTROL), margin=0.05)
    assert found.word == found.suggestion == word
    assert found.effect == pytest.approx(np.mean(treatment) - np.mean(CONTROL))


def test_equivalent_even_though_the_interval_excludes_zero():
    found = compare(constant_arm(1.97, 1.98, 1.96, 1.97, 1.975), constant_arm(*CONTROL), margin=0.05)
    assert found.high < 0
    assert found.word == "equivalent"
    assert -0.05 < found.equivalence_low < found.equivalence_high < 0.05


def test_seed_noise_alone_gives_welchs_t_test():
    """Documents that all agree add nothing, so that scipy's Welch test is the independent reference."""
    treatment, control = (1.9, 2.05, 1.98, 2.0), (2.0, 2.3, 2.1)
    found = compare(constant_arm(*treatment), constant_arm(*control), margin=0.05)
    expected = stats.ttest_ind(treatment, control, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees_of_freedom == pytest.approx(expected.df)


def test_document_noise_alone_gives_the_paired_t_test():
    """Seeds that all agree add nothing; equal lengths make the ratio a mean. Bootstrap error 2% at 20,000 draws."""
    differences_D = np.random.default_rng(2).normal(-0.1, 0.5, size=50)
    base_D = np.random.default_rng(3).normal(4, 1, size=50)
    treatment = [DocumentScores.of_loss(base_D + differences_D, np.ones(50))] * 3
    control = [DocumentScores.of_loss(base_D, np.ones(50))] * 3
    found = compare(treatment, control, margin=0.05, resamples=20_000)
    expected = stats.ttest_rel(base_D + differences_D, base_D)
    assert found.standard_error == pytest.approx(differences_D.std(ddof=1) / 50**0.5, rel=0.02)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.1)


def test_fewer_than_three_seeds_decide_nothing_but_show_what_the_documents_say():
    treatment, control = constant_arm(1.7, 1.72, 1.71, 1.7, jitter=0.1), constant_arm(*CONTROL)
    for few in (1, 2):
        for pair in ((treatment[:few], control), (treatment, control[:few])):
            found = compare(*pair, margin=0.05)
            assert (found.word, found.suggestion) == ("not enough evidence", "helped")
            assert (found.p_value, found.p_equivalence, found.includes_seeds) == (None, None, False)
            assert found.seeds_per_arm == few
            assert found.low < found.effect < found.high < 0
    assert compare(treatment[:3], control[:3], margin=0.05).word == "helped"


def test_noise_per_seed_and_document_counts_once():
    """With independent noise only, the true variance of the difference is 2 s^2 / (S D)."""
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(60):
        arms = [
            [DocumentScores.of_loss(rng.normal(2, 0.5, size=100), np.ones(100)) for _ in range(5)] for _ in range(2)
        ]
        treatment, control = (resample(arm, LOSS, Bootstrap(200)) for arm in arms)
        errors.append(standard_error(treatment, control, include_seeds=True)[0])
    true = (2 * 0.5**2 / (5 * 100)) ** 0.5
    assert true < np.mean(errors) < 1.25 * true  # counted twice it would be 1.41; measured 1.11


def test_higher_is_better_for_chrf_and_rouge():
    references = [f"document number {i} about files" for i in range(30)]
    good = [text.replace("about", "on") for text in references]
    bad = ["something else" if i % 2 else text[:15] for i, text in enumerate(references)]
    for metric, statistics in ((CHRF, DocumentScores.of_chrf), (ROUGE_L, DocumentScores.of_rouge_l)):
        found = compare(
            [statistics(good, references)] * 3, [statistics(bad, references)] * 3, margin=None, metric=metric
        )
        assert (found.word, found.better, found.p_equivalence) == ("helped", 1, None)
        assert found.effect > 20
    assert found.metric == "ROUGE-L"
    chrf = resample([DocumentScores.of_chrf(good, references)], CHRF, Bootstrap(10))
    assert chrf.points_S[0] == pytest.approx(chrf_pp(good, references).score)


def test_a_fixed_control_needs_no_seeds():
    lead = resample(constant_arm(2.0), LOSS, Bootstrap(100))
    arm = resample(constant_arm(1.8, 1.82, 1.81, jitter=0.1), LOSS, Bootstrap(100))
    found = compare_resampled(arm, lead, confidence=0.95, control_is_fixed=True)
    assert (found.word, found.includes_seeds) == ("helped", True)


def test_one_document_is_no_evidence():
    found = compare(constant_arm(1, 1, 1, documents=1), constant_arm(2, 2, 2, documents=1), margin=0.05)
    assert (found.word, found.low, found.high) == ("not enough evidence", -np.inf, np.inf)


def test_identical_arms_are_equivalent():
    found = compare(constant_arm(2, 2, 2), constant_arm(2, 2, 2), margin=0.05)
    assert (found.word, found.effect, found.low, found.high, found.p_value) == ("equivalent", 0, 0, 0, 1.0)


def test_arms_must_be_paired():
    with pytest.raises(ValueError, match="40 documents against 39"):
        compare(constant_arm(2.0), constant_arm(2.0, documents=39), margin=0.05)
    with pytest.raises(ValueError, match="same documents"):
        compare(constant_arm(2.0) + constant_arm(2.0, documents=39), constant_arm(2.0), margin=0.05)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(c(0.01,0.04,0.03,0.005), "holm")
        ([0.5, 0.9], [1.0, 1.0]),
        ([None, 0.02, None], [None, 0.02, None]),
        ([], []),
    ],
)
def test_holm(p_values, adjusted):
    assert holm(p_values) == [p if p is None else pytest.approx(p) for p in adjusted]


@pytest.mark.parametrize(
    ("effect", "better", "p", "p_equivalence", "word"),
    [
        (-1.0, -1, 0.01, 0.9, "helped"),
        (1.0, -1, 0.01, 0.9, "hurt"),
        (1.0, 1, 0.01, None, "helped"),
        (-1.0, -1, 0.01, 0.01, "equivalent"),
        (-1.0, -1, 0.05, 0.05, "not enough evidence"),
    ],
)
def test_decide(effect, better, p, p_equivalence, word):
    assert decide(effect, better, p, p_equivalence, 0.05) == word

"""comparison.py against textbook sums of squares, t tests of scipy and simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from polygraft.scoring.comparison import ArmScores, Comparison, compare_arms, standard_error
from polygraft.scoring.metrics import CHRF, LOSS, METRICS, Metric
from polygraft.scoring.predictions import Prediction


def of_loss(losses, tokens) -> np.ndarray:
    """Statistics of LOSS: nats and tokens by document."""
    return np.stack([losses, tokens], axis=1).astype(float)


def compare(
    treatment: list[np.ndarray], control: list[np.ndarray], *, margin: float | None, metric: Metric = LOSS
) -> Comparison:
    """Compare two arms, given by the statistics of each seed."""
    arms = (ArmScores.of(seeds, metric) for seeds in (treatment, control))
    return compare_arms(*arms, metric=metric, margin=margin)


def sums_of_squares(arms: list[np.ndarray]) -> tuple[float, float]:
    """Variance of a difference of means, and its degrees of freedom, from tables [S][D], as textbooks have it."""
    seeds, documents = arms[0].shape
    welch_top = welch_bottom = by_both = 0.0
    differences = [0.0] * documents
    for sign, table in zip((1, -1), arms, strict=True):
        mean = sum(map(sum, table)) / seeds / documents
        rows = [sum(row) / documents for row in table]
        columns = [sum(table[s][d] for s in range(seeds)) / seeds for d in range(documents)]
        ms_seeds = documents * sum((row - mean) ** 2 for row in rows) / (seeds - 1)
        ms_both = sum(
            (table[s][d] - rows[s] - columns[d] + mean) ** 2 for s in range(seeds) for d in range(documents)
        ) / ((seeds - 1) * (documents - 1))
        welch_top += ms_seeds / (seeds * documents)
        welch_bottom += (ms_seeds / (seeds * documents)) ** 2 / (seeds - 1)
        by_both += ms_both / (seeds * documents)
        differences = [one + sign * column for one, column in zip(differences, columns, strict=True)]
    mean = sum(differences) / documents
    by_documents = sum((one - mean) ** 2 for one in differences) / (documents - 1) / documents - by_both
    welch = welch_top**2 / welch_bottom
    if by_documents <= 0:
        return max(welch_top + by_documents, 0.9 * welch_top), welch
    variance = welch_top + by_documents
    return variance, 1 / (welch_top / variance / welch + by_documents / variance / (documents - 1))


@pytest.mark.parametrize("by_document", [0.0, 0.4])  # without, the documents' part is often cut off at 0
@pytest.mark.parametrize("seeds", [3, 4])
def test_variance_is_that_of_a_textbook(seeds, by_document):
    for seed in range(5):
        rng = np.random.default_rng([seeds, seed])
        common = rng.normal(2, 1, 12)
        arms = [
            common + rng.normal(0, by_document, 12) + rng.normal(0, 0.1, (seeds, 1)) + rng.normal(0, 0.3, (seeds, 12))
            for _ in range(2)
        ]
        found = compare(*([of_loss(row, np.ones(12)) for row in arm] for arm in arms), margin=None)
        variance, freedom = sums_of_squares(arms)
        assert found.standard_error == pytest.approx(variance**0.5, rel=1e-10)
        assert found.degrees_of_freedom == pytest.approx(freedom, rel=1e-10)


def test_contributions_are_those_of_leaving_each_document_out():
    rng = np.random.default_rng(0)
    losses, tokens = rng.gamma(3, 10, 8), rng.integers(3, 30, 8)
    scored = ArmScores.of([of_loss(losses, tokens)], LOSS)
    total = losses.sum() / tokens.sum()
    without = [(losses.sum() - one) / (tokens.sum() - count) for one, count in zip(losses, tokens, strict=True)]
    np.testing.assert_allclose(scored.points_S, [total])
    np.testing.assert_allclose(scored.values_SD[0], [8 * total - 7 * one for one in without])


def test_a_ratios_standard_error_is_the_delta_methods():
    """Jackknife and linearisation agree for many documents; measured: 0.3% apart for 200."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 40, 200)
    rates = rng.gamma(4, 1, (2, 200))
    found = compare(*[[of_loss(one * tokens, tokens)] for one in rates], margin=None)
    ratios = (rates * tokens).sum(axis=1, keepdims=True) / tokens.sum()
    linear = ((rates - ratios) * tokens / tokens.mean())[0] - ((rates - ratios) * tokens / tokens.mean())[1]
    assert found.standard_error == pytest.approx(linear.std(ddof=1) / 200**0.5, rel=0.02)


RUNS = 4000
LEAST, MOST = stats.binom.ppf(1e-4, RUNS, 0.94) / RUNS, stats.binom.isf(1e-4, RUNS, 0.97) / RUNS


# Over all regimes: docs/intervals.md. (arms with seeds, seeds, documents, the seeds' share of variance, interaction's
# part of the rest)
@pytest.mark.parametrize("arms", [2, 1])
@pytest.mark.parametrize(
    ("seeds", "documents", "noise", "interaction"),
    [(3, 30, 0.0, 1.0), (3, 300, 0.9, 0.0), (3, 1000, 0.25, 0.5), (5, 100, 0.0, 0.0), (10, 30, 0.9, 1.0)],
)
def test_intervals_hold_the_truth(arms, seeds, documents, noise, interaction):
    """Mean squares by their chi-square laws; the bounds are the binomial law's of that many runs, for 94 and 97%."""
    rng = np.random.default_rng([arms, seeds, documents])
    both, by_seed = (1 - noise) * interaction, noise

    def mean_squares(variance, freedom):
        return variance * stats.chi2.rvs(freedom, size=RUNS, random_state=rng) / freedom

    by_documents = mean_squares(1 - by_seed, documents - 1)
    by_seeds = [mean_squares((by_seed + both) / arms, seeds - 1) for _ in range(arms)]
    shared = sum(mean_squares(both / arms, (seeds - 1) * (documents - 1)) for _ in range(arms))
    error, freedom = standard_error(by_documents, by_seeds, shared, documents - 1, [seeds - 1] * arms)
    covered = abs(rng.normal(size=RUNS)) <= special.stdtrit(freedom, 0.975) * error
    assert LEAST <= covered.mean() <= MOST


def simulated_arm(rng, seeds, tokens_D, means_D, seed_noise, document_noise) -> list[np.ndarray]:
    """Loss per token = means + one draw per seed + one draw per seed and document."""
    return [
        of_loss(
            (means_D + rng.normal(0, seed_noise) + rng.normal(0, document_noise, len(means_D))) * tokens_D, tokens_D
        )
        for _ in range(seeds)
    ]


def simulated_pair(rng, seeds, effect, seed_noise=0.03, documents=60, arm_by_document=0.3, document_noise=0.2):
    """Documents of uneven length, with skewed losses."""
    tokens_D = rng.integers(5, 25, size=documents).astype(float)
    means_D = rng.gamma(4, 1, size=documents)
    treated_D = means_D + effect + rng.normal(0, arm_by_document, size=documents)
    return (
        simulated_arm(rng, seeds, tokens_D, treated_D, seed_noise, document_noise),
        simulated_arm(rng, seeds, tokens_D, means_D, seed_noise, document_noise),
    )


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_noise", [0.0, 0.03, 0.15])
def test_whole_studies_without_an_effect(seeds, seed_noise):
    rng = np.random.default_rng(seeds)
    runs = 600
    found = [compare(*simulated_pair(rng, seeds, 0.0, seed_noise), margin=1e-9) for _ in range(runs)]
    covered = sum(one.low <= 0.0 <= one.high for one in found)
    assert stats.binom.ppf(1e-4, runs, 0.94) <= covered <= stats.binom.isf(1e-4, runs, 0.97)
    words = [one.word for one in found]
    assert words.count("helped") + words.count("hurt") == runs - covered
    assert words.count("helped") and words.count("hurt")


def test_real_effects_are_found():
    rng = np.random.default_rng(0)
    words = [compare(*simulated_pair(rng, 5, -0.4), margin=0.05).word for _ in range(40)]
    assert words.count("helped") == 40


def test_equivalence_is_rarely_claimed_at_the_margin():
    """True effect = margin: the chance of a wrong "equivalent" is half of 1 - confidence."""
    rng = np.random.default_rng(1)
    runs = 600
    pairs = (simulated_pair(rng, 5, 0.2, 0.03, arm_by_document=0.1, document_noise=0.1) for _ in range(runs))
    equivalent = sum(compare(*pair, margin=0.2).word == "equivalent" for pair in pairs)
    assert 0 < equivalent <= stats.binom.isf(1e-4, runs, 0.03)


def constant_arm(*losses: float, documents: int = 40, jitter: float = 0.0) -> list[np.ndarray]:
    """Seeds with the given loss per token in every document, plus a jitter by document, alike in all seeds."""
    shift_D = jitter * np.sin(np.arange(documents))
    return [of_loss((loss + shift_D) * 10, np.full(documents, 10)) for loss in losses]


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
    assert -0.05 < found.low < found.high < 0
    assert found.word == "equivalent"
    assert found.p_value < 0.05 and found.p_equivalence < 0.05


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
    """Seeds that all agree add nothing; equal lengths make the ratio a mean."""
    differences_D = np.random.default_rng(2).normal(-0.1, 0.5, size=50)
    base_D = np.random.default_rng(3).normal(4, 1, size=50)
    treatment = [of_loss(base_D + differences_D, np.ones(50))] * 3
    control = [of_loss(base_D, np.ones(50))] * 3
    for few in (1, 3):
        found = compare(treatment[:few], control[:few], margin=0.05)
        expected = stats.ttest_rel(base_D + differences_D, base_D)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert found.p_value == pytest.approx(expected.pvalue)


def test_noise_in_both_parts_leaves_the_seeds_their_degrees_of_freedom():
    """Where the documents' spread is smaller than the noise of seeds in it says, the seeds' is what counts."""
    error, freedom = standard_error(2.3e-5, [2.4e-5, 2.2e-5], 6e-5, 258, [2, 2])
    assert error == pytest.approx((0.9 * 4.6e-5) ** 0.5)
    assert 3.9 < freedom <= 4.0  # it was 1, and the interval 12.7 standard errors wide either way


def test_fewer_than_three_seeds_decide_nothing_but_show_what_the_documents_say():
    treatment, control = constant_arm(1.7, 1.72, 1.71, 1.7, jitter=0.1), constant_arm(*CONTROL)
    for few in (1, 2):
        for pair in ((treatment[:few], control), (treatment, control[:few])):
            found = compare(*pair, margin=0.05)
            assert (found.word, found.suggestion) == ("not enough evidence", "helped")
            assert not found.includes_seeds
            assert found.seeds_per_arm == few
            assert found.low < found.effect < found.high < 0
    assert compare(treatment[:3], control[:3], margin=0.05).word == "helped"


def test_noise_per_seed_and_document_counts_once():
    """With independent noise only, the true variance of the difference is 2 s^2 / (S D)."""
    rng = np.random.default_rng(4)
    variances = []
    for _ in range(200):
        arms = [[of_loss(rng.normal(2, 0.5, size=100), np.ones(100)) for _ in range(5)] for _ in range(2)]
        variances.append(compare(*arms, margin=None).standard_error ** 2)
    true = 2 * 0.5**2 / (5 * 100)
    assert np.mean(variances) == pytest.approx(true, rel=0.15)  # counted twice it would be 2; measured 1.025


def test_higher_is_better_for_chrf_and_rouge():
    references = [f"document number {i} about files" for i in range(30)]
    good = [text.replace("about", "on") for text in references]
    bad = ["something else" if i % 2 else text[:15] for i, text in enumerate(references)]

    def of(metric: Metric, outputs: list[str]) -> np.ndarray:
        blank = {"id": "", "lang": "", "source": "", "lead": "", "loss_nats": 0.0, "reference_tokens": 1}
        return metric.statistics(
            [Prediction(prediction=o, reference=r, **blank) for o, r in zip(outputs, references, strict=True)]
        )

    for name in ("chrf++", "rougeL"):
        metric = METRICS[name]
        found = compare([of(metric, good)] * 3, [of(metric, bad)] * 3, margin=None, metric=metric)
        assert (found.word, found.better, found.p_equivalence) == ("helped", 1, None)
        assert found.effect > 20
    assert found.metric == "ROUGE-L"
    chrf = ArmScores.of([of(CHRF, good)], CHRF)
    assert chrf.points_S[0] == pytest.approx(CHRF.score(of(CHRF, good)).score)


def test_a_fixed_control_needs_no_seeds():
    lead = ArmScores.of(constant_arm(2.0), LOSS)
    found = compare_arms(ArmScores.of(constant_arm(1.8, 1.82, 1.81), LOSS), lead, control_is_fixed=True)
    assert (found.word, found.includes_seeds, found.seeds_per_arm) == ("helped", True, 3)
    expected = stats.ttest_1samp([1.8, 1.82, 1.81], 2.0)
    assert (found.p_value, found.degrees_of_freedom) == (pytest.approx(expected.pvalue), pytest.approx(expected.df))


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

"""What was forgotten: differences of ratios, whose intervals are those of textbooks where there are such."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from polygraft.errors import DataError
from polygraft.scoring.forgetting import ALL, STATES, Restored, forgotten, of_runs, whole_of

RNG = np.random.default_rng(3)
DE, FR = 30, 20
LANGUAGES = ["de_DE"] * DE + ["fr_XX"] * FR


def restored(tokens=None, languages=LANGUAGES, **nats) -> Restored:
    tokens = np.full(len(languages), 10.0) if tokens is None else tokens
    return Restored(languages=languages, tokens=tokens, nats=nats)


def test_one_seed_has_the_interval_of_the_paired_t_test():
    """Of documents of equal length the loss per token is a mean over documents."""
    before, after, tuned = (RNG.normal(mean, 3, DE + FR) for mean in (20, 22, 40))
    found = forgotten([restored(target=before, adapted=after, finetuned=tuned)])
    assert list(found) == ["de_DE", "fr_XX", ALL]
    for name, chosen in (("de_DE", slice(0, DE)), ("fr_XX", slice(DE, None))):
        for change, state in ((found[name].adapted, after), (found[name].finetuned, tuned)):
            low, high = stats.ttest_rel(state[chosen] / 10, before[chosen] / 10).confidence_interval()
            assert (change.low, change.high) == pytest.approx((low, high), rel=1e-9)
            assert change.effect == pytest.approx((state[chosen] - before[chosen]).mean() / 10)
        assert not found[name].includes_seeds
    assert (found["de_DE"].documents, found[ALL].documents) == (DE, DE + FR)


def test_languages_count_the_same_however_many_documents_they_have():
    tokens = RNG.integers(5, 60, DE + FR).astype(float)
    before, after = (tokens * RNG.normal(mean, 0.2, DE + FR) for mean in (2.0, 2.3))
    found = forgotten([restored(tokens, target=before, adapted=after, finetuned=before)])
    effects = [
        after[of].sum() / tokens[of].sum() - before[of].sum() / tokens[of].sum()
        for of in (slice(0, DE), slice(DE, None))
    ]
    assert [found[name].adapted.effect for name in ("de_DE", "fr_XX")] == pytest.approx(effects)
    assert whole_of(found).adapted.effect == pytest.approx(np.mean(effects))
    # independent languages: the standard error of their mean is the root of the sum of squares, by their number
    halves = [found[name].adapted.high - found[name].adapted.effect for name in ("de_DE", "fr_XX")]
    errors = [half / stats.t.ppf(0.975, n - 1) for half, n in zip(halves, (DE, FR), strict=True)]
    half = whole_of(found).adapted.high - whole_of(found).adapted.effect
    expected = np.hypot(*errors) / 2 * stats.t.ppf(0.975, DE + FR - 1)
    assert half == pytest.approx(expected, rel=0.05)  # measured: 0.8% off
    assert (found[ALL].finetuned.low, found[ALL].finetuned.high) == (
        0.0,
        0.0,
    )  # equal to what it was, on every document


def test_seeds_that_shift_all_documents_have_the_interval_of_the_t_test_over_seeds():
    before = RNG.normal(20, 3, DE)
    shifts = [1.0, 2.0, 4.0, 1.5]
    seeds = [
        restored(languages=["de_DE"] * DE, target=before, adapted=before + shift, finetuned=before) for shift in shifts
    ]
    found = forgotten(seeds, confidence=0.9)["de_DE"]
    low, high = stats.ttest_1samp(np.array(shifts) / 10, 0).confidence_interval(0.9)
    assert (found.adapted.low, found.adapted.high) == pytest.approx((low, high), rel=1e-6)  # measured 1e-15
    assert (found.finetuned.effect, found.finetuned.low, found.finetuned.high) == (0.0, 0.0, 0.0)  # exactly
    assert found.includes_seeds and not forgotten(seeds[:2])["de_DE"].includes_seeds


def test_what_is_saved_is_read_and_what_is_not_there_is_said(tmp_path):
    nats = {state: RNG.normal(20, 3, DE + FR) for state in STATES}
    for seed in (1, 2):
        restored(**nats).save(tmp_path / "arm" / f"seed-{seed}" / "forgetting")
    runs = [tmp_path / "arm" / f"seed-{seed}" for seed in (1, 2)]
    assert of_runs({"arm": runs})["arm"] == forgotten([restored(**nats)] * 2)
    restored(np.full(DE + FR, 11.0), **nats).save(runs[1] / "forgetting")
    with pytest.raises(DataError, match="of different documents"):
        of_runs({"arm": runs})
    (runs[1] / "forgetting" / "losses.npz").write_bytes(b"none")
    with pytest.raises(DataError, match=r"seed-2/forgetting/losses\.npz: cannot be read .*run the recipe again"):
        of_runs({"arm": runs})


def test_a_single_document_has_no_interval():
    one = restored(languages=["de_DE"], target=np.array([20.0]), adapted=np.array([21.0]), finetuned=np.array([20.0]))
    found = forgotten([one])["de_DE"]
    assert (found.adapted.effect, found.adapted.low, found.finetuned.low) == (pytest.approx(0.1), None, 0.0)

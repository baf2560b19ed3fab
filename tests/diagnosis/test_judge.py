"""What losses on held-out text lead to: a table of cases, from documents whose losses are known."""

from dataclasses import replace

import numpy as np
import pytest

from polygraft.diagnosis.held_out import Losses
from polygraft.diagnosis.judge import compare, judge, share_of_gain

DOCUMENTS, TOKENS = 40, 20.0


def losses(nats: float, reliance: float = 1.0, spread: float = 0.05, seed: int = 0) -> Losses:
    """Documents that are differently hard, all alike for every model, around `nats` per removed token."""
    hard = np.random.default_rng(99).gamma(20.0, 1 / 20.0, DOCUMENTS)
    own = 1 + spread * np.random.default_rng(seed).standard_normal(DOCUMENTS) / nats
    removed = np.full(DOCUMENTS, TOKENS)
    whole = 2 * removed
    return Losses(
        languages=["uk"] * DOCUMENTS,
        removed=removed * nats * hard * own,
        removed_tokens=removed,
        whole=whole,
        other=whole + reliance * removed,
        tokens=removed,
    )


def test_what_shows_on_the_whole_text_only_is_said():
    mine, other = losses(4.0), losses(4.0, seed=1)
    reader = replace(mine, whole=mine.whole / 2)
    found = judge("encoder", {"target": losses(6.0), "transfer": reader}, None, {"random": other})
    assert found.against[0].reading == "not told apart"
    assert found.against[0].whole.value == pytest.approx(1.0)
    assert "On the whole text, copied tokens included, it is ahead of `encoder+random` by 1.00 (" in found.sentence
    assert (
        "On the whole"
        not in judge("encoder", {"target": losses(6.0), "transfer": mine}, None, {"random": other}).sentence
    )


def states(*nats: float, seed: int = 0, **how: float) -> dict[str, Losses]:
    return {
        stage: losses(value, seed=seed + i, **how)
        for i, (stage, value) in enumerate(zip(("target", "transfer", "adapt_target"), nats, strict=False))
    }


BEATEN = {"recentre": losses(4.0, seed=7), "permuted": losses(4.1, seed=8)}
DIRECT = ("direct", states(6.0, 5.9, 4.0, seed=3))
CASES = {
    "better than direct and all placebos": (states(6.0, 5.0, 3.5), DIRECT, BEATEN, "go", "beats `detour+recentre` by"),
    "worse than direct": (states(6.0, 5.0, 4.5), DIRECT, BEATEN, "no-go", "worse on held-out text than `direct` by"),
    "as good as direct": (states(6.0, 5.0, 4.001), DIRECT, BEATEN, "open", "not told apart"),
    "a placebo is as good": (
        states(6.0, 5.0, 3.5), DIRECT, BEATEN | {"random": losses(3.5, seed=9)}, "open",
        "nothing shows that `detour` helps by what the source knows: it is better than `direct` by 0.",
    ),
    "the source as it was is as good": (
        states(6.0, 5.0, 3.5), DIRECT, BEATEN | {"untuned": losses(3.5, seed=9)}, "go",
        "nothing shows that adapting the source helps",
    ),
    "no direct arm": (states(6.0, 5.0, 3.5), None, BEATEN, "open", "no arm adapts the target directly"),
    "no placebos": (states(6.0, 5.0, 3.5), DIRECT, {}, "open", "no placebo says"),
    "nothing to compare with": (states(6.0, 5.0, 3.5), None, {}, "open", "nothing to compare"),
    "source not read": (states(6.0, 5.0, 3.5, reliance=0.01), DIRECT, BEATEN, "no-go", "hardly reads its source"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_decision(case):
    mine, direct, placebos, decision, words = CASES[case]
    found = judge("detour", mine, direct, placebos)
    assert found.decision == decision, found.sentence
    assert words in found.sentence


def test_a_transfer_alone_is_judged_by_its_own_state():
    found = judge("detour", states(6.0, 3.0), DIRECT, BEATEN)
    assert found.decision == "go"
    assert found.carried == found.reached


def test_share_of_the_gain():
    before, direct = losses(6.0), losses(4.0, seed=1)
    found = share_of_gain(before, losses(5.0, seed=2), direct)
    assert found.value == pytest.approx(0.5, abs=0.02)  # measured: 0.498
    assert found.low < found.value < found.high
    assert share_of_gain(before, before, direct).value == 0
    assert share_of_gain(before, direct, direct).value == 1
    assert share_of_gain(before, direct, losses(6.1, seed=3)) is None, "nothing gained, nothing to share"


def test_comparison_is_paired_and_signed():
    mine, other = losses(4.0), losses(4.2, seed=1)
    assert compare("other", mine, other).reading == "better"
    assert compare("other", other, mine).reading == "worse"
    assert compare("other", mine, mine).reading == "not told apart"
    assert compare("other", mine, other).gain.value == pytest.approx(0.2, abs=0.02)
    alone = compare("other", mine, other).gain
    assert alone.high - alone.low < 0.1, "documents differ by a fifth; unpaired the interval would be 1 wide"


def test_losses_are_saved_and_loaded(tmp_path):
    one = losses(4.0)
    one.save(tmp_path)
    again = Losses.load(tmp_path)
    assert again.languages == one.languages
    for name in ("removed", "removed_tokens", "whole", "other", "tokens"):
        np.testing.assert_array_equal(getattr(again, name), getattr(one, name))


def test_reliance_leaves_out_documents_without_another_of_their_language():
    one = losses(4.0)
    other = one.other.copy()
    other[0] = np.nan
    found = replace(one, languages=["ko", *one.languages[1:]], other=other).reliance()
    assert list(found.points) == ["uk"]
    assert found.value == pytest.approx(1.0)
    assert replace(one, other=one.other * np.nan).reliance() is None

"""Every word of a verdict, a diagnosis, a ranking and the report, held against the figures that stand beside it.

The checks know nothing of the code: they read the figures out of the text, as a reader would, and see whether the words
follow from these. Figures are made up around every boundary: on it, a rounding away from it, a float away from it.
"""

from __future__ import annotations

import math
import re
from itertools import combinations_with_replacement, product
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

from polygraft.diagnosis.judge import Against, _decide, _reading
from polygraft.report import formats
from polygraft.report.files import Compared
from polygraft.report.verdict_view import _effect, _estimate
from polygraft.scoring.comparison import Comparison, Word
from polygraft.scoring.figures import apart, exactly, level, p_text, rounded
from polygraft.scoring.intervals import Estimate, ratio
from polygraft.scoring.words import sentence

MINUS = "\N{MINUS SIGN}"
NUMBER = rf"[+{MINUS}]?\d[\d.]*(?:e[+{MINUS}]\d+)?"
MARGIN = 0.05
ENDS = [
    -1e300, -3.0, -MARGIN - 1e-9, -MARGIN, np.nextafter(-MARGIN, 0), -0.0496, -0.0004, -1e-12, 0.0, 1e-300, 4e-4, 0.03,
    0.04996, MARGIN, np.nextafter(MARGIN, 1), 0.0504, 2.0, 1e9,
]  # fmt: skip
SHARES = {"plain": dict.fromkeys(("seconds", "flops", "tokens"), 0.0)}


def number(text: str) -> float:
    return float(text.replace(MINUS, "-"))


def interval(text: str) -> tuple[float, float, float]:
    """(level, low, high) of the first interval in a text."""
    found = re.search(rf"({NUMBER})% interval ({NUMBER}) to ({NUMBER})", text)
    assert found, text
    return number(found[1]), number(found[2]), number(found[3])


def word_of(low: float, high: float, better: int, margin: float | None) -> Word:
    """What an interval says, by the table in docs/verdict.md."""
    if margin is not None and -margin < low and high < margin:
        return "equivalent"
    if low <= 0 <= high:
        return "not enough evidence"
    return "helped" if (low > 0) == (better > 0) else "hurt"


def made_up(low: float, high: float, *, better=-1, margin=MARGIN, seeds=5, confidence=0.95, documents=40) -> Comparison:
    half = (high / 2 - low / 2) / special.stdtrit(7.0, (1 + confidence) / 2)
    effect = low / 2 + high / 2
    metric = "loss per reference token (nats)" if better < 0 else "chrF++"
    return Comparison(metric, better, confidence, margin, effect, half, 7.0, 2.0 + effect, 2.0, seeds, documents)


CASES = [
    (low, high, better, seeds)
    for (low, high), better, seeds in product(combinations_with_replacement(sorted(ENDS), 2), (-1, 1), (1, 2, 3, 5))
]


def spoken(found: Comparison, lead: Comparison) -> str:
    cost = {"new": SHARES["plain"], "old": SHARES["plain"]}
    return sentence(found, "new", "old", {"new": lead, "old": lead}, cost)


def test_the_sentence_says_what_its_interval_says():
    for low, high, better, seeds in CASES:
        margin = MARGIN if better < 0 else None
        found = made_up(low, high, better=better, margin=margin, seeds=seeds)
        said = spoken(found, found if better > 0 else made_up(1, 2, better=1, margin=None, seeds=seeds))
        first = said.partition(" The lead baseline")[0]
        percent, shown_low, shown_high = interval(first)
        assert percent == 95 and shown_low <= number(re.search(rf"difference ({NUMBER})", first)[1]) <= shown_high, said
        word = word_of(shown_low, shown_high, better, margin)
        if seeds < 3:
            check_few_seeds(first, word, seeds)
            continue
        starts = {
            "helped": "'new' helped: it is better than 'old' (", "hurt": "'new' hurt: it is worse than 'old' (",
            "equivalent": "'new' and 'old' are equivalent: the interval of their difference lies within ±0.05",
            "not enough evidence": "Not enough evidence that 'new' differs from 'old'",
        }  # fmt: skip
        assert first.startswith(starts[word]), first
        assert ("excludes 0" in first) == (word == "equivalent" and not shown_low <= 0 <= shown_high), first
        assert ("within ±0.05" in first) == (margin is not None and word in ("equivalent", "not enough evidence")), (
            first
        )
        assert ("Caution: 3 seeds" in first) == (seeds == 3)
        assert ("below 0 is better" in first, "above 0 is better" in first) == (better < 0, better > 0)


def check_few_seeds(first: str, word: Word, seeds: int) -> None:
    noun = "1 seed" if seeds == 1 else f"{seeds} seeds"
    assert first.startswith(f"Not enough evidence: with {noun} per arm, the noise between seeds is unknown. On 40 test")
    words = {
        "helped": "alone, 'new' looks better than 'old'", "hurt": "alone, 'new' looks worse than 'old'",
        "equivalent": "'new' and 'old' look equivalent", "not enough evidence": "'new' and 'old' cannot be told apart",
    }  # fmt: skip
    assert [words[key] in first for key in words] == [key == word for key in words], first


def test_the_lead_baseline_is_beaten_only_by_an_interval_above_it():
    for low, high, seeds in product(ENDS, ENDS, (2, 3)):
        if low > high:
            continue
        lead = made_up(low, high, better=1, margin=None, seeds=seeds, confidence=0.975)
        said = spoken(made_up(-1, 1), lead)
        text = said[said.index("The lead baseline") : said.index(" Adaptation cost")]
        arms = re.findall(
            rf"'(?:new|old)' ([^(]*) \(({NUMBER}), difference ({NUMBER}), ({NUMBER}% interval [^)]*)\)", text
        )
        assert len(arms) == 2, text
        for claim, _, effect, shown in arms:
            percent, shown_low, shown_high = interval(shown)
            assert percent == 97.5 and shown_low <= number(effect) <= shown_high
            word = word_of(shown_low, shown_high, 1, None)
            sure = {"helped": "beats it", "hurt": "falls short of it", "not enough evidence": "is not shown to beat it"}
            alone = {
                "helped": "looks better on these documents", "hurt": "looks worse on these documents",
                "not enough evidence": "is not shown to beat it",
            }  # fmt: skip
            assert claim == (sure if seeds >= 3 else alone)[word], text
        assert ("shows nothing yet" in text) == (" beats it" not in text)


@pytest.mark.parametrize("seeds", [1, 5])
def test_one_document_has_no_interval_and_no_claim(seeds):
    found = Comparison("loss", -1, 0.95, MARGIN, -1.0, math.inf, 1.0, 1.0, 2.0, seeds, 1)
    lead = Comparison("chrF++", 1, 0.95, None, 9.0, math.inf, 1.0, 30.0, 21.0, seeds, 1)
    said = spoken(found, lead)
    assert said.startswith("Not enough evidence") and "one document gives no interval" in said
    assert "is not shown to beat it (30.0, from one document)" in said
    assert "interval nan" not in said and "inf" not in said


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [((1, 1e12), (2, 1.1111e12), False), ((10, 0), (10, 0), False), ((10, 0), (11, 0), False),
     ((10, 0), (11.2, 0), True), ((0, 0), (1, 0), True),
     ((9, 1e12), (90, 1.05e12), False), ((10, 1.06e12), (10, 1.18e12), True), ((10, 0), (10, 1e12), False)],
)  # fmt: skip
def test_costs_are_said_to_differ_where_the_shown_ones_do(first, second, differ):
    cost = {name: {"seconds": s, "flops": f, "tokens": 0.0} for name, (s, f) in (("new", first), ("old", second))}
    lead = made_up(1, 2, better=1, margin=None)
    text = sentence(made_up(-1, 1), "new", "old", {"new": lead, "old": lead}, cost)
    text = text[text.index("Adaptation cost") :]
    assert ("differ by more than a tenth" in text) == differ, text
    if differ and "FLOPs" in text:
        a, b = (number(one) for one in re.findall(rf"({NUMBER}) FLOPs", text))
        assert abs(a - b) > 0.1 * max(a, b)


def test_the_page_says_what_the_sentence_says():
    for low, high, better, seeds in CASES:
        margin = MARGIN if better < 0 else None
        found = made_up(low, high, better=better, margin=margin, seeds=seeds, confidence=0.9875)
        item = Compared(
            treatment="new", control="old", metric=found.metric, word=found.word, better=better, effect=found.effect,
            low=found.low, high=found.high, confidence=found.confidence, margin=margin, p_value=found.p_value,
            p_value_holm=min(1.0, 4 * found.p_value), includes_seeds=found.includes_seeds,
        )  # fmt: skip
        effect, ends = _effect(item)
        shown = [number(one) for one in ends.split(" to ")]
        if seeds >= 3:
            assert item.word == word_of(*shown, better, margin), item
        assert shown[0] <= number(effect) <= shown[1]
        for ends_too, text in ((True, f"[{ends}]"), (False, "(98.75% interval)")):
            drawn = _estimate(item, {"new": 0}, ends_too)
            assert (drawn.low, drawn.high, drawn.text) == (found.low, found.high, f"{effect}  {text}")
        if abs(item.p_value_holm - 0.05) < 1e-9:  # an interval that ends at 0 but for the last digits of a float
            continue
        p = re.fullmatch(rf"(<|=) ({NUMBER})", formats.p_value(item.p_value_holm, 0.05))
        assert (number(p[2]) < 0.05 or p[1] == "<") == (not found.low <= 0 <= found.high), item


# ---------------------------------------------------------------- diagnose

GAINS = [-0.3, -0.0496, -0.0004, -1e-12, 0.0, 1e-12, 0.0004, 0.004, 0.3]


def against(name: str, low: float, high: float) -> Against:
    gain = Estimate((low + high) / 2, low, high)
    placebo = name.partition("+")[2] or None
    return Against(name=name, placebo=placebo, gain=gain, reading=_reading(gain), whole=gain)


def pairs_of(ends):
    return list(combinations_with_replacement(sorted(ends), 2))


def estimates(text: str) -> list[tuple[float, float, float]]:
    found = re.findall(rf"({NUMBER}) \(({NUMBER}) to ({NUMBER})\)", text)
    return [(number(value), number(low), number(high)) for value, low, high in found]


def final(low: float, high: float) -> SimpleNamespace:
    read = Estimate((low + high) / 2, low, high)
    return SimpleNamespace(reliance=lambda: SimpleNamespace(estimate=lambda: read))


def test_what_is_said_of_an_arm_beside_the_direct_one():
    for ends in pairs_of(GAINS):
        check_direct(ends)


def check_direct(ends: tuple[float, float]) -> None:
    decision, said = _decide("arm", final(1, 2), [against("direct", *ends), against("arm+random", 0.1, 0.2)], True)
    value, low, high = estimates(said)[0]
    assert low <= value <= high
    if "better than `direct` by" in said:
        assert low > 0 and decision == "go", said
    elif "worse on held-out text than `direct` by" in said:
        assert low > 0 and decision == "no-go", said  # by so much: shown as a positive size
    else:
        assert "are not told apart" in said and low <= 0 <= high and decision == "open", said


@pytest.mark.parametrize("kind", ["random", "untuned"])
@pytest.mark.parametrize("has_direct", [True, False])
def test_what_is_said_of_an_arm_beside_its_placebos(kind, has_direct):
    for ends in pairs_of(GAINS):
        check_placebos(ends, kind, has_direct)


def check_placebos(ends: tuple[float, float], kind: str, has_direct: bool) -> None:
    rivals = [against("arm+recentre", 0.1, 0.2), against(f"arm+{kind}", *ends)]
    rivals = [against("direct", 0.5, 0.7)] * has_direct + rivals
    decision, said = _decide("arm", final(1, 2), rivals, has_direct)
    beaten = re.search(rf"(?:beats|, )`?[^`]*`?,? ?`arm\+{kind}` by ({NUMBER} \([^)]*\))", said)
    if f"worse than `arm+{kind}` by" in said:
        ((_, low, _),) = estimates(said.partition(f"worse than `arm+{kind}` by")[2])[:1]
        assert low > 0 and ends[1] < 0, said
    elif f"not told apart from `arm+{kind}`" in said:
        _, low, high = estimates(said.partition(f"not told apart from `arm+{kind}`")[2])[0]
        assert low <= 0 <= high, said
    else:
        assert "It beats" in said and beaten, said
        assert estimates(beaten[1])[0][1] > 0, said
    won = ends[0] > 0
    assert decision == ("open" if not has_direct or not (won or kind == "untuned") else "go"), said
    for unearned in ("as good", "brought nothing", "equivalent", "no better"):
        assert unearned not in said


def test_what_is_said_of_reading_the_source():
    for ends in pairs_of([-0.1, 0.0, 0.0496, 0.04999, 0.05, 0.0501, 0.3]):
        check_reliance(ends)


def check_reliance(ends: tuple[float, float]) -> None:
    decision, said = _decide("arm", final(*ends), [against("direct", 0.1, 0.2)], True)
    if "hardly reads its source" in said:
        _, _, high = estimates(said)[0]
        assert decision == "no-go" and high < 0.05 and "less than 0.05" in said
    else:
        assert ends[1] >= 0.05


# ---------------------------------------------------------------- rank


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_of_candidates_beside_the_best(seed):
    from polygraft.ranking.recommend import _best
    from polygraft.ranking.report import CandidateReport

    rng = np.random.default_rng(seed)
    hard, ones = rng.gamma(3, 1, 30), np.ones(30)
    mains = {
        n: ratio(hard + shift + rng.normal(0, 0.2, 30), ones, ["uk"] * 30)
        for n, shift in zip("abcd", (0, 0.05, 0.1, 0.4), strict=True)
    }
    scored = {("source", name): SimpleNamespace(main=main) for name, main in mains.items()}
    reports = [CandidateReport(name=name, role="source") for name in mains]
    choice = _best(reports, scored, "source")
    fewest = min(mains, key=lambda name: mains[name].value)
    assert choice.reasons[0].startswith(f"{fewest} has the fewest of 4 sources")
    for reason in choice.reasons[1:]:
        found = re.search(rf"difference ({NUMBER}) \(({NUMBER}) to ({NUMBER})\), ({NUMBER})% interval", reason)
        if "cannot be told apart" in reason:
            assert number(found[2]) <= 0 <= number(found[3]) and 95 <= number(found[4]) < 99, reason
        elif reason.startswith("The next"):
            assert number(found[2]) > 0, reason
        else:
            costs = dict(re.findall(r"(\w) ([\d.]+)", reason.partition(":")[2]))
            winner = re.search(r"none is cheaper than (\w)", reason)[1]
            assert min(map(float, costs.values())) == float(costs[winner])


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("mark", [0.0, MARGIN, -MARGIN, 0.0512])
def test_rounding_keeps_sides(mark):
    for value in map(float, [*ENDS, *np.logspace(-20, 20, 41), *-np.logspace(-3, 3, 50), math.pi]):
        (text,) = rounded([value], marks=(mark,), least=2, signed=True)
        shown = number(text)
        assert (shown > mark, shown < mark) == (value > mark, value < mark)
        assert text == "0.00" or text[0] in f"+{MINUS}" or shown == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.95, "95%"), (0.9875, "98.75%"), (1 - 0.05 / 3, "98.33%"), (0.9999999, "99.99999%"), (0.6, "60%")],
)
def test_level(value, text):
    assert level(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (5.0, "5"), (0.1 + 0.2, "0.30000000000000004"), (1e-9, f"1e{MINUS}09")]
)
def test_exactly(value, text):
    assert exactly(value) == text


@pytest.mark.parametrize(
    ("value", "alpha", "text"),
    [(0.0, 0.05, "< 0.001"), (0.0499999, 0.05, "= 0.0499999"), (0.05, 0.05, "= 0.050"), (5e-5, 1e-4, "< 0.0001"),
     (2e-4, 1e-4, "= 0.0002"), (1.0, 0.05, "= 1.000")],
)  # fmt: skip
def test_p_text(value, alpha, text):
    assert p_text(value, alpha) == text


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [(8.02, 7.98, ("8.02", "7.98")), (8.0, 3.0, ("8.0", "3.0")), (0.0002, 0.0, ("0.0002", "0.0000"))],
)
def test_what_is_more_than_is_free_never_reads_as_equal(first, second, shown):
    assert apart(first, second) == shown


def test_an_effect_on_the_page_without_an_interval():
    assert formats.effect(-0.0004, None, None, 3) == ("0.000", formats.MISSING)
    assert formats.effect(-0.02, -0.04, -0.0002, 3, 0.05) == (f"{MINUS}0.0200", f"{MINUS}0.0400 to {MINUS}0.0002")

"""Which is recommended, and what is said: from made-up measurements."""

import re

import numpy as np
import pytest

from polygraft.ranking.pairs import Pair
from polygraft.ranking.recommend import recommend
from polygraft.ranking.report import CandidateReport, Figures
from polygraft.ranking.score import Scored, TokenCost
from polygraft.scoring.intervals import ratio

DOCUMENTS = 20


def candidate(name, role, bits, *, cost=10.0, codes=("uk_UA", "ko_KR"), reliance=1.0, licence="mit", noise=0.1, seed=0):
    """A report and its measurements: bits per character of 20 documents, noise around the same hard and easy ones."""
    random = np.random.default_rng([DOCUMENTS, seed])
    hardness = np.random.default_rng(0).normal(0, 0.5, 2 * DOCUMENTS)
    characters = np.full(2 * DOCUMENTS, 300.0)
    languages = ["uk"] * DOCUMENTS + ["ko"] * DOCUMENTS
    has = np.array([codes[language == "ko"] is not None for language in languages])
    known = [language for language, one in zip(languages, has, strict=True) if one]

    def made(mean, spread):
        values = mean + hardness + random.normal(0, spread, 2 * DOCUMENTS)
        return ratio((values * characters)[has], characters[has], known)

    main = None if bits is None else made(bits, noise)
    whole, rely = (made(2.0, noise), made(reliance, 0.1)) if role == "target" else (None, None)
    scored = Scored(
        cost=TokenCost(cost, 1.0),
        never_learned=np.zeros(0),
        main=main,
        whole=whole,
        reliance=rely,
        perplexity={"uk": 50.0, "ko": 50.0},
    )
    report = CandidateReport(
        name=name,
        role=role,
        model_type="kind",
        parameters=1000,
        vocabulary=8000,
        licence=licence,
        has_mlm_head=None if role == "target" else bits is not None,
        cost=scored.cost,
        figures=(
            figures("all", None, bits=main, whole=whole, reliance=rely),
            *(
                figures(language, code if role == "target" else None)
                for language, code in zip(("uk", "ko"), codes, strict=True)
            ),
        ),
    )
    return report, scored


def figures(language, code, bits=None, whole=None, reliance=None):
    bits, whole, reliance = (found.estimate() if found else None for found in (bits, whole, reliance))
    return Figures(
        language=language,
        tokens_per_word=2.0,
        characters_per_token=4.0,
        unknown_share=0.0,
        known_letters={},
        code=code,
        code_read=None if language == "all" else True,
        never_learned_share=0.0,
        bits_per_character=bits,
        perplexity=None,
        whole_bits_per_character=whole,
        source_reliance=reliance,
    )


def pair(source, target, repairable=0.3, precision=0.6, refused=None):
    if refused:
        return Pair(source=source, target=target, shared_share=0.1, alike_share=0.0, refused=refused)
    return Pair(
        source=source,
        target=target,
        shared_share=1.0,
        alike_share=1.0,
        heldout_r2=0.4,
        csls_precision_at_1=precision,
        fit_rows=500,
        repairable_share=repairable,
    )


def advise(*candidates, pairs=()):
    reports = [report for report, _ in candidates]
    return recommend(reports, {(r.role, r.name): scored for r, scored in candidates}, pairs, ["uk", "ko"])


def said(advice):
    return " ".join([advice.sentence, *advice.reasons, *advice.cautions])


def test_the_fewest_bits_win_where_they_can_be_told_apart():
    advice = advise(
        candidate("a", "source", 2.5, seed=1), candidate("b", "source", 2.2, cost=99, seed=2),
        candidate("c", "source", 3.0, cost=1, seed=3),
    )  # fmt: skip
    assert (advice.source, advice.target) == ("b", None)
    assert advice.sentence == "Start from b."
    assert "b has the fewest of 3 sources: 2." in advice.reasons[0]
    assert re.fullmatch(
        r"The next, a, has 2\.4\d \(difference \+0\.\d+ \(\+0\.\d+ to \+0\.\d+\), 95% interval\)\.", advice.reasons[1]
    )


def test_among_those_that_cannot_be_told_apart_the_cheapest_wins():
    advice = advise(
        candidate("a", "source", 2.21, cost=5, noise=0.5, seed=1), candidate("b", "source", 2.2, noise=0.5, seed=2),
        candidate("c", "source", 4.0, cost=1, noise=0.5, seed=3),
    )  # fmt: skip
    assert advice.source == "a"
    assert "cannot be told apart from it on these documents" in said(advice)
    assert "Of these, none is cheaper than a (TFLOP per million characters: a 1.25, b 2.5)." in advice.reasons


def test_source_and_target_and_what_a_transfer_has_to_do():
    both = [candidate("s", "source", 2.2), candidate("t", "target", 3.0)]
    advice = advise(*both, pairs=[pair("s", "t")])
    assert advice.sentence == "Start from t, with s as the source of a transfer."
    assert "30.0% of the text's tokens have rows that t never learned and s did" in said(advice)
    assert "the right token for 60% of them" in said(advice)
    assert "compare both arms with `polygraft run`" in advice.cautions[-1]
    assert "there is little for `transfer: {mode: repair}` to do" in said(advise(*both, pairs=[pair("s", "t", 0.001)]))


def test_a_source_that_does_not_map_into_the_target_is_left_out():
    target = candidate("t", "target", 3.0)
    better, worse = candidate("s", "source", 1.0), candidate("r", "source", 2.0)
    advice = advise(better, worse, target, pairs=[pair("s", "t", refused="no"), pair("r", "t")])
    assert (advice.source, advice.target) == ("r", "t")
    advice = advise(better, target, pairs=[pair("s", "t", refused="no")])
    assert (advice.source, advice.sentence) == (None, "Start from t.")
    assert "No source maps into t" in said(advice)


def test_a_target_that_knows_all_languages_goes_first():
    whole, part = candidate("t", "target", 4.0), candidate("u", "target", 3.0, codes=("uk_UA", None))
    advice = advise(part, whole)
    assert advice.target == "t"
    assert "u lacks a code for ko." in advice.reasons


def test_sources_without_a_head():
    headless, other = candidate("e5", "source", None), candidate("e6", "source", None)
    target = candidate("t", "target", 3.0)
    unknown = "How well e5 knows the text cannot be told: it has no MLM head of its own."
    advice = advise(headless, candidate("s", "source", 2.0), target, pairs=[pair("e5", "t"), pair("s", "t")])
    assert advice.source == "s" and unknown in advice.reasons
    advice = advise(headless, target, pairs=[pair("e5", "t")])
    assert advice.source == "e5" and unknown in advice.reasons
    advice = advise(headless, other, target, pairs=[pair("e5", "t", precision=0.2), pair("e6", "t", precision=0.5)])
    assert advice.source == "e6" and "No other maps better into the target than e6." in advice.reasons
    assert advise(headless, other).source is None


@pytest.mark.parametrize(
    ("settings", "caution"),
    [
        ({"reliance": 0.0}, "t is not shown to use its source"),
        ({"reliance": 0.2}, "t hardly uses its source"),
        ({"licence": None}, "t does not state a licence"),
        ({}, None),
    ],
)
def test_cautions(settings, caution):
    advice = advise(candidate("t", "target", 3.0, **settings))
    assert [caution in one for one in advice.cautions] == ([True] if caution else [])


def test_no_better_than_chance():
    report, scored = candidate("s", "source", 3.0)
    scored.perplexity["ko"] = 7900.0
    caution = "s is hardly better than chance, if at all (ko 12.9 bits per token, where a guess costs 13.0)."
    assert caution in advise((report, scored)).cautions


def test_nobody_left():
    advice = recommend([CandidateReport(name="s", role="source", refused="broken")], {}, [], ["uk"])
    assert (advice.source, advice.target, advice.reasons) == (None, None, ())
    assert advice.sentence == "None of the candidates can be recommended."

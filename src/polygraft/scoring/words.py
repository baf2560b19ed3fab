"""The sentence of a verdict: what was found, how sure it is, what it cost, and what it does not show.

Every word follows from the interval beside it, and figures are rounded only as far as they still show that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from polygraft.scoring.comparison import MIN_SEEDS, WANTED_SEEDS, Comparison
from polygraft.scoring.figures import exactly, level, rounded
from polygraft.scoring.forgetting import ALL, UNIT, Forgotten, whole_of
from polygraft.scoring.metrics import CHRF

COST_TOLERANCE = 0.1  # of the larger: costs that differ by more are said to
SUGGESTIONS = {
    "helped": "{} looks better than {}",
    "hurt": "{} looks worse than {}",
    "equivalent": "{} and {} look equivalent",
    "not enough evidence": "{} and {} cannot be told apart",
}


class Lead(NamedTuple):
    """What takes no model and is scored beside those that do: its name, in a verdict's sentence, and what it is."""

    name: str
    subject: str
    sentence: str


LEADS = {
    False: Lead(
        "lead baseline", "The lead baseline (the text's first words)",
        "The lead baseline is the beginning of the input; it needs no model.",
    ),
    True: Lead(
        "copied source", "The copied source (the text as it is, untranslated)",
        "The copied source is the input as it is, untranslated; it needs no model.",
    ),
}  # fmt: skip
"""By whether it is all of the input."""
AGAINST_LEAD = {"helped": "beats it", "hurt": "falls short of it", "not enough evidence": "is not shown to beat it"}
ALONE = {
    "helped": "looks better on these documents",
    "hurt": "looks worse on these documents",
    "not enough evidence": "is not shown to beat it",
}


def sentence(
    found: Comparison,
    treatment: str,
    control: str,
    lead: dict[str, Comparison],
    cost: Mapping[str, Mapping[str, float]],
    *,
    copied: bool = False,
    forgotten: Mapping[str, Mapping[str, Forgotten]] = {},
) -> str:
    """The primary comparison in plain words; `lead` compares each of the two arms with the lead baseline on chrF++.

    `cost` is per arm: its seconds, flops and tokens before fine-tuning. `copied`: the lead is all of the source.
    `forgotten` is per arm and language, of those that were measured.
    """
    parts = [_finding(found, f"'{treatment}'", f"'{control}'"), _caution(found), _lead(lead, LEADS[copied].subject)]
    parts += [_forgotten({arm: forgotten[arm] for arm in (treatment, control) if arm in forgotten})]
    parts.append(_cost(treatment, control, cost))
    return " ".join(part for part in parts if part)


def finding(found: Comparison, treatment: str, control: str) -> str:
    """A comparison alone, in plain words."""
    return " ".join(part for part in (_finding(found, treatment, control), _caution(found)) if part)


def _finding(found: Comparison, treatment: str, control: str) -> str:
    effect = _effect(found)
    if not found.includes_seeds:
        alone = SUGGESTIONS[found.suggestion].format(treatment, control)
        return (
            f"Not enough evidence: with {plural(found.seeds_per_arm, 'seed')} per arm, the noise between seeds is "
            f"unknown. On {plural(found.documents, 'test document')} alone, {alone} ({effect}). "
            f"Run at least {MIN_SEEDS} seeds, better {WANTED_SEEDS}."
        )
    if found.word == "equivalent":
        small = "" if found.low <= 0 <= found.high else ", though it excludes 0"
        return (
            f"{treatment} and {control} are equivalent: the interval of their difference lies within "
            f"±{exactly(found.margin or 0.0)}{small} ({effect})."
        )
    if found.word == "not enough evidence":
        or_alike = "" if found.margin is None else f" or that the two are within ±{exactly(found.margin)}"
        return f"Not enough evidence that {treatment} differs from {control}{or_alike} ({effect})."
    direction = "better" if found.word == "helped" else "worse"
    return f"{treatment} {found.word}: it is {direction} than {control} ({effect})."


def _effect(found: Comparison) -> str:
    metric = found.metric.split(" (")[0]
    good = "below 0 is better" if found.better < 0 else "above 0 is better"
    scores = found.treatment_score, found.control_score
    if not math.isfinite(found.low):
        first, second, effect = rounded([], [*scores, found.effect], least=3)
        return f"{metric} {first} against {second}, difference {effect}; one document gives no interval"
    margins = () if found.margin is None else (-found.margin, found.margin)
    low, high, effect = rounded([found.low, found.high], [found.effect], marks=(0.0, *margins), least=3, signed=True)
    first, second = rounded([], scores, least=3)
    return (
        f"{metric} {first} against {second}, difference {effect}, {level(found.confidence)} interval {low} to {high}, "
        f"{good}; {plural(found.documents, 'document')}, {plural(found.seeds_per_arm, 'seed')} per arm"
    )


def _caution(found: Comparison) -> str:
    if MIN_SEEDS <= found.seeds_per_arm < WANTED_SEEDS:
        return f"Caution: {found.seeds_per_arm} seeds per arm; a claim wants {WANTED_SEEDS}."
    return ""


def _lead(lead: dict[str, Comparison], name: str) -> str:
    """Each arm's generated text beside what takes no model."""
    (score,) = rounded([], [next(iter(lead.values())).control_score], least=1)
    arms = ", ".join(f"'{arm}' {_against_lead(against)}" for arm, against in lead.items())
    text = f"{name} has {CHRF.name} {score}: {arms}."
    if any(against.word == "helped" for against in lead.values()):
        return text
    return f"{text} So the generated text shows nothing yet: loss is the metric to go by."


def _against_lead(found: Comparison) -> str:
    says = AGAINST_LEAD[found.word] if found.includes_seeds else ALONE[found.suggestion]
    (score,) = rounded([], [found.treatment_score], least=1)
    if not math.isfinite(found.low):
        return f"{says} ({score}, from one document)"
    low, high, effect = rounded([found.low, found.high], [found.effect], least=1, signed=True)
    return f"{says} ({score}, difference {effect}, {level(found.confidence)} interval {low} to {high})"


def _forgotten(arms: Mapping[str, Mapping[str, Forgotten]]) -> str:
    """What adaptation did to the languages that the target knew, on average."""
    said = []
    for arm, by_language in arms.items():
        change, codes = whole_of(by_language).adapted, [code for code in by_language if code != ALL]
        known = change.low is not None and change.high is not None
        low, high, effect = rounded([change.low or 0.0, change.high or 0.0], [change.effect], least=3, signed=True)
        said.append(f"'{arm}' {effect}{f' ({low} to {high})' if known else ''}")
    return (
        f"Held-out loss of known languages ({', '.join(codes)}) by adaptation: {', '.join(said)} {UNIT}."
        if said
        else ""
    )


def _cost(treatment: str, control: str, cost: Mapping[str, Mapping[str, float]]) -> str:
    first, second = _spent(cost[treatment]), _spent(cost[control])
    text = f"Adaptation cost per seed: '{treatment}' {_in_words(first)}, '{control}' {_in_words(second)}"
    unit = "FLOPs" if float(first["FLOPs"]) and float(second["FLOPs"]) else "seconds"
    shown = sorted(float(spent[unit]) for spent in (first, second))
    if shown[1] - shown[0] > COST_TOLERANCE * shown[1]:
        text += f"; in {unit} these differ by more than a tenth"
    return text + "."


def _spent(amount: Mapping[str, float]) -> dict[str, str]:
    """The figures as they are shown, so that what is said of them is true of these."""
    seconds = f"{amount['seconds']:.3g}" if amount["seconds"] < 100 else f"{amount['seconds']:.0f}"
    return {"seconds": seconds, "FLOPs": f"{amount['flops']:.3g}"}


def _in_words(spent: dict[str, str]) -> str:
    said = [f"{spent['seconds']} s"] * (float(spent["seconds"]) > 0)
    said += [f"{spent['FLOPs']} FLOPs"] * (float(spent["FLOPs"]) > 0)
    return " and ".join(said) or "nothing"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

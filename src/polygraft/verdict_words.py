"""The sentence of a verdict: what was found, how sure it is, what it cost, and what it does not show."""

from __future__ import annotations

import math

from polygraft.comparison import MIN_SEEDS, WANTED_SEEDS, Comparison

COST_TOLERANCE = 0.1  # budgets that differ by more than this share are not equal


def sentence(
    found: Comparison,
    treatment: str,
    control: str,
    beats_lead: dict[str, bool],
    lead_chrf: float,
    cost: dict[str, dict[str, float]],
) -> str:
    """The primary comparison in plain words; `cost` is per arm, as `verdict.adaptation_cost` gives it."""
    parts = [_finding(found, treatment, control), _caution(found), _lead(beats_lead, lead_chrf)]
    parts.append(_cost(treatment, control, cost))
    return " ".join(part for part in parts if part)


def _finding(found: Comparison, treatment: str, control: str) -> str:
    effect = _effect(found, treatment, control)
    if not found.includes_seeds:
        seeds = _plural(found.seeds_per_arm, "seed")
        return (
            f"Not enough evidence: with {seeds} per arm, the noise between seeds is unknown. "
            f"{_suggestion(found, treatment, control)} ({effect}). "
            f"Run at least {MIN_SEEDS} seeds, better {WANTED_SEEDS}."
        )
    if found.word == "equivalent":
        small = ""
        if not found.low <= 0 <= found.high:
            small = " The difference is more than noise, but smaller than what was set to matter."
        return (
            f"'{treatment}' and '{control}' are equivalent: the difference lies within ±{found.margin:g} ({effect})."
            + small
        )
    if found.word == "not enough evidence":
        return (
            f"Not enough evidence that '{treatment}' differs from '{control}' or that they are equivalent ({effect})."
        )
    direction = "better" if found.word == "helped" else "worse"
    return f"'{treatment}' {found.word}: it is {direction} than '{control}' ({effect})."


def _suggestion(found: Comparison, treatment: str, control: str) -> str:
    alone = f"On {_plural(found.documents, 'test document')} alone, "
    return (
        alone
        + {
            "helped": f"'{treatment}' looks better than '{control}'",
            "hurt": f"'{treatment}' looks worse than '{control}'",
            "equivalent": f"'{treatment}' and '{control}' look equivalent",
            "not enough evidence": f"'{treatment}' and '{control}' cannot be told apart",
        }[found.suggestion]
    )


def _effect(found: Comparison, treatment: str, control: str) -> str:
    metric = found.metric.split(" (")[0]
    good = "below 0 is better" if found.better < 0 else "above 0 is better"
    values = (
        f"{metric} {found.treatment_score:.3f} against {found.control_score:.3f}, difference {_signed(found.effect)}"
    )
    if not math.isfinite(found.low):
        return f"{values}; one document gives no interval"
    return (
        f"{values}, {100 * found.confidence:g}% interval {_signed(found.low)} to {_signed(found.high)}, {good}; "
        f"{_plural(found.documents, 'document')}, {_plural(found.seeds_per_arm, 'seed')} per arm"
    )


def _caution(found: Comparison) -> str:
    if MIN_SEEDS <= found.seeds_per_arm < WANTED_SEEDS:
        return f"Caution: {found.seeds_per_arm} seeds per arm; a claim wants {WANTED_SEEDS}."
    return ""


def _lead(beats_lead: dict[str, bool], lead_chrf: float) -> str:
    baseline = f"the lead baseline (the text's first words, chrF++ {lead_chrf:.1f})"
    winners = [f"'{arm}'" for arm, beaten in beats_lead.items() if beaten]
    if not winners:
        return f"Neither arm beats {baseline}: the generated text proves nothing yet, loss is the metric to go by."
    if len(winners) == 1:
        return f"Only {winners[0]} beats {baseline}."
    return f"Both arms beat {baseline}."


def _cost(treatment: str, control: str, cost: dict[str, dict[str, float]]) -> str:
    first, second = cost[treatment], cost[control]
    text = f"Adaptation cost per seed: '{treatment}' {_spent(first)}, '{control}' {_spent(second)}"
    unit = "flops" if first["flops"] and second["flops"] else "seconds"
    if abs(first[unit] - second[unit]) > COST_TOLERANCE * max(first[unit], second[unit]):
        text += "; the budgets were not equal"
    return text + "."


def _spent(amount: dict[str, float]) -> str:
    if not any(amount.values()):
        return "nothing"
    seconds = f"{amount['seconds']:.3g} s" if amount["seconds"] < 100 else f"{amount['seconds']:.0f} s"
    return f"{seconds} and {amount['flops']:.2g} FLOPs" if amount["flops"] else seconds


def _signed(value: float) -> str:
    """Three decimals with a sign, so that the direction is never left to the reader; a rounded zero has none."""
    text = f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
    return text if text.strip("+\N{MINUS SIGN}0.") else "0.000"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

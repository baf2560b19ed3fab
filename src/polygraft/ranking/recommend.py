"""From measurements to one recommendation, with its reasons in plain words.

The target is chosen first, since it is what gets fine-tuned: of those that know all languages of the text, the one
that restores removed text at the fewest bits per character. Then the source: of those that map into that target, the
one with the fewest bits per character of hidden words. Whoever cannot be told apart from the best (paired over
documents, Holm-corrected at 5%: the interval shown is of the level that decides) may win by being cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polygraft.ranking.candidates import Role
from polygraft.ranking.notes import near_chance
from polygraft.ranking.pairs import Pair
from polygraft.ranking.report import CandidateReport, Recommendation
from polygraft.ranking.score import Scored
from polygraft.scoring.comparison import holm_levels
from polygraft.scoring.figures import level
from polygraft.scoring.intervals import Estimate

ALPHA = 0.05
LITTLE_TO_REPAIR = 0.01
WEAK_RELIANCE = 0.1  # of the loss on the whole original
MEASURE = {"source": "hidden words", "target": "removed text"}

AllScored = Mapping[tuple[Role, str], Scored]


@dataclass(frozen=True)
class _Choice:
    name: str | None
    reasons: tuple[str, ...]


def recommend(
    candidates: Sequence[CandidateReport], scored: AllScored, pairs: Sequence[Pair], languages: Sequence[str]
) -> Recommendation:
    """Recommend one source and one target, or say why there is none."""
    usable = [one for one in candidates if one.refused is None]
    targets = [one for one in usable if one.role == "target"]
    target = _choose_target(targets, scored, languages)
    sources = [one for one in usable if one.role == "source"]
    refused = {pair.source for pair in pairs if pair.target == target.name and pair.refused}
    fitting = [one for one in sources if one.name not in refused]
    source = _choose_source(fitting, scored, [pair for pair in pairs if pair.target == target.name])
    reasons = [*target.reasons, *source.reasons]
    if sources and not fitting:
        reasons.append(f"No source maps into {target.name}: the table says why.")
    by_name = {(one.role, one.name): one for one in usable}
    chosen = [by_name[key] for key in (("source", source.name), ("target", target.name)) if key in by_name]
    mapped = next((p for p in pairs if (p.source, p.target) == (source.name, target.name)), None)
    reasons += _transfer_reasons(mapped)
    cautions = [caution for one in chosen for caution in _cautions(one, scored[one.role, one.name])]
    if mapped is not None:
        cautions.append(
            "Whether the way through the source pays is not told by this: compare both arms with `polygraft run`."
        )
    return Recommendation(
        source=source.name,
        target=target.name,
        sentence=_sentence(source, target),
        reasons=tuple(reasons),
        cautions=tuple(cautions),
    )


def _sentence(source: _Choice, target: _Choice) -> str:
    if source.name and target.name:
        return f"Start from {target.name}, with {source.name} as the source of a transfer."
    if source.name or target.name:
        return f"Start from {source.name or target.name}."
    return "None of the candidates can be recommended."


def _choose_target(targets: Sequence[CandidateReport], scored: AllScored, languages: Sequence[str]) -> _Choice:
    if not targets:
        return _Choice(None, ())
    lacking = {
        one.name: [figure.language for figure in one.figures if figure.language in languages and figure.code is None]
        for one in targets
    }
    fewest = min(map(len, lacking.values()))
    able = [one for one in targets if len(lacking[one.name]) == fewest]
    choice = _best(able, scored, "target")
    left = [f"{one.name} lacks a code for {', '.join(lacking[one.name])}." for one in targets if one not in able]
    return _Choice(choice.name, (*choice.reasons, *left))


def _choose_source(sources: Sequence[CandidateReport], scored: AllScored, pairs: Sequence[Pair]) -> _Choice:
    headless = [one for one in sources if not one.has_mlm_head]
    unknown = [f"How well {one.name} knows the text cannot be told: it has no MLM head of its own." for one in headless]
    if len(headless) < len(sources):
        choice = _best([one for one in sources if one.has_mlm_head], scored, "source")
        return _Choice(choice.name, (*choice.reasons, *unknown))
    if len(sources) < 2:
        return _Choice(sources[0].name if sources else None, tuple(unknown))
    fit = {pair.source: pair.csls_precision_at_1 or 0.0 for pair in pairs}
    best = max(sources, key=lambda one: fit.get(one.name, 0.0))
    best_map = [f"No other maps better into the target than {best.name}."] if fit else []
    return _Choice(best.name if fit else None, (*unknown, *best_map))


def _best(candidates: Sequence[CandidateReport], scored: AllScored, role: Role) -> _Choice:
    """The fewest bits per character; among those that cannot be told apart from it, the cheapest."""
    found = {one.name: main for one in candidates if (main := scored[role, one.name].main) is not None}
    best, *others = sorted(found, key=lambda name: found[name].value)
    value = f"{found[best].estimate().text()} bits per character of {MEASURE[role]}"
    if not others:
        return _Choice(best, (f"{best} is the only {role} that can be compared: {value}.",))
    differences = {name: found[name].minus(found[best]) for name in others}
    levels = holm_levels([one.p_value() for one in differences.values()], ALPHA)
    apart = {name: differences[name].estimate(1 - one) for name, one in zip(others, levels, strict=True)}
    said = {name: _difference(apart[name], 1 - one) for name, one in zip(others, levels, strict=True)}
    alike = [name for name in others if (low := apart[name].low) is None or low <= 0]
    reasons = [f"{best} has the fewest of {len(found)} {role}s: {value}."]
    reasons += [f"{name} cannot be told apart from it on these documents {said[name]}." for name in alike]
    if not alike:
        reasons.append(f"The next, {others[0]}, has {found[others[0]].value:.2f} {said[others[0]]}.")
    by_name = {one.name: one for one in candidates}
    costs = {name: _cost(by_name[name]) for name in [best, *alike]}
    winner = min(costs, key=costs.__getitem__)
    if alike:
        shown = ", ".join(f"{name} {cost:.3g}" for name, cost in sorted(costs.items(), key=lambda item: item[1]))
        reasons.append(f"Of these, none is cheaper than {winner} (TFLOP per million characters: {shown}).")
    return _Choice(winner, tuple(reasons))


def _difference(apart: Estimate, confidence: float) -> str:
    interval = "one document gives no interval" if apart.low is None else f"{level(confidence)} interval"
    return f"(difference {apart.text(signed=True)}, {interval})"


def _cost(one: CandidateReport) -> float:
    """TFLOP per million characters: tokens of different tokenizers are not the same amount of text."""
    return one.cost.tflop / one.overall.characters_per_token if one.cost else 0.0


def _transfer_reasons(pair: Pair | None) -> list[str]:
    if pair is None or pair.repairable_share is None:
        return []
    share = f"{pair.repairable_share:.1%} of the text's tokens have rows that {pair.target} never learned and"
    if pair.repairable_share < LITTLE_TO_REPAIR:
        return [f"Only {share} {pair.source} did: there is little for `transfer: {{mode: repair}}` to do."]
    fit = f"its map explains {pair.heldout_r2:.0%} of the variance of rows that it was not fitted on, and finds the "
    right = f"right token for {pair.csls_precision_at_1:.0%} of them"
    return [f"{share} {pair.source} did, so that a transfer has something to give; {fit}{right}."]


def _cautions(one: CandidateReport, scored: Scored) -> list[str]:
    guessed = near_chance(one, scored)
    found = [f"{one.name} is hardly better than chance, if at all ({guessed})."] if guessed else []
    reliance, whole = one.overall.source_reliance, one.overall.whole_bits_per_character
    if reliance is not None and whole is not None:
        changes = f"with another document's, its loss changes by {reliance.text(signed=True)} bits per character"
        so = "a transfer into its encoder may not show"
        if reliance.low is not None and reliance.low <= 0:
            found.append(f"{one.name} is not shown to use its source ({changes}): {so}.")
        elif reliance.value < WEAK_RELIANCE * whole.value:
            found.append(f"{one.name} hardly uses its source ({changes}, of {whole.value:.2f}): {so}.")
    if one.licence is None:
        found.append(f"{one.name} does not state a licence: look it up before you publish anything made from it.")
    return found

"""The first section of the page: the verdict's word, sentence, effect, further comparisons and the cost of each arm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from polygraft.recipe.stages import ADAPTATION
from polygraft.report import plots
from polygraft.report.files import Compared, VerdictFile
from polygraft.report.folder import Arm, Run
from polygraft.report.formats import MISSING, effect, p_value, plain, plural
from polygraft.report.scores import language_title, lead_name
from polygraft.runs.costs import Cost, adaptation_cost
from polygraft.scoring.figures import level

# Word of a verdict: CSS class of its badge, and a sign that also stands without colour.
BADGES = {
    "helped": ("helped", "▲"),
    "hurt": ("hurt", "▼"),
    "equivalent": ("equivalent", "="),
    "not enough evidence": ("open", "?"),
}


def _pair(comparison: Compared) -> str:
    return f"{comparison.treatment} against {comparison.control}"


def _effect(comparison: Compared) -> tuple[str, str]:
    """The effect and its interval as text, the same wherever the page shows them."""
    return effect(comparison.effect, comparison.low, comparison.high, 3, comparison.margin)


def _estimate(comparison: Compared, arms: dict[str, int], ends_too: bool) -> plots.Drawn:
    """A row of the plot: the primary one with its interval in figures, the others (see the table) with its level."""
    text, ends = _effect(comparison)
    if ends != MISSING:
        text += f"  [{ends}]" if ends_too else f"  ({level(comparison.confidence)} interval)"
    return plots.Drawn(
        label=_pair(comparison),
        value=comparison.effect,
        low=comparison.low,
        high=comparison.high,
        arm=arms.get(comparison.treatment, 0),
        text=text,
    )


def _forest(verdict: VerdictFile, arms: dict[str, int]) -> Markup:
    """The primary effect and those of other arm pairs in the same unit."""
    same_unit = [item for item in verdict.comparisons if item.metric == verdict.metric]
    estimates = [_estimate(verdict, arms, ends_too=True)]
    estimates += [_estimate(item, arms, ends_too=False) for item in same_unit]
    said = "; ".join(f"{item.label}: {item.text}" for item in estimates)
    description = (
        f"Difference in {verdict.metric} with {level(verdict.confidence)} interval. {said}. "
        f"Margin ±{plain(verdict.margin)}."
    )
    axis = f"difference in {verdict.metric.partition(' (')[0]}"
    return plots.forest(
        "forest", estimates, axis=axis, better=verdict.better, description=description, margin=verdict.margin
    )


def _language_plots(verdict: VerdictFile, arms: dict[str, int]) -> list[Markup]:
    """A forest plot per score that the pair is compared by: all documents together, then each language."""
    whole = {item.metric: item for item in verdict.comparisons if _pair(item) == _pair(verdict)}
    whole[verdict.metric] = verdict
    drawn: list[Markup] = []
    for metric in dict.fromkeys(item.metric for item in verdict.languages):
        of_metric = [item for item in verdict.languages if item.metric == metric]
        estimates = [replace(_estimate(whole[metric], arms, ends_too=True), label="all documents")]
        estimates += [
            replace(_estimate(item, arms, ends_too=True), label=f"{language_title(item.language)} ({item.documents})")
            for item in of_metric
        ]
        said = "; ".join(f"{item.label}: {item.text}" for item in estimates)
        drawn.append(
            plots.forest(
                f"languages{len(drawn)}", estimates, axis=f"difference in {metric.partition(' (')[0]}",
                better=of_metric[0].better, description=f"Difference in {metric} by language. {said}.",
                margin=of_metric[0].margin,
            )
        )  # fmt: skip
    return drawn


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What an arm cost before fine-tuning, None where that is not known yet; a bar relative to the dearest, in %."""

    arm: Arm
    cost: Cost | None
    bar: int


def costs(run: Run) -> list[CostRow]:
    """The costs of all arms, as the verdict has them; of a run without one, those of arms that have spent them."""
    if run.verdict:
        found = {arm.name: run.verdict.cost.get(arm.name) for arm in run.arms}
    else:
        found = {arm.name: _spent(arm) for arm in run.arms}
    dearest = max((cost.seconds for cost in found.values() if cost), default=0.0)
    if not any(found.values()):
        return []
    return [
        CostRow(arm=arm, cost=cost, bar=round(100 * cost.seconds / dearest) if cost and dearest else 0)
        for arm in run.arms
        for cost in [found[arm.name]]
    ]


def _spent(arm: Arm) -> Cost | None:
    """An arm that has not spent all of its budget would look cheap; one that has run nothing would look free."""
    stages = [stage for seed_run in arm.runs for stage in seed_run.stages.values()]
    if not any(stage.record for stage in stages) or not all(s.finished for s in stages if s.name in ADAPTATION):
        return None
    return adaptation_cost([seed_run.folder for seed_run in arm.runs], list(arm.runs[0].stages))


def _basis(verdict: VerdictFile, alpha: float) -> list[str]:
    """The facts that a reader needs to weigh the verdict: seeds, documents, level, p, what the interval covers."""
    facts = [
        f"{plural(len(verdict.seeds), 'seed')} ({plain(verdict.seeds)})",
        f"{verdict.documents} test documents",
        f"{level(verdict.confidence)} interval",
    ]
    if verdict.p_value is not None:
        facts.append(f"p {p_value(verdict.p_value, alpha)} of no difference")
    if not verdict.includes_seeds:
        facts.append("the interval covers the choice of documents only, not of seeds")
    return facts


def _absence(run: Run) -> str:
    """Why there is no verdict, in one sentence."""
    if len(run.arms) < 2:
        return "This run has a single arm, so there is nothing to compare: its scores are below."
    if run.recipe.verdict is None:
        return "The recipe names no treatment and control (section verdict), so no verdict was drawn."
    return "The run has not reached its verdict yet. Run the recipe again to continue where it stopped."


def _with_lead(run: Run, verdict: VerdictFile) -> list[Compared]:
    """The comparisons with what takes no model, under the name that it has on the page."""
    return [item.model_copy(update={"control": lead_name(run)}) for item in verdict.lead.comparisons]


def verdict_view(run: Run) -> dict[str, Any]:
    """All that the template needs for the verdict."""
    verdict = run.verdict
    if verdict is None:
        nothing: dict[str, Any] = {"given": None, "badge": "open", "comparisons": [], "languages": []}
        return nothing | {"sentence": _absence(run), "costs": costs(run)}
    arms = {arm.name: arm.index for arm in run.arms}
    badge, sign = BADGES[verdict.word]
    text, ends = _effect(verdict)
    alpha = 1 - verdict.confidence
    return {
        "given": verdict,
        "badge": badge,
        "sign": sign,
        "sentence": verdict.sentence,
        "effect": text,
        "interval": ends,
        "pair": _pair(verdict),
        "direction": "below 0 favours" if verdict.better < 0 else "above 0 favours",
        "basis": _basis(verdict, alpha),
        "forest": _forest(verdict, arms),
        "languages": _language_plots(verdict, arms),
        "comparisons": [(item, *_effect(item)) for item in [*verdict.comparisons, *_with_lead(run, verdict)]],
        "alpha": alpha,
        "costs": costs(run),
    }

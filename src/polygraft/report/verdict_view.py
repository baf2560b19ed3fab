"""The first section of the page: the verdict's word, sentence, effect, further comparisons and the cost of each arm."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from polygraft.report import plots
from polygraft.report.folder import Run, Stage, mapping, number
from polygraft.report.formats import MISSING, count, effect, flops, p_value, plain, plural, seconds
from polygraft.scoring.figures import level

# Word of a verdict: CSS class of its badge, and a sign that also stands without colour.
BADGES = {
    "helped": ("helped", "▲"),
    "hurt": ("hurt", "▼"),
    "equivalent": ("equivalent", "="),
    "not enough evidence": ("open", "?"),
}


def lower_is_better(comparison: dict[str, Any]) -> bool:
    """Whether a negative effect favours the treatment: as `better` says, else true of losses only."""
    better = number(comparison.get("better"))
    return better < 0 if better is not None else "loss" in str(comparison.get("metric", "")).lower()


def _comparisons(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """All but the primary one: pairs of arms, then arms against the lead baseline."""
    found = [verdict.get("comparisons"), mapping(verdict.get("lead")).get("comparisons")]
    items = [mapping(item) for part in found if isinstance(part, list) for item in part if isinstance(item, dict)]
    return [item for item in items if not _is_primary(item, verdict)]


def _pair(comparison: dict[str, Any]) -> str:
    return f"{comparison.get('treatment', MISSING)} against {comparison.get('control', MISSING)}"


def _is_primary(comparison: dict[str, Any], verdict: dict[str, Any]) -> bool:
    return all(comparison.get(key) == verdict.get(key) for key in ("treatment", "control", "metric"))


def _level(comparison: dict[str, Any]) -> str:
    confidence = number(comparison.get("confidence"))
    return "" if confidence is None else level(confidence)


def _effect(comparison: dict[str, Any]) -> tuple[str, str]:
    """The effect and its interval as text, the same wherever the page shows them."""
    value, low, high = (comparison.get(key) for key in ("effect", "low", "high"))
    return effect(value, low, high, 3, comparison.get("margin"))


def _estimate(comparison: dict[str, Any], arms: dict[str, int], ends_too: bool) -> plots.Estimate | None:
    """A row of the plot: the primary one with its interval in figures, the others (see the table) with its level."""
    value = number(comparison.get("effect"))
    if value is None:
        return None
    text, ends = _effect(comparison)
    low, high = number(comparison.get("low")), number(comparison.get("high"))
    if ends != MISSING:
        text += f"  [{ends}]" if ends_too else f"  ({_level(comparison)} interval)"
    arm = arms.get(str(comparison.get("treatment")), 0)
    return plots.Estimate(_pair(comparison), value, low, high, arm, text)


def _forest(run: Run) -> Markup | None:
    """The primary effect and those of other arm pairs in the same unit."""
    verdict = run.verdict
    arms = {arm.name: arm.index for arm in run.arms}
    same_unit = [item for item in _comparisons(verdict) if item.get("metric") == verdict.get("metric")]
    first = _estimate(verdict, arms, ends_too=True)
    if first is None:
        return None
    estimates = [first, *(estimate for item in same_unit if (estimate := _estimate(item, arms, ends_too=False)))]
    better = "left" if lower_is_better(verdict) else "right"
    said = "; ".join(f"{item.label}: {item.text}" for item in estimates)
    margin = number(verdict.get("margin"))
    metric = str(verdict.get("metric", "effect"))
    description = f"Difference in {metric} with {_level(verdict)} interval. {said}. Margin ±{plain(margin)}."
    return plots.forest("forest", estimates, margin, f"difference in {metric.partition(' (')[0]}", better, description)


def _comparison_rows(run: Run) -> list[dict[str, str]]:
    alpha = _alpha(run.verdict)
    rows = []
    for item in _comparisons(run.verdict):
        text, ends = _effect(item)
        rows.append(
            {
                "pair": _pair(item),
                "metric": str(item.get("metric", MISSING)),
                "effect": text,
                "interval": ends,
                "level": _level(item) if ends != MISSING else "",
                "p": p_value(item.get("p_value_holm"), alpha).removeprefix("= "),
                "better": "lower is better" if lower_is_better(item) else "higher is better",
                "word": str(item.get("word", MISSING)),
                "badge": BADGES.get(str(item.get("word")), ("open", ""))[0],
            }
        )
    return rows


def _alpha(verdict: dict[str, Any]) -> float:
    confidence = number(verdict.get("confidence"))
    return 0.05 if confidence is None else 1 - confidence


def _measured_cost(stages: list[Stage]) -> dict[str, float]:
    """As verdict.json counts: all stages before fine-tuning, mean over seeds; for runs that have no verdict."""
    spent = [stage for stage in stages if stage.name in ("adapt", "transfer", "warm_up", "adapt_target")]
    seeds = len({stage.seed for stage in stages})
    # An arm that has not spent all of its budget would look cheap; one that has run nothing would look free.
    if not all(stage.finished for stage in spent) or not any(stage.record for stage in stages):
        return {}
    cost = {"seconds": sum(number(stage.record.get("seconds")) or 0.0 for stage in spent) / seeds}
    for key in ("flops", "tokens"):
        cost[key] = sum(number(stage.result.get(key)) or 0.0 for stage in spent) / seeds
    return cost


def costs(run: Run) -> list[dict[str, Any]]:
    """What each arm cost before fine-tuning: rows with bars relative to the dearest."""
    stated = mapping(run.verdict.get("cost"))
    rows: list[dict[str, Any]] = []
    for arm in run.arms:
        measured = _measured_cost([stage for seed_run in arm.runs for stage in seed_run.stages])
        cost = mapping(stated.get(arm.name)) if stated else measured
        rows.append({"name": arm.name, "arm": arm.index, "cost": cost})
    if not any(row["cost"] for row in rows):
        return []
    dearest = max((number(row["cost"].get("seconds")) or 0.0 for row in rows), default=0.0)
    for row in rows:
        cost = row.pop("cost")
        row["seconds"], row["tokens"] = seconds(cost.get("seconds")), count(cost.get("tokens"))
        row["flops"] = flops(cost.get("flops"))
        row["bar"] = round(100 * (number(cost.get("seconds")) or 0.0) / dearest) if dearest else 0
    return rows


def _basis(run: Run) -> list[str]:
    """The facts that a reader needs to weigh the verdict: seeds, documents, level, p, what the interval covers."""
    verdict = run.verdict
    seeds = verdict.get("seeds")
    facts = []
    if isinstance(seeds, list) and seeds:
        facts.append(f"{plural(len(seeds), 'seed')} ({plain(seeds)})")
    if number(verdict.get("documents")) is not None:
        facts.append(f"{plain(verdict['documents'])} test documents")
    if _level(verdict):
        facts.append(f"{_level(verdict)} interval")
    if number(verdict.get("p_value")) is not None:
        facts.append(f"p {p_value(verdict['p_value'], _alpha(verdict))} of no difference")
    if verdict.get("includes_seeds") is False:
        facts.append("the interval covers the choice of documents only, not of seeds")
    return facts


def _absence(run: Run) -> str:
    """Why there is no verdict, in one sentence."""
    if len(run.arms) < 2:
        return "This run has a single arm, so there is nothing to compare: its scores are below."
    if not mapping(run.recipe.get("verdict")):
        return "The recipe names no treatment and control (section verdict), so no verdict was drawn."
    return "The run has not reached its verdict yet. Run the recipe again to continue where it stopped."


def verdict_view(run: Run) -> dict[str, Any]:
    """All that the template needs for the verdict."""
    word = str(run.verdict.get("word") or "")
    badge, sign = BADGES.get(word, ("open", ""))
    text, ends = _effect(run.verdict)
    return {
        "given": bool(word),
        "word": word,
        "badge": badge,
        "sign": sign,
        "sentence": str(run.verdict.get("sentence") or "") if word else _absence(run),
        "effect": text,
        "interval": ends,
        "has_effect": text != MISSING,
        "metric": str(run.verdict.get("metric", "")),
        "pair": _pair(run.verdict),
        "direction": "below 0 favours" if lower_is_better(run.verdict) else "above 0 favours",
        "treatment": str(run.verdict.get("treatment", "")),
        "basis": _basis(run) if word else [],
        "forest": _forest(run) if word else None,
        "comparisons": _comparison_rows(run),
        "costs": costs(run),
    }

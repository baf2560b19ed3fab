"""Rules across the sections of a recipe, which no single section can check."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from polygraft.recipe.problems import Finding, nearest_key, shown
from polygraft.recipe.stages import BEFORE_TARGET, UNITS
from polygraft.scoring.metrics import LOSS, METRICS
from polygraft.settings import BALANCE_NEEDS, Forgetting, PairData, TextData
from polygraft.transfers.methods import DEFAULT_METHOD, METHODS, Method

TEXT_STAGES = ("adapt", "warm_up", "adapt_target")


def arm_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Rules across the sections of one arm's merged data (not yet validated: sections may be of any type)."""
    adapt, transfer = data.get("adapt"), data.get("transfer")
    if adapt is not None and not data.get("source"):
        yield Finding(("adapt",), "needs `source`, the masked language model that it trains")
    if adapt is not None and not data.get("text"):
        yield Finding(("adapt",), "needs `text`, what it trains on")
    if adapt is not None and transfer is None:
        yield Finding(("adapt",), "its result is not used: add `transfer`, or leave `adapt` out")
    if isinstance(transfer, Mapping) and (method := _method(transfer)) is not None:
        yield from _transfer_rules(data, method)
    for stage in TEXT_STAGES[1:]:
        if data.get(stage) is not None and not data.get("text"):
            yield Finding((stage,), "needs `text`, what it trains on")
    encoder = isinstance(transfer, Mapping) and (method := _method(transfer)) and method.replaces_encoder
    if data.get("warm_up") is not None and not encoder:
        yield Finding(("warm_up",), "needs `transfer: {method: encoder}`, whose bridge it trains")
    yield from _budget_rules(data)
    yield from _language_rules(data)
    yield from _balance_rules(data)
    pairs = data.get("pairs")
    if isinstance(pairs, Mapping) and pairs.get("train_file") is None:
        meaning = str(PairData.model_fields["train_file"].description).rstrip(".")
        yield Finding(("pairs", "train_file"), f"is missing ({meaning})")
    if isinstance(pairs, Mapping) and not pairs.get("test_file"):
        yield Finding(("pairs", "test_file"), "is missing: `evaluate` needs pairs that training never sees")


def _method(section: Mapping[str, Any]) -> Method | None:
    """The method that a section names, with its settings, be they valid or not; None where there is none."""
    kind = METHODS.get(str(section.get("method", DEFAULT_METHOD)))
    return None if kind is None else kind.model_construct(**{str(key): value for key, value in section.items()})


def _transfer_rules(data: Mapping[str, Any], method: Method) -> Iterator[Finding]:
    """What a method needs has to be there."""
    adapt, needs, (key, kind) = data.get("adapt"), method.needs, method.variant
    place = ("transfer", key)
    if adapt is not None and not needs.source:
        yield Finding(("adapt",), f"its result is not used: transfer {key} `{kind}` takes nothing from the source")
    if needs.source and not data.get("source"):
        yield Finding(place, "needs `source`, the model to transfer from", kind)
    if needs.adaptation and adapt is None:
        yield Finding(place, "needs `adapt`: it moves what adaptation changed in the source", kind)
    if needs.adapter and isinstance(adapt, Mapping) and not adapt.get("adapter"):
        yield Finding(place, "needs `adapt.adapter`, which it carries across", kind)
    if needs.text and not data.get("text"):
        yield Finding(place, "needs `text`, on which the two models are compared", kind)


def _language_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Texts and inputs are in some language, which mBART has to be told."""
    sections = (("text", "lang", TextData), ("pairs", "source_lang", PairData), ("forgetting", "lang", Forgetting))
    for name, key, kind in sections:
        section = data.get(name)
        if not isinstance(section, Mapping) or section.get(key) is not None or section.get(f"{key}_column"):
            continue
        if nearest_key(key, set(map(str, section)) - set(kind.model_fields)) is None:  # a misspelt one is told already
            yield Finding((name, key), f"is missing: mBART has to be told; give it (uk, uk_UA) or `{key}_column`")


def _balance_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Languages that are balanced have to be told apart."""
    for name, kind, stages in (("text", TextData, TEXT_STAGES), ("pairs", PairData, ("finetune",))):
        section = data.get(name)
        if not isinstance(section, Mapping) or kind.model_construct(**section).language_columns:
            continue
        for stage in stages:
            asked = data[stage].get("sampling_temperature", 1) if isinstance(data.get(stage), Mapping) else 1
            if asked != 1:
                yield Finding((stage, "sampling_temperature"), BALANCE_NEEDS, shown(asked))


def _budget_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Exactly one of `adaptation_budget` and `adapt_target.budget`; and the first has to last for all stages."""
    total, target = data.get("adaptation_budget"), data.get("adapt_target")
    sections = {stage: data[stage] for stage in ("adapt", "transfer", "warm_up", "finetune") if stage in data}
    for stage, section in sections.items():
        trains = isinstance(section, Mapping) and (stage != "transfer" or hasattr(_method(section), "budget"))
        if trains and section.get("budget") is None:
            yield Finding((stage, "budget"), "is missing (How long to train)")
    if isinstance(target, Mapping) and (total is None) == (target.get("budget") is None):
        reason = "is missing (How long to train): give it, or `adaptation_budget`, of which it is then the rest"
        if total is not None:
            reason = "leave it out: it is what the earlier stages leave of `adaptation_budget`; or make that null"
        yield Finding(("adapt_target", "budget"), reason)
    for unit, amount in total.items() if isinstance(total, Mapping) else ():
        place, value = ("adaptation_budget", str(unit)), shown(amount)
        if unit in ("epochs", "steps"):
            reason = f"{unit} of two models differ in cost, so that they have no sum: give flops, minutes or tokens"
            yield Finding(place, reason, value)
        asked = {stage: _amount(data.get(stage), unit) for stage in BEFORE_TARGET}
        given, most = sum(asked.values()), _amount({"budget": total}, unit)
        if unit in UNITS and most and (given > most or (given == most and target is not None)):
            stages = " and ".join(f"{stage}.budget ({budget:g})" for stage, budget in asked.items() if budget)
            reason = f"is exceeded by {stages}" if given > most else f"is spent by {stages} before `adapt_target`"
            yield Finding(place, f"{reason}: raise it, or lower theirs", value)


def _amount(section: Any, unit: str) -> float:
    """What a section's budget says in that unit; 0 where it says nothing that could be counted."""
    budget = section.get("budget") if isinstance(section, Mapping) else None
    amount = budget.get(unit) if isinstance(budget, Mapping) else None
    return amount if isinstance(amount, int | float) and not isinstance(amount, bool) else 0.0


_RESERVED = {"recipe", "verdict", "diagnose", "report", "con", "nul", "aux", "prn"}
SHARED_KEYS = (
    "version",
    "name",
    "output_dir",
    "seeds",
    "data_seed",
    "report_to",
    "diagnose",
    "forgetting",
    "arms",
    "verdict",
)
"""What all arms of a recipe have in common."""


def recipe_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Rules on what all arms share: the name, the seeds, the arms' names, and the verdict's two arms."""
    name, seeds = data.get("name"), data.get("seeds")
    if isinstance(name, str) and not re.fullmatch(r"\w[\w.-]{0,99}", name):
        reason = "must be a folder name: letters, digits, `-`, `_` and `.`"
        yield Finding(("name",), reason, shown(name))
    if isinstance(seeds, list):
        yield from _seed_rules(seeds)
    arms = data.get("arms") or {}
    if not isinstance(arms, Mapping):
        return
    folders: dict[str, str] = {}
    for arm, overrides in arms.items():
        path = ("arms", str(arm))
        if not re.fullmatch(r"\w[\w-]{0,63}", str(arm)) or str(arm).lower() in _RESERVED:
            yield Finding(path, "an arm's name must be a folder name: letters, digits, `-` and `_`")
        twin = folders.setdefault(str(arm).lower(), str(arm))
        if twin != str(arm):
            yield Finding(path, f"differs from arm `{twin}` in capitals only; some disks take them for one folder")
        for key in SHARED_KEYS if isinstance(overrides, Mapping) else ():
            if key in overrides:
                reason = "is the same in all arms: set it at the top of the recipe"
                yield Finding((*path, key), reason, shown(overrides[key]))
    yield from _verdict_rules(data.get("verdict"), [str(arm) for arm in arms] or ["main"])


def _seed_rules(seeds: list[Any]) -> Iterator[Finding]:
    if not seeds:
        yield Finding(("seeds",), "give at least one seed", "[]")
    for index, seed in enumerate(seeds):
        path = ("seeds", str(index))
        if isinstance(seed, bool):
            continue
        if seed in seeds[:index]:
            yield Finding(path, "the same seed twice would count one run as two", shown(seed))
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            yield Finding(path, "must be between 0 and 4294967295", shown(seed))


def _verdict_rules(verdict: Any, arms: list[str]) -> Iterator[Finding]:
    if not isinstance(verdict, Mapping):
        return
    for role in ("treatment", "control"):
        arm = verdict.get(role)
        if isinstance(arm, str) and arm not in arms:
            near = difflib.get_close_matches(arm.lower(), arms, n=1)
            reason = f"no such arm; did you mean `{near[0]}`?" if near else f"no such arm; arms: {', '.join(arms)}"
            yield Finding(("verdict", role), reason, arm)
    yield from _metric_rules(verdict.get("metrics"))
    if verdict.get("treatment") is not None and verdict.get("treatment") == verdict.get("control"):
        yield Finding(("verdict", "control"), "must be another arm than the treatment", shown(verdict["control"]))


def _metric_rules(names: Any) -> Iterator[Finding]:
    """Scores of generated text in which one direction is better."""
    valid = [name for name, metric in METRICS.items() if metric.of != "loss" and metric.better]
    for index, name in enumerate(names if isinstance(names, list) else ()):
        path = ("verdict", "metrics", str(index))
        if isinstance(name, str) and name not in valid:
            near = difflib.get_close_matches(name.lower(), valid, n=1)
            loss = METRICS.get(name) is LOSS
            reason = f"did you mean `{near[0]}`?" if near else f"scores: {', '.join(valid)}"
            reason = "decides the verdict anyway: leave it out" if loss else f"no such score to compare by; {reason}"
            yield Finding(path, reason, name)
        elif name in names[:index]:
            yield Finding(path, "is named twice", shown(name))

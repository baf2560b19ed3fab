"""Rules across the sections of a recipe, which no single section can check."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from polygraft.recipe.problems import Finding, nearest_key, shown
from polygraft.run.budget import EARLIER_STAGES, UNITS
from polygraft.settings import PairData, TextData
from polygraft.transfer.methods import DEFAULT_METHOD

MOVES_A_CHANGE, TAKES_NOTHING = ("delta", "bottleneck", "distill"), ("recentre", "none")
"""Modes and methods that need the source before and after adaptation, and those that need none."""


def arm_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Rules across the sections of one arm's merged data (not yet validated: sections may be of any type)."""
    adapt, transfer = data.get("adapt"), data.get("transfer")
    section = transfer if isinstance(transfer, Mapping) else {}
    method = section.get("method") or DEFAULT_METHOD
    mode = (section.get("mode") or "repair") if method == DEFAULT_METHOD else None
    key, kind = ("mode", str(mode)) if mode else ("method", str(method))
    takes_nothing = kind in TAKES_NOTHING
    if adapt is not None and not data.get("source"):
        yield Finding(("adapt",), "needs `source`, the masked language model that it trains")
    if adapt is not None and not data.get("text"):
        yield Finding(("adapt",), "needs `text`, what it trains on")
    if adapt is not None and transfer is None:
        yield Finding(("adapt",), "its result is not used: add `transfer`, or leave `adapt` out")
    if adapt is not None and transfer is not None and takes_nothing:
        yield Finding(("adapt",), f"its result is not used: transfer {key} `{kind}` takes nothing from the source")
    if transfer is not None and not takes_nothing and not data.get("source"):
        yield Finding(("transfer", key), "needs `source`, the model to transfer from", kind)
    if transfer is not None and kind in MOVES_A_CHANGE and adapt is None:
        yield Finding(("transfer", key), "needs `adapt`: it moves what adaptation changed in the source", kind)
    if method == "bottleneck" and isinstance(adapt, Mapping) and not adapt.get("adapter"):
        yield Finding(("transfer", key), "needs `adapt.adapter`, which it carries across", kind)
    if transfer is not None and mode is None and not takes_nothing and not data.get("text"):
        what = "on which the map is trained" if kind == "map" else "on which the two models are compared"
        yield Finding(("transfer", key), f"needs `text`, {what}", kind)
    for stage in ("warm_up", "adapt_target"):
        if data.get(stage) is not None and not data.get("text"):
            yield Finding((stage,), "needs `text`, what it trains on")
    if data.get("warm_up") is not None and method != "encoder":
        yield Finding(("warm_up",), "needs `transfer: {method: encoder}`, whose bridge it trains")
    yield from _budget_rules(data)
    yield from _language_rules(data)
    pairs = data.get("pairs")
    if isinstance(pairs, Mapping) and not pairs.get("test_file"):
        yield Finding(("pairs", "test_file"), "is missing: `evaluate` needs pairs that training never sees")


def _language_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Texts and inputs are in some language, which mBART has to be told."""
    for name, key, kind in (("text", "lang", TextData), ("pairs", "source_lang", PairData)):
        section = data.get(name)
        if not isinstance(section, Mapping) or section.get(key) is not None or section.get(f"{key}_column"):
            continue
        if nearest_key(key, set(map(str, section)) - set(kind.model_fields)) is None:  # a misspelt one is told already
            yield Finding((name, key), f"is missing: mBART has to be told; give it (uk, uk_UA) or `{key}_column`")


def _budget_rules(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Exactly one of `adaptation_budget` and `adapt_target.budget`; and the first has to last for all stages."""
    total, target = data.get("adaptation_budget"), data.get("adapt_target")
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
        asked = {stage: _amount(data.get(stage), unit) for stage in EARLIER_STAGES}
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
SHARED_KEYS = ("name", "output_dir", "seeds", "diagnose", "arms", "verdict")
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
    if verdict.get("treatment") is not None and verdict.get("treatment") == verdict.get("control"):
        yield Finding(("verdict", "control"), "must be another arm than the treatment", shown(verdict["control"]))

"""The transfer's section: where every tensor and token class comes from, and what each diagnostic says."""

from __future__ import annotations

from dataclasses import dataclass

from polygraft.report.files import PlanEntry, PlanFile
from polygraft.report.folder import Arm, Run, SeedRun
from polygraft.report.formats import MISSING, decimal, plain
from polygraft.transfers.methods import METHODS

_NO_EXPLANATION = "As recorded by the transfer method; see docs/methods.md."


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """A figure by arm, a single one where all arms agree; and a sentence on it before the first of one kind."""

    name: str
    values: list[str]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Tensors that are taken as a whole from one place."""

    origin: str
    transform: str
    reason: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """The transfer of an arm under the seeds that have one: its settings, the plan of the first, figures by seed."""

    arm: Arm
    method: str
    mode: str
    seeds: list[int]
    plan: PlanFile
    by_seed: list[dict[str, int | float]]


@dataclass(frozen=True, kw_only=True)
class MethodShown:
    """The arms that transfer by one method: figures beside each other, and plans, each line once with its arms."""

    method: str
    arms: list[Transferred]
    diagnostics: list[Diagnostic]
    warnings: list[str]
    by_row: list[tuple[PlanEntry, list[Arm]]]
    whole: list[tuple[Whole, list[Arm]]]
    ties: list[str]


def transfers(run: Run) -> list[MethodShown]:
    """The transfers of the arms that have got that far, method by method."""
    by_method: dict[str, list[Transferred]] = {}
    for arm in run.arms:
        if done := [(one, one.plan) for one in arm.runs if one.plan]:
            found = _transferred(arm, done)
            by_method.setdefault(found.method, []).append(found)
    return [
        MethodShown(
            method=method,
            arms=arms,
            diagnostics=_diagnostics(arms, method),
            warnings=[f"{one.arm.name}: {said}" for one in arms for said in one.plan.warnings],
            by_row=_by_row(arms),
            whole=_whole(arms),
            ties=list(dict.fromkeys(tie for one in arms for tie in _ties(one.plan))),
        )
        for method, arms in by_method.items()
    ]


def _transferred(arm: Arm, runs: list[tuple[SeedRun, PlanFile]]) -> Transferred:
    first, plan = runs[0]
    settings = first.stages["transfer"].record.settings if first.stages["transfer"].record else {}
    return Transferred(
        arm=arm,
        method=settings["method"],
        mode=settings.get("mode", ""),
        seeds=[one.seed for one, _ in runs],
        plan=plan,
        by_seed=[{**plan.figures, **one.diagnostics} for one, plan in runs],
    )


def _by_row(arms: list[Transferred]) -> list[tuple[PlanEntry, list[Arm]]]:
    """What is said of rows, those of one kind of token together."""
    found: dict[PlanEntry, list[Arm]] = {}
    for one in arms:
        for entry in one.plan.entries:
            if entry.rows is not None:
                found.setdefault(entry, []).append(one.arm)
    kinds = list(dict.fromkeys(_kind(entry) for entry in found))
    return sorted(found.items(), key=lambda item: (kinds.index(_kind(item[0])), len(item[1])))


def _kind(entry: PlanEntry) -> str:
    """ "text tokens" of "text tokens, mapped"."""
    return entry.token_class.partition(",")[0]


def _whole(arms: list[Transferred]) -> list[tuple[Whole, list[Arm]]]:
    found: dict[Whole, list[Arm]] = {}
    for one in arms:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for entry in one.plan.entries:
            if entry.rows is None:
                groups.setdefault((entry.origin, entry.transform, entry.reason), []).append(entry.tensor)
        for (origin, transform, reason), tensors in groups.items():
            whole = Whole(origin=origin, transform=transform, reason=reason, tensors=tuple(tensors))
            found.setdefault(whole, []).append(one.arm)
    return list(found.items())


def explain(method: str, name: str) -> str:
    """One sentence on what a method's diagnostic measures; `dead_rows.CYRILLIC` is explained as `dead_rows`."""
    explanations = METHODS[method].explanations if method in METHODS else {}
    return explanations.get(name.partition(".")[0], _NO_EXPLANATION)


def _diagnostics(arms: list[Transferred], method: str) -> list[Diagnostic]:
    """What was measured, those of one stem together."""
    stems: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for one in arms for figures in one.by_seed for name in figures):
        stems.setdefault(name.partition(".")[0], []).append(name)
    return [
        Diagnostic(
            name=name,
            values=_agreeing([_over_seeds(one, name) for one in arms]),
            sentence=explain(method, name) if name == group[0] else "",
        )
        for group in stems.values()
        for name in group
    ]


def _over_seeds(one: Transferred, name: str) -> str:
    """A figure of all seeds, once where they agree."""
    return " · ".join(_agreeing([_figure(figures.get(name)) for figures in one.by_seed]))


def _agreeing(values: list[str]) -> list[str]:
    return values[:1] if len(set(values)) == 1 else values


def _figure(value: float | None) -> str:
    if value is None:
        return MISSING
    return decimal(value, 3) if isinstance(value, float) and 0.001 <= abs(value) < 1000 else plain(value)


def _ties(plan: PlanFile) -> list[str]:
    """A sentence per tensor that has other names."""
    owners: dict[str, list[str]] = {}
    for alias, owner in plan.tied.items():
        owners.setdefault(owner, []).append(alias)
    return [
        f"{owner} is one tensor with {', '.join(aliases)}: a change of it reaches these, too."
        for owner, aliases in owners.items()
    ]

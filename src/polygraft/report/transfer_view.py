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
    """A figure by seed, and a sentence on it before the first of several of one kind."""

    name: str
    values: list[str]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Tensors that are taken as a whole from one place."""

    origin: str
    transform: str
    reason: str
    tensors: list[str]


@dataclass(frozen=True, kw_only=True)
class TransferShown:
    """The transfer of an arm: the plan of its first seed, and the diagnostics of all that have one."""

    arm: Arm
    method: str
    seeds: list[int]
    diagnostics: list[Diagnostic]
    warnings: list[str]
    by_row: list[PlanEntry]
    whole: list[Whole]
    ties: list[str]


def transfers(run: Run) -> list[TransferShown]:
    """The transfer of each arm that has got that far."""
    done = [(arm, [(one, one.plan) for one in arm.runs if one.plan]) for arm in run.arms]
    return [_shown(arm, runs) for arm, runs in done if runs]


def _shown(arm: Arm, runs: list[tuple[SeedRun, PlanFile]]) -> TransferShown:
    first, plan = runs[0]
    record = first.stages["transfer"].record
    settings = record.settings if record else {}
    by_seed = [{**plan.figures, **one.diagnostics} for one, plan in runs]
    return TransferShown(
        arm=arm,
        method=", ".join(settings[key] for key in ("method", "mode") if key in settings),
        seeds=[one.seed for one, _ in runs],
        diagnostics=_diagnostics(by_seed, settings["method"]),
        warnings=plan.warnings,
        by_row=[entry for entry in plan.entries if entry.rows is not None],
        whole=_whole([entry for entry in plan.entries if entry.rows is None]),
        ties=_ties(plan),
    )


def explain(method: str, name: str) -> str:
    """One sentence on what a method's diagnostic measures; `dead_rows.CYRILLIC` is explained as `dead_rows`."""
    explanations = METHODS[method].explanations if method in METHODS else {}
    return explanations.get(name.partition(".")[0], _NO_EXPLANATION)


def _diagnostics(by_seed: list[dict[str, int | float]], method: str) -> list[Diagnostic]:
    """What was measured, those of one stem together."""
    stems: dict[str, list[str]] = {}
    for name in by_seed[0]:
        stems.setdefault(name.partition(".")[0], []).append(name)
    return [
        Diagnostic(
            name=name,
            values=[_figure(figures.get(name)) for figures in by_seed],
            sentence=explain(method, name) if name == group[0] else "",
        )
        for group in stems.values()
        for name in group
    ]


def _figure(value: float | None) -> str:
    if value is None:
        return MISSING
    return decimal(value, 3) if isinstance(value, float) and 0.001 <= abs(value) < 1000 else plain(value)


def _whole(entries: list[PlanEntry]) -> list[Whole]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        groups.setdefault((entry.origin, entry.transform, entry.reason), []).append(entry.tensor)
    return [
        Whole(origin=origin, transform=transform, reason=reason, tensors=tensors)
        for (origin, transform, reason), tensors in groups.items()
    ]


def _ties(plan: PlanFile) -> list[str]:
    """A sentence per tensor that has other names."""
    owners: dict[str, list[str]] = {}
    for alias, owner in plan.tied.items():
        owners.setdefault(owner, []).append(alias)
    return [
        f"{owner} is one tensor with {', '.join(aliases)}: a change of it reaches these, too."
        for owner, aliases in owners.items()
    ]

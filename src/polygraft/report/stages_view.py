"""The later sections of the page: loss curves, time and memory, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from polygraft.objectives import OBJECTIVES
from polygraft.report.curves import Curve, losses
from polygraft.report.files import Record
from polygraft.report.folder import TITLES, Run, StageRun
from polygraft.report.formats import MISSING, count, date, decimal, plain, plural
from polygraft.report.privacy import without_folders
from polygraft.runs.fingerprints import is_of_hub

LOSSES = {"finetune": "cross-entropy per target token (nats)"}
"""What the losses of stages are that have no objective of OBJECTIVES."""

# ---------------------------------------------------------------- loss curves


def _curves(stages: list[tuple[int, StageRun]], evaluation: str, training: bool) -> list[Curve]:
    """One curve per run of the stage; a run shared by several arms is drawn once, its label names them all."""
    groups: dict[str, list[tuple[int, StageRun]]] = {}
    for arm, stage in stages:
        groups.setdefault(stage.record.fingerprint if stage.record else "", []).append((arm, stage))
    curves: list[Curve] = []
    for group in groups.values():
        arm, stage = group[0]
        train = [(line.tokens, line.loss) for line in stage.lines if line.loss is not None] if training else []
        found = [(line.tokens, loss) for line in stage.lines if (loss := getattr(line, evaluation)) is not None]
        if train or found:
            label = ", ".join(dict.fromkeys(stage.arm for _, stage in group)) + _classes(stage)
            shown = "" if label in [curve.label for curve in curves] else label
            curves.append(Curve(label=shown, arm=arm, train=train, evaluation=found))
    return curves


def _classes(stage: StageRun) -> str:
    """What a trimmed vocabulary does to a loss has to be said beside it: it normalises over fewer classes."""
    trimmed = stage.record and stage.record.settings.get("trim_vocabulary")
    return f" (over {count(stage.result.classes)} classes)" if trimmed else ""


def loss_plots(run: Run) -> list[Markup]:
    """A panel per training stage and objective, and one for the masked tokens alone where denoising reports them."""
    panels: dict[tuple[str, str | None], list[tuple[int, StageRun]]] = {}
    indices = {arm.name: arm.index for arm in run.arms}
    for name in TITLES:
        for stage, record in run.records:
            if stage.name == name:
                panels.setdefault((name, record.settings.get("objective")), []).append((indices[stage.arm], stage))
    drawn: list[Markup] = []

    def draw(title: str, unit: str, curves: list[Curve]) -> None:
        if curves:
            named = [(curve.label, (curve.evaluation or curve.train)[-1][1]) for curve in curves if curve.label]
            said = "; ".join(f"{label} ends at {decimal(loss, 3)}" for label, loss in named)
            description = f"{title}, {unit}, over tokens read. {said}."
            drawn.append(losses(f"loss{len(drawn)}", title, unit, curves, description=description))

    for (name, objective), stages in panels.items():
        task = OBJECTIVES.get(objective or "")
        title = f"{TITLES[name]} ({task.title})" if task else TITLES[name]
        unit = task.unit if task else LOSSES.get(name, "loss (nats)")
        draw(title, unit, _curves(stages, "eval_loss", training=True))
        removed = _curves(stages, "eval_masked_loss", training=False)
        draw(f"{TITLES[name]}, removed tokens only", "held-out cross-entropy (nats)", removed)
        decoded = _curves(stages, "eval_chrf", training=False)
        draw(f"{TITLES[name]}, decoded sample", "chrF++ of validation pairs, 0 to 100", decoded)
    return drawn


# ---------------------------------------------------------------- time, tokens, memory


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage of an arm and seed; one with the fingerprint of an earlier row is `shared`, and was run once."""

    arm: int
    stage: StageRun
    status: str
    shared: bool
    loss: str


def stage_rows(run: Run) -> list[StageRow]:
    """One row per stage, arm and seed."""
    first: dict[tuple[str, str], str] = {}
    rows = []
    indices = {arm.name: arm.index for arm in run.arms}
    for stage in run.stages:
        place = f"{stage.arm}, seed {stage.seed}"
        owner = first.setdefault((stage.name, stage.record.fingerprint), place) if stage.record else place
        own = f"{stage.status}, stopped early" if stage.result.stopped_early else stage.status
        status = own if owner == place else f"same as {owner}"
        rows.append(
            StageRow(arm=indices[stage.arm], stage=stage, status=status, shared=owner != place, loss=_held_out(stage))
        )
    return rows


def _held_out(stage: StageRun) -> str:
    first, last = stage.result.eval_loss_first, stage.result.eval_loss
    loss = decimal(last, 3)
    return (loss if first is None or last is None else f"{decimal(first, 3)} → {loss}") + _classes(stage)


# ---------------------------------------------------------------- settings, versions, machine


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names, in the file's order; budgets without their empty units."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            given = {key: item for key, item in value.items() if item is not None} if name == "budget" else value
            rows += flat(given, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, without_folders(plain(value))))
    return rows


@dataclass(kw_only=True)
class SettingsGroup:
    """Stages with equal settings: their title, those by arm, and the settings.

    `left` is what was left of an `adaptation_budget`: it varies with the seed, and is listed together all the same.
    """

    title: str
    rows: list[tuple[str, str]]
    seeds: dict[str, list[int]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def used(self) -> str:
        """The arms and seeds, in words."""
        said = (f"{plural(len(seeds), 'seed')} {', '.join(map(str, seeds))}" for seeds in self.seeds.values())
        return "; ".join(f"{arm} ({one.removeprefix('1 ')})" for arm, one in zip(self.seeds, said, strict=True))

    @property
    def shown(self) -> list[tuple[str, str]]:
        """The settings, with the budgets that were left in their place."""
        words = f"{', '.join(dict.fromkeys(self.left))} (what was left of adaptation_budget)"
        return [(name, words if name == "budget" and self.left else value) for name, value in self.rows]


def settings_groups(run: Run) -> list[SettingsGroup]:
    """The resolved settings of every stage; stages with equal settings are listed together."""
    groups: dict[str, SettingsGroup] = {}
    shared = {arm.name for arm in run.arms if arm.recipe.adaptation_budget}
    for name, title in TITLES.items():
        for stage, record in run.records:
            if stage.name != name:
                continue
            # The seed alone does not make the settings others; it stands beside the group's name.
            settings = {key: value for key, value in record.settings.items() if key != "seed"}
            left = _given(record) if name == "adapt_target" and stage.arm in shared else []
            rows = flat(settings | {"budget": stage.arm} if left else settings)
            group = groups.setdefault(f"{name} {rows}", SettingsGroup(title=title, rows=rows))
            group.seeds.setdefault(stage.arm, []).append(stage.seed)
            group.left += left
    return [group for group in groups.values() if group.rows]  # a stage of data alone has no settings


def _given(record: Record) -> list[str]:
    return [f"{plain(amount)} {unit}" for unit, amount in record.settings["budget"].items() if amount is not None]


def inputs_of(record: Record) -> list[tuple[str, str]]:
    """The checkpoints and files that a stage read, with their kinds and the beginnings of their fingerprints."""
    rows = []
    for name, mark in record.inputs.items():
        kind = "file" if name.startswith("file:") else "checkpoint"
        what = f"commit {mark.rpartition('@')[2][:12]}" if is_of_hub(name, mark) else f"fingerprint {mark[:12]}"
        rows.append((without_folders(name.removeprefix("file:")), f"{kind}, {what}"))
    return rows


def data_of(record: Record) -> list[tuple[str, str]]:
    """How a stage read its data files: the settings of its data sections that are given."""
    return [row for part in record.data for row in flat({key: v for key, v in part.items() if v is not None})]


def inputs(run: Run) -> dict[str, list[tuple[StageRun, list[tuple[str, str]]]]]:
    """What each stage read, arm by arm: models and files, as stage.json names them."""
    by_arm: dict[str, list[tuple[StageRun, list[tuple[str, str]]]]] = {}
    for stage, record in run.records:
        if rows := inputs_of(record) + data_of(record):
            by_arm.setdefault(stage.arm, []).append((stage, rows))
    return by_arm


def _gather(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or MISSING


def provenance(run: Run) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(facts, versions): commit, machine and dates; package versions. Several values mean that stages differ."""
    records = [record for _, record in run.records]
    started = [date(one) for one in sorted(record.started for record in records)]
    machine: dict[str, list[str]] = {}
    versions: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.machine.items():
            machine.setdefault(name, []).append(plain(value))
        for name, value in record.versions.items():
            versions.setdefault(name, []).append(value)
    commits = [record.git_commit for record in records if record.git_commit]
    facts = [
        ("first stage started", started[0] if started else MISSING),
        ("last stage started", started[-1] if started else MISSING),
        ("git commit", _gather(commits) if commits else "not recorded"),
        *((name, _gather(values)) for name, values in machine.items()),
    ]
    return facts, [(name, _gather(values)) for name, values in sorted(versions.items())]

"""The later sections of the page: loss curves, the transfer, time and memory, settings and versions."""

from __future__ import annotations

from typing import Any

import yaml
from markupsafe import Markup

from polygraft.report import plots
from polygraft.report.folder import STAGES, Run, Stage, mapping, number, sections_of
from polygraft.report.formats import MISSING, count, date, decimal, flops, plain, plural, seconds, size

STAGE_NAMES = {
    "add_languages": "Adding languages",
    "adapt": "Adapting the source",
    "transfer": "Transfer",
    "warm_up": "Warming up the bridge",
    "adapt_target": "Adapting the target",
    "finetune": "Fine-tuning",
    "evaluate": "Evaluation",
}
_OBJECTIVES = {"mlm": "masked language modelling"}
_UNITS = {
    "mlm": "cross-entropy over masked tokens (nats)",
    "denoising": "cross-entropy over all tokens (nats)",
    "finetune": "cross-entropy per target token (nats)",
}

# ---------------------------------------------------------------- loss curves


def _points(stage: Stage, key: str) -> list[tuple[float, float]]:
    return [
        (tokens, loss)
        for row in stage.metrics
        if (tokens := number(row.get("tokens"))) is not None and (loss := number(row.get(key))) is not None
    ]


def _curves(stages: list[tuple[int, Stage]], evaluation_key: str, train_key: str | None) -> list[plots.Curve]:
    """One curve per run of the stage; a run shared by several arms is drawn once, its label names them all."""
    groups: dict[object, list[tuple[int, Stage]]] = {}
    for arm, stage in stages:
        groups.setdefault(stage.record.get("fingerprint") or (stage.arm, stage.seed), []).append((arm, stage))
    curves, labelled = [], set()
    for group in groups.values():
        arm, stage = group[0]
        train = _points(stage, train_key) if train_key else []
        evaluation = _points(stage, evaluation_key)
        if not train and not evaluation:
            continue
        label = ", ".join(dict.fromkeys(stage.arm for _, stage in group)) + _classes(stage)
        curves.append(plots.Curve("" if label in labelled else label, arm, train, evaluation))
        labelled.add(label)
    return curves


def _classes(stage: Stage) -> str:
    """What a trimmed vocabulary does to a loss has to be said beside it: it normalises over fewer classes."""
    trimmed = stage.settings.get("trim_vocabulary")
    return f" (over {count(stage.result.get('classes'))} classes)" if trimmed else ""


def loss_plots(run: Run) -> list[Markup]:
    """A panel per training stage, and one for the masked tokens alone where denoising reports them."""
    drawn: list[Markup] = []
    for name in STAGES:
        stages = [(arm.index, stage) for arm in run.arms for seed_run in arm.runs for stage in seed_run.stages
                  if stage.name == name]  # fmt: skip
        objective = next((str(s.settings["objective"]) for _, s in stages if "objective" in s.settings), name)
        title = STAGE_NAMES[name] + (f" ({_OBJECTIVES.get(objective, objective)})" if objective != name else "")
        masked_title = f"{STAGE_NAMES[name]}, removed tokens only"
        panels = [
            (title, _UNITS.get(objective, "loss (nats)"), _curves(stages, "eval_loss", "loss")),
            (masked_title, "held-out cross-entropy (nats)", _curves(stages, "eval_masked_loss", None)),
        ]
        for title, unit, curves in panels:
            if curves:
                named = [(curve.label, (curve.evaluation or curve.train)[-1][1]) for curve in curves if curve.label]
                said = "; ".join(f"{label} ends at {decimal(loss, 3)}" for label, loss in named)
                key = f"loss{len(drawn)}"
                drawn.append(plots.losses(key, title, unit, curves, f"{title}, {unit}, over tokens read. {said}."))
    return drawn


# ---------------------------------------------------------------- time, tokens, memory


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """One row per stage, arm and seed; a stage with the fingerprint of an earlier row is marked as shared."""
    first: dict[str, str] = {}
    rows = []
    for arm in run.arms:
        for seed_run in arm.runs:
            for stage in seed_run.stages:
                place = f"{stage.arm}, seed {stage.seed}"
                fingerprint = stage.record.get("fingerprint")
                shared = first.setdefault(f"{stage.name} {fingerprint}", place) if fingerprint else place
                rows.append(_stage_row(arm.index, stage, "" if shared == place else shared))
    return rows


def _stage_row(arm: int, stage: Stage, shared: str) -> dict[str, Any]:
    result = stage.result
    first, last = number(result.get("eval_loss_first")), number(result.get("eval_loss"))
    loss = MISSING if last is None else decimal(last, 3)
    return {
        "arm": arm,
        "name": stage.arm,
        "seed": stage.seed,
        "stage": stage.name,
        "status": f"same as {shared}" if shared else stage.status,
        "finished": stage.finished,
        "shared": bool(shared),
        "steps": count(result.get("steps")),
        "tokens": count(result.get("tokens")),
        "flops": flops(result.get("flops")),
        "seconds": seconds(stage.record.get("seconds")),
        "memory": size(stage.record.get("peak_memory_bytes")),
        "loss": (loss if first is None or last is None else f"{decimal(first, 3)} → {loss}") + _classes(stage),
    }


# ---------------------------------------------------------------- settings, versions, machine


def flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names, in the file's order; budgets without their empty units."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            given = {key: item for key, item in value.items() if item is not None} if name == "budget" else value
            rows += flat(mapping(given), f"{prefix}{name}.")
        else:
            rows.append((prefix + name, plain(value)))
    return rows


def settings_groups(run: Run) -> list[dict[str, Any]]:
    """The resolved settings of every stage; stages with equal settings are listed together.

    What was left of an `adaptation_budget` varies with the seed; an arm's stages are listed together all the same.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name in STAGES:
        for stage in run.stages:
            if stage.name != name or not stage.record:
                continue
            # The seed alone does not make the settings others; it stands beside the group's name.
            settings = {name: value for name, value in stage.settings.items() if name != "seed"}
            left = _left_over(run, stage)
            rows = flat(settings | {"budget": stage.arm} if left else settings)
            key = f"{name} {rows}"
            group = groups.setdefault(key, {"stage": STAGE_NAMES[name], "key": name, "rows": rows, "used": {}})
            group["used"].setdefault(stage.arm, []).append(str(stage.seed))
            group.setdefault("left", []).extend(left)
    for group in groups.values():
        used = group["used"].items()
        group["used"] = "; ".join(f"{arm} ({plural(len(seeds), 'seed')} {', '.join(seeds)})" for arm, seeds in used)
        group["used"] = group["used"].replace("1 seed ", "seed ")
        if left := list(dict.fromkeys(group.pop("left"))):
            words = f"{', '.join(left)} (what was left of adaptation_budget)"
            group["rows"] = [(name, words if name == "budget" else value) for name, value in group["rows"]]
    return list(groups.values())


def _left_over(run: Run, stage: Stage) -> list[str]:
    """The budget of an `adapt_target` that had no budget of its own."""
    shared = stage.name == "adapt_target" and sections_of(run.recipe, stage.arm).get("adaptation_budget")
    given = mapping(stage.settings.get("budget")) if shared else {}
    return [f"{plain(amount)} {unit}" for unit, amount in given.items() if amount is not None]


def inputs_of(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The checkpoints and files that a stage read, with their kinds and the beginnings of their fingerprints."""
    rows = []
    for name, fingerprint in mapping(record.get("inputs")).items():
        kind = "file" if name.startswith("file:") else "checkpoint"
        # A hub name's fingerprint is the name itself.
        mark = plain(fingerprint)
        rows.append((name.removeprefix("file:"), kind if mark == name else f"{kind}, fingerprint {mark[:12]}"))
    return rows


def data_of(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How a stage read its data files: the settings of its data sections that are given."""
    sections = record.get("data")
    found = (
        [mapping(section) for section in sections if isinstance(section, dict)] if isinstance(sections, list) else []
    )
    return [row for section in found for row in flat({key: v for key, v in section.items() if v is not None})]


def inputs(run: Run) -> list[dict[str, Any]]:
    """What each stage read: models and files, as stage.json names them."""
    return [
        {"name": stage.arm, "seed": stage.seed, "stage": stage.name, "rows": rows}
        for stage in run.stages
        if (rows := inputs_of(stage.record) + data_of(stage.record))
    ]


def _gather(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or MISSING


def provenance(run: Run) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(facts, versions): commit, machine and dates; package versions. Several values mean that stages differ."""
    records = [stage.record for stage in run.stages if stage.record]
    started = sorted(str(record["started"]) for record in records if record.get("started"))
    machine: dict[str, list[str]] = {}
    versions: dict[str, list[str]] = {}
    for record in records:
        for name, value in mapping(record.get("machine")).items():
            machine.setdefault(name, []).append(plain(value))
        for name, value in mapping(record.get("versions")).items():
            versions.setdefault(name, []).append(plain(value))
    commits = [plain(record["git_commit"]) for record in records if record.get("git_commit")]
    facts = [
        ("first stage started", date(started[0]) if started else MISSING),
        ("last stage started", date(started[-1]) if started else MISSING),
        ("git commit", _gather(commits) if commits else "not recorded"),
        *((name, _gather(values)) for name, values in machine.items()),
    ]
    return facts, [(name, _gather(values)) for name, values in sorted(versions.items())]


def recipe_yaml(run: Run) -> str:
    """The recipe as its file has it, or as YAML of what was read."""
    if run.recipe_text is not None:
        return run.recipe_text.rstrip()
    return yaml.safe_dump(run.recipe, allow_unicode=True, sort_keys=False).rstrip() if run.recipe else ""

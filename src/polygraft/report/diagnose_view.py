"""The section on what was measured before fine-tuning: from diagnose.json to what the page shows."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from polygraft.report import plots
from polygraft.report.folder import PLACEBO, Run, mapping, number
from polygraft.report.formats import MISSING, decimal, effect, interval, plain, plural

BADGES = {"go": "helped", "no-go": "hurt", "open": "open"}
STAGES = {"target": "as it was", "transfer": "transfer", "warm_up": "warm-up", "adapt_target": "denoising"}


def diagnosis(run: Run) -> dict[str, Any] | None:
    """What the section shows; None for a run that was not diagnosed."""
    found = run.diagnosis
    if not found:
        return None
    arms = {arm.name: arm.index for arm in run.arms}
    targets, states = _mappings(found.get("targets")), _mappings(found.get("states"))
    return {
        "about": f"{plural(int(number(found.get('documents')) or 0), 'held-out document')} that no stage trained on, "
        f"seed {plain(found.get('seed'))}; intervals are over documents. Placebos are the arm without the knowledge.",
        "arms": [_arm(item, arms) for item in _mappings(found.get("arms"))],
        "rows": [_row(state, arms) for state in [*targets, *states]],
        "placebos": [(f"{PLACEBO}{name}", plain(what)) for name, what in mapping(found.get("placebos")).items()],
        "health": [
            (script, plain(rows)) for script, rows in mapping(targets[0].get("dead_rows") if targets else None).items()
        ],
        "layers": _layers(mapping(found.get("layers"))),
        "notes": [str(note) for note in found.get("notes") or []],
    }


def _mappings(value: object) -> list[dict[str, Any]]:
    return [mapping(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _arm(item: dict[str, Any], arms: dict[str, int]) -> dict[str, Any]:
    name, decision = str(item.get("arm")), str(item.get("decision"))
    estimates = []
    for other in _mappings(item.get("against")):
        gain = mapping(other.get("gain"))
        value, low, high = (number(gain.get(key)) for key in ("value", "low", "high"))
        if value is not None:
            whole = decimal(mapping(other.get("whole")).get("value"), 2, signed=True)
            gained, ends = effect(value, low, high, 2)
            text = f"{gained}  [{ends}], whole {whole}"
            label = f"against {other.get('name')}"
            estimates.append(plots.Estimate(label, value, low, high, arms.get(name, 0), text))
    said = "; ".join(f"{one.label}: {one.text}" for one in estimates)
    axis = "nats per removed token"
    key = f"gain-{arms.get(name, 0)}"
    plot = plots.forest(key, estimates, None, axis, "right", f"Gain of {name}: {said}.") if estimates else None
    return {
        "name": name, "arm": arms.get(name), "decision": decision, "badge": BADGES.get(decision, "open"),
        "sentence": str(item.get("sentence", "")), "shares": _shares(item), "plot": plot,
    }  # fmt: skip


def _shares(item: dict[str, Any]) -> str:
    said = []
    for key, when in (("carried", "the transfer alone has"), ("reached", "before fine-tuning the arm has")):
        share = mapping(item.get(key))
        if number(share.get("value")) is not None:
            ends = interval(share.get("low"), share.get("high"))
            said.append(f"{when} {decimal(share['value'])} ({ends})")
    sentences = [f"Of direct adaptation's gain on this text (KCF), {'; '.join(said)}."] if said else []
    if (cosine := number(item.get("direction"))) is not None:
        sentences.append(
            "What the transfer changes in the encoder's last states has a cosine of "
            f"{decimal(cosine, 2)} with what direct adaptation changes there."
        )
    return " ".join(sentences)


def _row(state: dict[str, Any], arms: dict[str, int]) -> dict[str, Any]:
    loss, reliance = mapping(state.get("loss")), mapping(state.get("reliance"))
    share, name, stage = number(state.get("dead_share")), str(state.get("arm")), str(state.get("stage"))
    return {
        "name": name,
        "arm": arms.get(name),
        "placebo": state.get("placebo_of") is not None,
        "stage": STAGES.get(stage, stage),
        "loss": decimal(loss.get("value"), 3),
        "loss_interval": interval(loss.get("low"), loss.get("high"), 3),
        "whole": decimal(mapping(state.get("whole")).get("value"), 3),
        "reliance": decimal(reliance.get("value")),
        "reliance_interval": interval(reliance.get("low"), reliance.get("high")),
        "dead_share": MISSING if share is None else f"{share:.1%}",
        "map_r2": decimal(state.get("map_r2")),
        "csls": decimal(state.get("csls_precision_at_1")),
    }


def _layers(found: dict[str, Any]) -> Markup | None:
    similarity, matched = found.get("similarity"), found.get("matched")
    if not isinstance(similarity, list) or not isinstance(matched, list):
        return None
    sides = str(found.get("source")).rpartition("/")[2], str(found.get("target")).rpartition("/")[2]
    pairs = ", ".join(f"{target} to {source}" for target, source in enumerate(matched))
    return plots.layer_map("layers", similarity, matched, sides, f"Layers of target to those of source: {pairs}.")

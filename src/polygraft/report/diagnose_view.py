"""The section on what was measured before fine-tuning: from diagnose.json to what the page shows."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from polygraft.report import plots
from polygraft.report.files import Judged, LayerMatch, Measured
from polygraft.report.folder import Run
from polygraft.report.formats import decimal, effect, interval, plural

BADGES = {"go": "helped", "no-go": "hurt", "open": "open"}
AFTER = {"target": "as it was", "transfer": "transfer", "warm_up": "warm-up"}


def diagnosis(run: Run) -> dict[str, Any] | None:
    """What the section shows; None for a run that was not diagnosed."""
    found = run.diagnosis
    if found is None:
        return None
    arms = {arm.name: arm.index for arm in run.arms}
    return {
        "about": f"{plural(found.documents, 'held-out document')} that no stage trained on, seed {found.seed}; "
        "intervals are over documents. Placebos are the arm without the knowledge.",
        "arms": [_arm(item, arms) for item in found.arms],
        "states": [(state, arms.get(state.arm), _after(state, run)) for state in [*found.targets, *found.states]],
        "placebos": [(f"+{name}", what) for name, what in found.placebos.items()],
        "health": found.targets[0].dead_rows.items(),
        "layers": _layers(found.layers) if found.layers else None,
        "notes": found.notes,
    }


def _arm(item: Judged, arms: dict[str, int]) -> dict[str, Any]:
    index, estimates = arms.get(item.arm, 0), []
    for other in item.against:
        gained, ends = effect(other.gain.value, other.gain.low, other.gain.high, 2)
        estimates.append(
            plots.Drawn(
                label=other.name,
                value=other.gain.value,
                low=other.gain.low,
                high=other.gain.high,
                arm=index,
                text=f"{gained}  [{ends}], whole {decimal(other.whole.value, signed=True)}",
            )
        )
    said = "; ".join(f"{one.label}: {one.text}" for one in estimates)
    key, description = f"gain-{index}", f"Gain of {item.arm}: {said}."
    return {
        "name": item.arm,
        "arm": arms.get(item.arm),
        "decision": item.decision,
        "badge": BADGES[item.decision],
        "sentence": item.sentence,
        "shares": _shares(item),
        "plot": plots.forest(key, estimates, axis="nats per removed token", better=1, description=description)
        if estimates
        else None,
    }


def _shares(item: Judged) -> str:
    said = [
        f"{when} {decimal(share.value)} ({interval(share.low, share.high)})"
        for share, when in (
            (item.carried, "the transfer alone has"),
            (item.reached, "before fine-tuning the arm has"),
        )
        if share
    ]
    sentences = [f"Of direct adaptation's gain on this text (KCF), {'; '.join(said)}."] if said else []
    if item.direction is not None:
        sentences.append(
            "What the transfer changes in the encoder's last states has a cosine of "
            f"{decimal(item.direction)} with what direct adaptation changes there."
        )
    return " ".join(sentences)


def _after(state: Measured, run: Run) -> str:
    """What came before a state: a stage, and of the last that adapts the target its task."""
    tasks = {arm.name: arm.recipe.adapt_target for arm in run.arms}
    task = tasks.get(state.placebo_of or state.arm)
    return AFTER.get(state.stage) or (task.title if task else state.stage)


def _layers(found: LayerMatch) -> Markup:
    sides = found.source.rpartition("/")[2], found.target.rpartition("/")[2]
    pairs = ", ".join(f"{target} to {source}" for target, source in enumerate(found.matched))
    description = f"Layers of target to those of source: {pairs}."
    return plots.layer_map("layers", found.similarity, found.matched, sides=sides, description=description)

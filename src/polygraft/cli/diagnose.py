"""`polygraft diagnose`: does the transfer help, and by what the source knows? Before fine-tuning is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polygraft.cli.table import table

STATES = ("ARM", "after", "nats per removed token", "whole text", "source reliance", "never learned")
MAPS = ("map R2", "precision@1")


def text(found: Mapping[str, Any]) -> str:
    """The diagnosis for people: a table of all states, then a sentence for each arm."""
    lines = table([[*STATES, *MAPS], *(_row(state) for state in [*found["targets"], *found["states"]])])
    lines += ["", f"{found['documents']} held-out documents, seed {found['seed']}; 95% intervals over documents."]
    lines += [f"+{name}: {what}" for name, what in found["placebos"].items()]
    for arm in found["arms"]:
        lines += ["", arm["sentence"]]
        if arm["carried"]:
            lines.append(
                f"Of direct adaptation's gain (KCF), its transfer alone has {_estimate(arm['carried'])}, "
                f"the arm before fine-tuning {_estimate(arm['reached'])}."
            )
    return "\n".join([*lines, *found["notes"], "", f"Report: {found['report']}"])


def _row(state: Mapping[str, Any]) -> list[str]:
    losses = [_estimate(state["loss"]), _plain(state["whole"]["value"]), _estimate(state["reliance"])]
    maps = [_plain(state.get(name)) for name in ("map_r2", "csls_precision_at_1")]
    return [state["arm"], state["stage"], *losses, f"{state['dead_share']:.1%}", *maps]


def _estimate(one: Mapping[str, float | None] | None) -> str:
    if one is None:
        return "-"
    from polygraft.scoring.intervals import Estimate

    return Estimate(**one).text()  # type: ignore[arg-type]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

"""`polygraft diagnose`: does the transfer help, and by what the source knows? Before fine-tuning is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(found: Mapping[str, Any]) -> str:
    """The diagnosis for people: a table of all states, then a sentence for each arm."""
    head = (
        "ARM",
        "after",
        "nats per removed token",
        "whole text",
        "source reliance",
        "never learned",
        "map R2",
        "precision@1",
    )
    rows = [head]
    for state in [*found["targets"], *found["states"]]:
        whole, share = _plain(state["whole"]["value"]), f"{state['dead_share']:.1%}"
        rows.append((
            state["arm"], state["stage"], _estimate(state["loss"]), whole, _estimate(state["reliance"]), share,
            _plain(state.get("map_r2")), _plain(state.get("csls_precision_at_1")),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
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


def _estimate(one: Mapping[str, float | None] | None) -> str:
    if one is None:
        return "-"
    from polygraft.scoring.intervals import Estimate

    return Estimate(**one).text()  # type: ignore[arg-type]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

"""What `polygraft transfer --dry-run` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from polygraft.cli.table import table


def text(plan: Mapping[str, Any]) -> str:
    """The plan for people: one line per class of rows, the tensors kept whole as one; ties, and warnings."""
    entries = plan["entries"]
    lines = [("TENSOR", "TOKENS", "ROWS", "FROM", "TRANSFORM", "WHY")]
    lines += [
        (e["tensor"], e["token_class"], f"{e['rows']:,}", e["origin"], e["transform"], e["reason"])
        for e in entries
        if e["rows"] is not None
    ]
    whole = Counter((e["origin"], e["transform"], e["reason"]) for e in entries if e["rows"] is None)
    lines += [(f"{number} other tensors", "whole tensors", "all", *said) for said, number in whole.items()]
    notes = []
    for owner in sorted(set(plan["tied"].values())):
        aliases = ", ".join(alias for alias, name in plan["tied"].items() if name == owner)
        notes.append(f"{owner} is one tensor with {aliases}: every change of it reaches these too.")
    notes += [f"Warning: {warning}." for warning in plan["warnings"]]
    tensors = len({entry["tensor"] for entry in entries})
    return "\n".join([f"where the values of {tensors} tensors come from", *table(lines), *notes])

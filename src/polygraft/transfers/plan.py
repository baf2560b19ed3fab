"""The plan of a transfer: where every value of the target comes from, proved complete before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from torch import Tensor, nn

from polygraft.errors import TransferError


class Transform(StrEnum):
    """What is done to where values come from; the value is how it is called for people. Methods have their own."""


class Kept(Transform):
    """Nothing."""

    KEEP = "keep"


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """One line of a plan: some rows of a tensor (`ids`, int64), or the whole of it (`ids` None), and their origin.

    `control` names the placebo that is written in place of what the transform says.
    """

    tensor: str
    token_class: str = "whole tensor"
    ids: np.ndarray | None = None
    origin: str = "target"
    transform: Transform = Kept.KEEP
    control: str = "none"
    reason: str

    @property
    def count(self) -> int | None:
        return None if self.ids is None else len(self.ids)

    @property
    def done(self) -> str:
        """The transform, for people."""
        return self.transform if self.control == "none" else f"{self.transform}, {self.control}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """All entries, and what they rest on. A method's own plan may hold more, for its `fit` and `diagnose`.

    Attributes:
        entries: in the order in which they are executed.
        tied: name of a tensor -> name of the tensor that it shares its memory with, and whose entries cover it.
        tensors: those that the saved model will have; only names and sizes count.
        figures: measurements that led to this plan.
        warnings: what the user should know.
    """

    entries: list[Entry]
    tied: dict[str, str]
    tensors: Mapping[str, Tensor]
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def row_counts(self) -> dict[str, int]:
        """Rows per token class."""
        return {entry.token_class: len(entry.ids) for entry in self.entries if entry.ids is not None}

    def to_json(self) -> dict[str, Any]:
        """The plan as it is written to plan.json; row ids as inclusive ranges."""
        entries = [
            {
                "tensor": e.tensor, "token_class": e.token_class, "rows": e.count, "origin": e.origin,
                "transform": e.done, "reason": e.reason, "ids": None if e.ids is None else _ranges(e.ids),
            }
            for e in self.entries
        ]  # fmt: skip
        return {"entries": entries, "tied": self.tied, "figures": self.figures, "warnings": self.warnings}


def keep_whole(model: nn.Module, except_for: str, tied: Mapping[str, str]) -> list[Entry]:
    """Return entries that keep every tensor of a model but one (and what is tied to it)."""
    reason = "not part of this method: stays as it is in the target"
    return [Entry(tensor=name, reason=reason) for name in model.state_dict() if name != except_for and name not in tied]


def check_plan(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Prove that a plan covers each tensor, and each row of a tensor planned by rows, exactly once.

    Raises:
        TransferError: naming every tensor and row that is missing, planned twice, or not in the model.
    """
    problems = [f"{e.tensor}: no such tensor in the target" for e in plan.entries if e.tensor not in tensors]
    problems += [f"{alias}: tied to {owner}, which is not in the target" for alias, owner in plan.tied.items()
                 if owner not in tensors or alias not in tensors]  # fmt: skip
    by_tensor: dict[str, list[Entry]] = {}
    for entry in plan.entries:
        by_tensor.setdefault(entry.tensor, []).append(entry)
    for name, tensor in tensors.items():
        entries = by_tensor.get(name, [])
        if name in plan.tied:
            problems += [f"{name}: planned itself, though tied to {plan.tied[name]}"] * bool(entries)
        elif any(entry.ids is None for entry in entries):
            problems += [f"{name}: planned {len(entries)} times"] * (len(entries) > 1)
        elif not entries:
            problems.append(f"{name}: not in the plan")
        else:
            problems += _row_problems(name, np.concatenate([e.ids for e in entries if e.ids is not None]), len(tensor))
    if problems:
        raise TransferError("the plan does not cover the target exactly once:\n  " + "\n  ".join(problems))


def _row_problems(name: str, ids: np.ndarray, rows: int) -> list[str]:
    outside = ids[(ids < 0) | (ids >= rows)]
    planned = np.bincount(ids[(ids >= 0) & (ids < rows)], minlength=rows)
    found = {"missing": np.flatnonzero(planned == 0), "planned twice": np.flatnonzero(planned > 1), "outside": outside}
    return [
        f"{name}: {len(which)} rows {what} (first: {which[0]}) of {rows}" for what, which in found.items() if len(which)
    ]


def _ranges(ids: np.ndarray) -> list[list[int]]:
    """Write ascending ids as inclusive ranges: [3, 4, 5, 9] -> [[3, 5], [9, 9]]."""
    if not len(ids):
        return []
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs]

"""The plan of a transfer: where every value of the target comes from, proved complete before anything is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from polygraft.errors import TransferError
from polygraft.models.vocabulary import VocabularyMap

KEEP = "keep"


@dataclass(frozen=True)
class Inputs:
    """What a method may look at: models in fp32, their vocabularies, and the user's text as token counts.

    Attributes:
        settings: the method's section of the recipe.
        target: the sequence-to-sequence model; `apply` changes it in place.
        vocabulary: the classes of the target's rows.
        tokens: the target's token strings by row, None for rows without a token.
        source_before, source_after: the masked language model as downloaded and as adapted, where the method needs it.
        counts: int64, occurrences of each target row's token in the text; zeros without a text.
        texts: the user's text, document by document, for what is calibrated on hidden states; maybe read at every pass.
        languages: of each document, as the user wrote them.
        source_tokenizer, target_tokenizer: of the two models; no source tokenizer without a source.
        seed: of whatever is drawn at random.
        adapter: the folder in which the adapted source's adapter is, if it has one.
        out_dir: where a method that trains keeps its checkpoints.
    """

    settings: Any
    target: PreTrainedModel
    vocabulary: VocabularyMap
    tokens: list[str | None]
    source_before: Any
    source_after: Any
    counts: np.ndarray
    texts: Collection[str] = ()
    languages: Collection[str | None] = ()
    source_tokenizer: Any = None
    target_tokenizer: Any = None
    seed: int = 0
    adapter: Path | None = None
    out_dir: Path = Path()


@dataclass(frozen=True, eq=False)
class Entry:
    """One line of a plan: some rows of a tensor (`ids`, int64), or the whole of it (`ids` None), and their origin."""

    tensor: str
    token_class: str
    ids: np.ndarray | None
    origin: str
    transform: str
    reason: str

    @property
    def count(self) -> int | None:
        return None if self.ids is None else len(self.ids)


@dataclass(frozen=True, eq=False)
class Plan:
    """All entries, and what they rest on.

    Attributes:
        entries: in the order in which they are executed.
        tied: name of a tensor -> name of the tensor that it shares its memory with, and whose entries cover it.
        row_sets: named int64 row ids that the method's `fit` and `diagnose` go by.
        figures: measurements that led to this plan.
        warnings: what the user should know.
        tensors: those that the saved model will have; only names and sizes count.
        prepared: what planning had to read and fit already, for the method's `fit`.
    """

    entries: list[Entry]
    tied: dict[str, str]
    row_sets: dict[str, np.ndarray] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    prepared: Any = None

    def rows(self) -> dict[str, int]:
        """Rows per token class."""
        return {entry.token_class: len(entry.ids) for entry in self.entries if entry.ids is not None}

    def to_json(self) -> dict[str, Any]:
        """The plan as it is written to plan.json; row ids as inclusive ranges."""
        entries = [
            {
                "tensor": e.tensor, "token_class": e.token_class, "rows": e.count, "origin": e.origin,
                "transform": e.transform, "reason": e.reason, "ids": None if e.ids is None else _ranges(e.ids),
            }
            for e in self.entries
        ]  # fmt: skip
        return {"entries": entries, "tied": self.tied, "figures": self.figures, "warnings": self.warnings}


def keep_whole(model: nn.Module, except_for: str, tied: Mapping[str, str]) -> list[Entry]:
    """Return entries that keep every tensor of a model but one (and what is tied to it)."""
    reason = "not part of this method: stays as it is in the target"
    return [
        Entry(name, "whole tensor", None, "target", KEEP, reason)
        for name in model.state_dict()
        if name != except_for and name not in tied
    ]


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


def format_plan(plan: Plan) -> str:
    """Return the plan as a table for people: one line per class of rows, the tensors kept whole as one."""
    tensors = len({entry.tensor for entry in plan.entries})
    lines = [("TENSOR", "TOKENS", "ROWS", "FROM", "TRANSFORM", "WHY")]
    for entry in plan.entries:
        if entry.ids is not None:
            rows = f"{len(entry.ids):,}"
            lines.append((entry.tensor, entry.token_class, rows, entry.origin, entry.transform, entry.reason))
    whole = Counter((e.origin, e.transform, e.reason) for e in plan.entries if e.ids is None)
    for (origin, transform, reason), number in whole.items():
        lines.append((f"{number} other tensors", "whole tensors", "all", origin, transform, reason))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for owner in sorted(set(plan.tied.values())):
        aliases = ", ".join(alias for alias, name in plan.tied.items() if name == owner)
        table.append(f"{owner} is one tensor with {aliases}: every change of it reaches these too.")
    warnings = [f"Warning: {warning}." for warning in plan.warnings]
    return "\n".join([f"where the values of {tensors} tensors come from", *table, *warnings])

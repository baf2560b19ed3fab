"""Never-learned rows, mended before anything else: what the methods on hidden states borrow from `embeddings`.

Where the target never learned a token's row its states say nothing, and there is nothing to fit maps to. So the other
methods have a setting `rows`: `repair` and `recentre` as the modes of `embeddings`, or `keep`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from polygraft.models.checkpoints import tied_names
from polygraft.transfer.methods import Embeddings
from polygraft.transfer.plan import Inputs, Plan, keep_whole
from polygraft.transfer.rows import embeddings


@dataclass(frozen=True)
class Changes:
    """The changed model, what was overwritten in its rows, and of a method that trains what `training.train` says."""

    model: PreTrainedModel
    rows: embeddings.Changes | None
    trained: dict[str, Any] = field(default_factory=dict)


def plan(inputs: Inputs) -> Plan:
    """Return the plan of the target's rows; with `rows: keep`, one that leaves everything as it is."""
    if inputs.settings.rows == "keep":
        tied = tied_names(inputs.target)
        return Plan(keep_whole(inputs.target, "", tied), tied, tensors=inputs.target.state_dict())
    return embeddings.plan(_for_rows(inputs))


def fit(plan: Plan, inputs: Inputs) -> embeddings.Fit | None:
    """Fit what the rows need; `plan` may be that of a whole transfer."""
    return None if inputs.settings.rows == "keep" else embeddings.fit(_rows_of(plan), _for_rows(inputs))


def apply(plan: Plan, fitted: embeddings.Fit | None, inputs: Inputs) -> embeddings.Changes | None:
    """Rewrite the rows, in place."""
    return None if inputs.settings.rows == "keep" else embeddings.apply(_rows_of(plan), fitted, _for_rows(inputs))


def diagnose(
    plan: Plan, fitted: embeddings.Fit | None, inputs: Inputs, changes: embeddings.Changes | None
) -> dict[str, float]:
    """Return the diagnostics of `embeddings`; none with `rows: keep`."""
    return {} if changes is None else embeddings.diagnose(_rows_of(plan), fitted, _for_rows(inputs), changes)


@contextmanager
def mended(plan: Plan, fitted: embeddings.Fit | None, inputs: Inputs) -> Iterator[None]:
    """Lend the target the rows that it will have while its states are read: only `apply` changes it for good."""
    changes = apply(plan, fitted, inputs)
    try:
        yield
    finally:
        if changes is not None:
            embeddings.embedding_matrix(inputs.target)[torch.from_numpy(changes.ids)] = changes.before


def _for_rows(inputs: Inputs) -> Inputs:
    return replace(inputs, settings=Embeddings(mode=inputs.settings.rows))


def _rows_of(plan: Plan) -> Plan:
    """The entries that name rows of the target's matrix."""
    return replace(plan, entries=[entry for entry in plan.entries if entry.ids is not None])

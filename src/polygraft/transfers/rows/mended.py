"""Never-learned rows, mended before anything else: what the methods on hidden states borrow from `embeddings`.

Where the target never learned a token's row its states say nothing, and there is nothing to fit maps to. So the other
methods have a setting `rows`: `repair` and `recentre` as the modes of `embeddings`, or `keep`, whose plan is None here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from polygraft.models.checkpoints import tied_names
from polygraft.models.matrices import embedding_matrix
from polygraft.transfers.contract import Changes, Inputs
from polygraft.transfers.plan import Entry, Plan, keep_whole
from polygraft.transfers.rows import embeddings
from polygraft.transfers.rows.embeddings import RowChanges, RowFit, RowPlan


@dataclass(frozen=True, eq=False, kw_only=True)
class StatesPlan(Plan):
    """The plan of a method on hidden states: beside its own entries, that of the target's rows."""

    rows: RowPlan | None


@dataclass(frozen=True, kw_only=True)
class StatesChanges(Changes):
    """The changed model, and what was overwritten in its rows."""

    rows: RowChanges | None


def plan(inputs: Inputs) -> RowPlan | None:
    """Return the plan of the target's rows."""
    return None if inputs.settings.row_method is None else embeddings.plan(_for_rows(inputs))


def entries(rows: RowPlan | None, inputs: Inputs) -> list[Entry]:
    """Return an entry for everything in the target: what is done to its rows, and all that stays."""
    return keep_whole(inputs.target, "", tied_names(inputs.target)) if rows is None else rows.entries


def fit(rows: RowPlan | None, inputs: Inputs) -> RowFit | None:
    """Fit what the rows need."""
    return None if rows is None else embeddings.fit(rows, _for_rows(inputs))


def apply(rows: RowPlan | None, fitted: RowFit | None, inputs: Inputs) -> RowChanges | None:
    """Rewrite the rows, in place."""
    return None if rows is None else embeddings.apply(rows, fitted, _for_rows(inputs))


def diagnose(
    rows: RowPlan | None, fitted: RowFit | None, inputs: Inputs, changes: RowChanges | None
) -> dict[str, float]:
    """Return the diagnostics of `embeddings`; none with `rows: keep`."""
    return {} if rows is None or changes is None else embeddings.diagnose(rows, fitted, _for_rows(inputs), changes)


@contextmanager
def mended(rows: RowPlan | None, fitted: RowFit | None, inputs: Inputs) -> Iterator[None]:
    """Lend the target the rows that it will have while its states are read: only `apply` changes it for good."""
    changes = apply(rows, fitted, inputs)
    try:
        yield
    finally:
        if changes is not None:
            embedding_matrix(inputs.target)[torch.from_numpy(changes.ids)] = changes.before


def _for_rows(inputs: Inputs) -> Inputs:
    return replace(inputs, settings=inputs.settings.row_method)

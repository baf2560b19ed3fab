"""Transfer through the embedding matrices: `recentre`, `repair` and `delta`.

All rewrite rows of the target's one tied matrix, which is its encoder's input, its decoder's input and its output layer
at once. With s the target's embedding scale, e_A and e_B rows of source and target, and W, c the ridge map
e_A(v) W + c ~ s e_B(v) over rows that both models have learned:

    recentre   e_B(v) = mean + rho (e_B(v) - g) / |e_B(v) - g|           for the rows v that B never learned
    repair     e_B(v) = mean + rho (m(v) - mean m), m = (e_A W + c) / s  for those of them that A has learned
    delta      e_B(v) += alpha n_v / (n_v + k) [d(v) - mean d of unseen rows] W / s,   d = e_A after - e_A before

mean and rho: the new rows lie around the mean of the trained ones, at their median distance from it (x norm_scale).
g: the common drift of never-seen rows (dead_rows.py). n_v: how often v occurs in the text. The formulas are carried
out in values.py.

`recentre` transfers nothing. It is what every claim of a benefit from the source has to beat. Further controls write
random rows in place of the mapped ones, or the mapped ones of other tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polygraft.errors import TransferError
from polygraft.models.checkpoints import tied_names
from polygraft.models.matrices import assert_tied, embedding_matrix, embedding_scale
from polygraft.models.vocabulary import script_of
from polygraft.transfers.contract import Changes, Inputs
from polygraft.transfers.linear_map import (
    CSLS_MAX_ROWS,
    HELDOUT_EVERY,
    LinearMap,
    csls_precision,
    mean_pairwise_cosine,
    moments_of,
    r_squared,
)
from polygraft.transfers.plan import Kept, Plan, keep_whole
from polygraft.transfers.rows.sorting import (
    FROM_SOURCE,
    RowSets,
    SourceRows,
    changed_entries,
    dead_rows_of,
    joined,
    kept_entries,
    sort_rows,
    with_control,
)
from polygraft.transfers.rows.values import matrix_to_map, new_rows

MIN_FIT_ROWS = 50


@dataclass(frozen=True, eq=False, kw_only=True)
class RowPlan(Plan):
    """A plan of rows of one matrix: the `sets` that it goes by, and the ids that are `changed`, ascending."""

    sets: RowSets
    changed: np.ndarray


@dataclass(frozen=True)
class RowFit:
    """The fitted map, and how well it does on the tenth of the rows that it was not fitted on."""

    map: LinearMap
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RowChanges(Changes):
    """The changed model, and what was overwritten: int64 `ids`, ascending, and `before`, these rows (len(ids), d)."""

    ids: np.ndarray
    before: Tensor


def plan(inputs: Inputs) -> RowPlan:
    """Decide for every row of the target's embedding matrix where its new value comes from.

    Raises:
        TransferError: input and output embeddings of the target are not one tensor.
    """
    vocabulary, mode = inputs.vocabulary, inputs.settings.mode
    matrix = embedding_matrix(inputs.target)
    assert_tied(inputs.target)
    dead = dead_rows_of(matrix, vocabulary)
    sets = sort_rows(matrix, dead, vocabulary, inputs.counts, _source_rows(inputs))
    tied = tied_names(inputs.target)
    owner = next(name for name, t in inputs.target.state_dict().items() if t.data_ptr() == matrix.data_ptr())
    entries = with_control(changed_entries(owner, sets, mode), inputs.settings.control)
    changed = joined([entry.ids for entry in entries if entry.ids is not None])
    lost = len(sets.dead) + len(sets.dead_codes)
    warnings = [] if lost or mode == "delta" else [f"no row that was never learned was found ({dead.reason})"]
    if mode == "delta" and lost:
        warnings.append(f"{lost} rows of the target were never learned, and delta leaves them so")
    return RowPlan(
        entries=[*entries, *kept_entries(owner, inputs, changed), *keep_whole(inputs.target, owner, tied)],
        tied=tied,
        tensors=inputs.target.state_dict(),
        figures={f"dead_rows_{name}": value for name, value in dead.figures.items()},
        warnings=warnings,
        sets=sets,
        changed=changed,
    )


def _source_rows(inputs: Inputs) -> SourceRows | None:
    source = inputs.source_after if inputs.source_after is not None else inputs.source_before
    return None if source is None else SourceRows(embedding_matrix(source), source.config.pad_token_id)


def fit(plan: RowPlan, inputs: Inputs) -> RowFit | None:
    """Fit W and c where the plan has use for them: on the adapted source's rows, for `delta` on the rows before.

    Raises:
        TransferError: see `fit_map`.
    """
    if not any(entry.transform in FROM_SOURCE for entry in plan.entries):
        return None
    source_of, counts = inputs.vocabulary.source_of, inputs.counts
    scale, ridge = embedding_scale(inputs.target), inputs.settings.ridge_lambda
    rows = matrix_to_map(inputs), embedding_matrix(inputs.target)
    return fit_map(*rows, plan.sets.fit, source_of=source_of, counts=counts, scale=scale, ridge=ridge)


def fit_map(
    source: Tensor,
    target: Tensor,
    ids: np.ndarray,
    *,
    source_of: np.ndarray,
    counts: np.ndarray,
    scale: float,
    ridge: float,
) -> RowFit:
    """Fit the ridge map between two embedding matrices on rows that both models learned.

    Row v weighs 1 + log(1 + n_v). Every tenth row, in an order shuffled with a fixed seed, is held out.

    Args:
        source, target: (rows, a) and (V, d).
        ids: int64, rows of the target that both learned.
        source_of, counts: int64 [V], the source's row of each token, and how often it occurs in the text.
        scale: s, what the target multiplies its rows by; the map is to s e_B.

    Raises:
        TransferError: fewer rows than the source is wide, or fewer than 50.
    """
    ids = np.random.default_rng(0).permutation(ids)
    least = max(MIN_FIT_ROWS, source.shape[1])  # with fewer rows than unknowns, a map fits anything
    if len(ids) < least:
        raise TransferError(
            f"only {len(ids)} tokens have rows that both models learned, but the source is {source.shape[1]} wide and "
            f"at least {least} are needed to fit the map between their embeddings. Use mode: recentre, a narrower "
            "source, or one that shares more of the target's vocabulary."
        )
    heldout, ids = np.sort(ids[::HELDOUT_EVERY]), np.sort(np.delete(ids, np.s_[::HELDOUT_EVERY]))
    weights = 1 + np.log1p(counts)
    fitted = moments_of(source, source_of[ids], target, ids, weights[ids]).solve(ridge)
    fitted = LinearMap(fitted.weight * scale, fitted.intercept * scale)  # of s e_B: a scaled target scales W and c
    predicted, true = fitted(source[torch.from_numpy(source_of[heldout])]), target[torch.from_numpy(heldout)] * scale
    shown = slice(None, None, -(-len(heldout) // CSLS_MAX_ROWS))
    figures = {
        "fit_rows": len(ids),
        "heldout_rows": len(heldout),
        "heldout_r2": r_squared(predicted, true),
        "csls_precision_at_1": csls_precision(predicted[shown], true[shown]),
    }
    return RowFit(fitted, figures)


def apply(plan: RowPlan, fitted: RowFit | None, inputs: Inputs) -> RowChanges:
    """Carry out the plan on `inputs.target`, in place; all values are computed before the first is written."""
    matrix = embedding_matrix(inputs.target)
    linear = fitted.map if fitted is not None else None
    written = [
        (entry.ids, new_rows(entry, plan.sets, linear, inputs))
        for entry in plan.entries
        if entry.transform is not Kept.KEEP and entry.ids is not None
    ]
    before = matrix[torch.from_numpy(plan.changed)].clone()
    for ids, values in written:
        matrix[torch.from_numpy(ids)] = values.to(matrix.dtype)
    return RowChanges(inputs.target, ids=plan.changed, before=before)


def diagnose(plan: RowPlan, fitted: RowFit | None, inputs: Inputs, changes: RowChanges) -> dict[str, float]:
    """Measure what was found and what was done, after `apply`; every value finite.

    `dead_rows.CYRILLIC`: rows never learned, per Unicode script. `median_norm.*` and `mean_pairwise_cosine.*`: of the
    dead rows before and after, and of the trained ones. `change_norm`: mean length of the change of a changed row.
    `text_share_*`: share of the text's tokens whose rows were changed, or dead.
    """
    matrix, sets = embedding_matrix(inputs.target), plan.sets
    figures: dict[str, float] = dict(fitted.figures) if fitted is not None else {}
    scripts = Counter(script_of(inputs.tokens[row] or "") for row in sets.dead)
    figures |= {"dead_rows": len(sets.dead), **{f"dead_rows.{name}": n for name, n in scripts.most_common()}}
    figures |= {"dead_language_codes": len(sets.dead_codes)}
    moments: dict[str, Tensor] = {}
    for name, ids in (("dead", sets.dead), ("dead_codes", sets.dead_codes)):
        rows = matrix[torch.from_numpy(ids)]
        moments |= {f"{name}_before": _as_before(rows, ids, changes), f"{name}_after": rows}
    moments |= {name: matrix[torch.from_numpy(getattr(sets, name))] for name in ("trained", "trained_codes")}
    for name, values in moments.items():
        figures[f"mean_pairwise_cosine.{name}"] = mean_pairwise_cosine(values)
        figures[f"median_norm.{name}"] = float(values.norm(dim=1).median()) if len(values) else math.nan
    now = matrix[torch.from_numpy(changes.ids)]
    total = inputs.counts.sum()
    figures |= {
        "changed_rows": len(changes.ids),
        "change_norm": float((now - changes.before).norm(dim=1).mean()) if len(now) else 0.0,
        "text_share_changed": float(inputs.counts[changes.ids].sum() / total) if total else math.nan,
        "text_share_dead": float(inputs.counts[sets.dead].sum() / total) if total else math.nan,
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _as_before(rows: Tensor, ids: np.ndarray, changes: RowChanges) -> Tensor:
    """Put the overwritten values of `ids` back into a copy of their rows."""
    rows = rows.clone()
    _, mine, overwritten = np.intersect1d(ids, changes.ids, return_indices=True)
    rows[torch.from_numpy(mine)] = changes.before[torch.from_numpy(overwritten)]
    return rows

"""Transfer through the embedding matrices: `recentre`, `repair`, `replace` and `delta`.

All rewrite rows of the target's one tied matrix, which is its encoder's input, its decoder's input and its output layer
at once (with `input_only` the output layer is untied from it first). With s the target's embedding scale, e_A and e_B
rows of source and target, and W, c the map e_A(v) W + c ~ s e_B(v) over rows that both models have learned, any matrix
(ridge) or a rotation with one factor (Procrustes):

    recentre   e_B(v) = mean + rho (e_B(v) - g) / |e_B(v) - g|           for the rows v that B never learned
    repair     e_B(v) = mean + rho (m(v) - mean m), m = (e_A W + c) / s  for those of them that A has learned
    replace    the same                                                  for all rows that A has learned
    delta      e_B(v) += alpha n_v / (n_v + k) [d(v) - mean d of unseen rows] W / s,   d = e_A after - e_A before

mean and rho: the new rows lie around the mean of the trained ones, at their median distance from it (x norm_scale).
g: the common drift of never-seen rows (dead_rows.py). n_v: how often v occurs in the text.

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
from transformers import PreTrainedModel

from polygraft.errors import TransferError
from polygraft.models import untied
from polygraft.models.checkpoints import tied_names
from polygraft.models.unseen import output_bias
from polygraft.models.vocabulary import script_of
from polygraft.transfer.linear_map import (
    CSLS_MAX_ROWS,
    HELDOUT_EVERY,
    LinearMap,
    csls_precision,
    mean_pairwise_cosine,
    moments_of,
    r_squared,
)
from polygraft.transfer.plan import KEEP, Entry, Inputs, Plan, keep_whole
from polygraft.transfer.rows.sorting import (
    dead_entries,
    dead_rows_of,
    delta_entries,
    embedding_matrix,
    from_source,
    joined,
    kept_entries,
    row_sets,
    with_control,
)
from polygraft.transfer.rows.values import embedding_scale, matrix_to_map, new_biases, new_rows

MIN_FIT_ROWS = 50
BIAS = "final_logits_bias"


@dataclass(frozen=True)
class Fit:
    """The fitted map, and how well it does on the tenth of the rows that it was not fitted on."""

    map: LinearMap
    figures: dict[str, float]


@dataclass(frozen=True)
class Changes:
    """The changed model, and what was overwritten: int64 `ids`, ascending, and `before`, these rows (len(ids), d)."""

    model: PreTrainedModel
    ids: np.ndarray
    before: Tensor


def plan(inputs: Inputs) -> Plan:
    """Decide for every row of the target's embedding matrix where its new value comes from.

    Raises:
        TransferError: input and output embeddings of the target are not one tensor.
    """
    vocabulary, mode = inputs.vocabulary, inputs.settings.mode
    matrix = embedding_matrix(inputs.target)
    if untied.is_untied(inputs.target):
        raise TransferError(
            "the target's input and output embeddings are two tensors; only tied ones can be changed. Transfer into "
            "the model as it was before input_only."
        )
    dead = dead_rows_of(matrix, vocabulary)
    sets = row_sets(inputs, dead)
    tied = tied_names(inputs.target)
    owner = next(name for name, t in inputs.target.state_dict().items() if t.data_ptr() == matrix.data_ptr())
    changed = delta_entries(owner, sets) if mode == "delta" else dead_entries(owner, sets, mode)
    entries = [entry for entry in changed if entry.ids is not None and len(entry.ids)]
    entries = with_control(entries, inputs.settings.control)
    sets["changed"] = joined([entry.ids for entry in entries if entry.ids is not None])
    lost = len(sets["dead"]) + len(sets["dead_codes"])
    warnings = (
        [] if lost or mode in ("delta", "replace") else [f"no row that was never learned was found ({dead.reason})"]
    )
    if mode == "delta" and lost:
        warnings.append(f"{lost} rows of the target were never learned, and delta leaves them so")
    if mode == "replace":
        warnings.append("rows that the target has learned are overwritten: a control, where repair is the method")
    figures = {f"dead_rows_{name}": value for name, value in dead.figures.items()}
    tied, others = _other_tensors(inputs, owner, tied, any(map(from_source, entries)))
    entries += [*kept_entries(owner, inputs, sets), *others]
    return Plan(entries, tied, sets, figures, warnings, inputs.target.state_dict())


def _other_tensors(
    inputs: Inputs, owner: str, tied: dict[str, str], mapped: bool
) -> tuple[dict[str, str], list[Entry]]:
    """Return the ties that stay, and an entry for each tensor but the embedding matrix."""
    settings, special = inputs.settings, {}
    if settings.input_only:
        tied = {alias: name for alias, name in tied.items() if alias != untied.OUTPUT}
        why = "no longer tied to what is read: keeps the values that it had"
        special[untied.OUTPUT] = Entry(untied.OUTPUT, "whole tensor", None, "target", KEEP, why)
    if settings.final_logits_bias and mapped:
        why = "how frequent a token is, for the rows mapped from the source; less its mean over rows that both learned"
        special[BIAS] = Entry(BIAS, "whole tensor", None, "target + source", "output bias", why)
    return tied, [special.get(entry.tensor, entry) for entry in keep_whole(inputs.target, owner, tied)]


def fit(plan: Plan, inputs: Inputs) -> Fit | None:
    """Fit W and c where the plan has use for them: on the adapted source's rows, for `delta` on the rows before.

    Row v weighs 1 + log(1 + n_v). Every tenth row, in an order shuffled with a fixed seed, is held out.

    Raises:
        TransferError: fewer rows that both models have learned than the source is wide, or fewer than 50.
    """
    if not any(map(from_source, plan.entries)):
        return None
    source = matrix_to_map(inputs)
    ids = np.random.default_rng(0).permutation(plan.row_sets["fit"])
    least = max(MIN_FIT_ROWS, source.shape[1])  # with fewer rows than unknowns, a map fits anything
    if len(ids) < least:
        raise TransferError(
            f"only {len(ids)} tokens have rows that both models learned, but the source is {source.shape[1]} wide and "
            f"at least {least} are needed to fit the map between their embeddings. Use mode: recentre, a narrower "
            "source, or one that shares more of the target's vocabulary."
        )
    target = embedding_matrix(inputs.target)
    heldout, ids = np.sort(ids[::HELDOUT_EVERY]), np.sort(np.delete(ids, np.s_[::HELDOUT_EVERY]))
    weights = 1 + np.log1p(inputs.counts)
    source_of, scale = inputs.vocabulary.source_of, embedding_scale(inputs.target)
    moments = moments_of(source, source_of[ids], target, ids, weights[ids])
    rotated = inputs.settings.estimator == "procrustes"
    fitted = moments.procrustes() if rotated else moments.solve(inputs.settings.ridge_lambda)
    fitted = LinearMap(fitted.weight * scale, fitted.intercept * scale)  # of s e_B: a scaled target scales W and c
    predicted, true = fitted(source[torch.from_numpy(source_of[heldout])]), target[torch.from_numpy(heldout)] * scale
    shown = slice(None, None, -(-len(heldout) // CSLS_MAX_ROWS))
    figures = {
        "fit_rows": len(ids),
        "heldout_rows": len(heldout),
        "heldout_r2": r_squared(predicted, true),
        "csls_precision_at_1": csls_precision(predicted[shown], true[shown]),
    }
    return Fit(fitted, figures)


def apply(plan: Plan, fitted: Fit | None, inputs: Inputs) -> Changes:
    """Carry out the plan on `inputs.target`, in place; all values are computed before the first is written."""
    matrix = embedding_matrix(inputs.target)
    linear = fitted.map if fitted is not None else None
    written = [
        (entry.ids, from_source(entry), new_rows(entry, plan, linear, inputs))
        for entry in plan.entries
        if entry.transform != KEEP and entry.ids is not None
    ]
    if inputs.settings.input_only:
        untied.untie_output(inputs.target)
    ids = plan.row_sets["changed"]
    changes = Changes(inputs.target, ids, matrix[torch.from_numpy(ids)].clone())
    for rows, mapped, values in written:
        matrix[torch.from_numpy(rows)] = values.to(matrix.dtype)
        if inputs.settings.final_logits_bias and mapped:
            output_bias(inputs.target)[torch.from_numpy(rows)] = new_biases(rows, plan, inputs)
    return changes


def diagnose(plan: Plan, fitted: Fit | None, inputs: Inputs, changes: Changes) -> dict[str, float]:
    """Measure what was found and what was done, after `apply`; every value finite.

    `dead_rows.CYRILLIC`: rows never learned, per Unicode script. `median_norm.*` and `mean_pairwise_cosine.*`: of the
    dead rows before and after, and of the trained ones. `change_norm`: mean length of the change of a changed row.
    `text_share_*`: share of the text's tokens whose rows were changed, or dead.
    """
    matrix, sets = embedding_matrix(inputs.target), plan.row_sets
    figures: dict[str, float] = dict(fitted.figures) if fitted is not None else {}
    scripts = Counter(script_of(inputs.tokens[row] or "") for row in sets["dead"])
    figures |= {"dead_rows": len(sets["dead"]), **{f"dead_rows.{name}": n for name, n in scripts.most_common()}}
    figures |= {"dead_language_codes": len(sets["dead_codes"])}
    for name in ("dead", "dead_codes", "trained", "trained_codes"):
        rows = matrix[torch.from_numpy(sets[name])]
        moments = {name: rows} if name.startswith("trained") else {
            f"{name}_before": _as_before(rows, sets[name], changes), f"{name}_after": rows,
        }  # fmt: skip
        for moment, values in moments.items():
            figures[f"mean_pairwise_cosine.{moment}"] = mean_pairwise_cosine(values)
            figures[f"median_norm.{moment}"] = float(values.norm(dim=1).median()) if len(values) else math.nan
    now = matrix[torch.from_numpy(changes.ids)]
    total = inputs.counts.sum()
    figures |= {
        "changed_rows": len(changes.ids),
        "change_norm": float((now - changes.before).norm(dim=1).mean()) if len(now) else 0.0,
        "text_share_changed": float(inputs.counts[changes.ids].sum() / total) if total else math.nan,
        "text_share_dead": float(inputs.counts[sets["dead"]].sum() / total) if total else math.nan,
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _as_before(rows: Tensor, ids: np.ndarray, changes: Changes) -> Tensor:
    """Put the overwritten values of `ids` back into a copy of their rows."""
    rows = rows.clone()
    _, mine, overwritten = np.intersect1d(ids, changes.ids, return_indices=True)
    rows[torch.from_numpy(mine)] = changes.before[torch.from_numpy(overwritten)]
    return rows

"""Transfer through the embedding matrices: `recentre`, `repair` and `delta`.

All three rewrite rows of the target's one tied matrix, which is its encoder's input, its decoder's input and its output
layer at once. With s the target's embedding scale, e_A and e_B rows of source and target, and W, c the ridge map
e_A(v) W + c ~ s e_B(v) over rows that both models have learned:

    recentre   e_B(v) = mean + rho (e_B(v) - g) / |e_B(v) - g|           for the rows v that B never learned
    repair     e_B(v) = mean + rho (m(v) - mean m), m = (e_A W + c) / s  for those of them that A has learned
    delta      e_B(v) += alpha n_v / (n_v + k) [d(v) - mean d of unseen rows] W / s,   d = e_A after - e_A before

mean and rho: the new rows lie around the mean of the trained ones, at their median distance from it (x norm_scale).
g: the common drift of never-seen rows (dead_rows.py). n_v: how often v occurs in the text.

`recentre` transfers nothing. It is what every claim of a benefit from the source has to beat.
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
from polygraft.models.checkpoints import tied_names
from polygraft.models.vocabulary import script_of
from polygraft.transfer.dead_rows import DeadRows, find_dead_rows
from polygraft.transfer.linear_map import (
    BLOCK_ROWS,
    CSLS_MAX_ROWS,
    LinearMap,
    csls_precision,
    fit_ridge,
    mean_pairwise_cosine,
    r_squared,
)
from polygraft.transfer.plan import KEEP, Entry, Inputs, Plan, keep_whole
from polygraft.transfer_settings import Embeddings

RECENTRE, RECENTRE_CODES, REPAIR, DELTA = "recentre", "recentre among language codes", "repair", "delta"
MIN_FIT_ROWS = 50
HELDOUT_EVERY = 10
MIN_TRAINED_CODES = 2
MAPPED_SCALE, RECENTRED_SCALE = 0.8, 1.0  # lowest denoising loss on the nano pair's development text, before training


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


def required(settings: Embeddings) -> tuple[str, ...]:
    """Name the inputs without which a mode cannot run."""
    both = ("source_before", "source_after", "text")
    return {"recentre": (), "repair": ("source_after",), "delta": both}[settings.mode]


def plan(inputs: Inputs) -> Plan:
    """Decide for every row of the target's embedding matrix where its new value comes from.

    Raises:
        TransferError: input and output embeddings of the target are not one tensor.
    """
    vocabulary, mode = inputs.vocabulary, inputs.settings.mode
    matrix = embedding_matrix(inputs.target)
    if inputs.target.get_output_embeddings().weight.data_ptr() != matrix.data_ptr():
        raise TransferError("the target's input and output embeddings are two tensors; only tied ones can be changed.")
    anchors = [*vocabulary.unused[:1], *vocabulary.special[:1]]
    pad = int(vocabulary.pad[0]) if len(vocabulary.pad) else None
    dead = find_dead_rows(matrix, np.union1d(vocabulary.ordinary, vocabulary.language_code), anchors, pad)
    sets = _row_sets(inputs, dead)
    tied = tied_names(inputs.target)
    owner = next(name for name, t in inputs.target.state_dict().items() if t.data_ptr() == matrix.data_ptr())
    changed = _delta_entries(owner, sets) if mode == "delta" else _dead_entries(owner, sets, mode == "repair")
    entries = [entry for entry in changed if entry.ids is not None and len(entry.ids)]
    sets["changed"] = _joined([entry.ids for entry in entries if entry.ids is not None])
    lost = len(sets["dead"]) + len(sets["dead_codes"])
    warnings = [] if lost or mode == "delta" else [f"no row that was never learned was found ({dead.reason})"]
    if mode == "delta" and lost:
        warnings.append(f"{lost} rows of the target were never learned, and delta leaves them so")
    figures = {f"dead_rows_{name}": value for name, value in dead.figures.items()}
    entries += [*_kept_entries(owner, inputs, sets), *keep_whole(inputs.target, owner, tied)]
    return Plan(entries, tied, sets, figures, warnings, inputs.target.state_dict())


def embedding_matrix(model: PreTrainedModel) -> Tensor:
    """Return a model's input embeddings, (rows, width), without a gradient; the tensor itself, not a copy."""
    return model.get_input_embeddings().weight.detach()  # type: ignore[operator]


def _row_sets(inputs: Inputs, dead: DeadRows) -> dict[str, np.ndarray]:
    """Sort the target's rows by what each side has learned of them."""
    vocabulary, matrix = inputs.vocabulary, embedding_matrix(inputs.target)
    source = inputs.source_after if inputs.source_after is not None else inputs.source_before
    tokens, codes = vocabulary.ordinary, vocabulary.language_code
    mapped = tokens[vocabulary.source_of[tokens] >= 0] if source is not None else tokens[:0]
    if source is not None:
        source_ids = np.unique(vocabulary.source_of[mapped])
        pad = source.config.pad_token_id
        source_dead = find_dead_rows(embedding_matrix(source), source_ids, pad=pad).ids
        learned = mapped[~np.isin(vocabulary.source_of[mapped], source_dead)]
    else:
        learned = mapped
    # Text names locales (ru_RU), codes to the tokenizer: a few sightings take one out of the ball, but make no
    # language of it. One that was read as a language was so in all its documents, and is far from the drift.
    strayed = (matrix[torch.from_numpy(codes)] - dead.drift).norm(dim=1) < dead.drift.norm() / 2
    dead_codes = codes[strayed.numpy()] if len(dead.ids) else codes[:0]
    return {
        "dead": np.intersect1d(dead.ids, tokens),
        "dead_codes": dead_codes,
        "trained": np.setdiff1d(tokens, dead.ids),
        "trained_codes": np.setdiff1d(codes, dead_codes),
        "mapped": mapped,
        "learned_by_source": learned,
        "fit": np.setdiff1d(learned, dead.ids),
        "seen": mapped[inputs.counts[mapped] > 0],
    }


def _dead_entries(owner: str, sets: dict[str, np.ndarray], repair: bool) -> list[Entry]:
    known = np.intersect1d(sets["dead"], sets["learned_by_source"]) if repair else sets["dead"][:0]
    unknown = np.setdiff1d(sets["dead"], known)
    why = "never learned by the target: all such rows lie on one drift of the softmax, which is removed"
    why_source = "never learned by the target, but by the source: its row, mapped and scaled like trained rows"
    # A language code is read as a language and predicted first, in one place: rows that play this role are each other's
    # best guess. Among text tokens it would get a text token's logit. Its own noise keeps it apart from other codes.
    why_code = "language unknown to the target: a language in general, around the mean of the codes that it knows"
    codes = RECENTRE_CODES if len(sets["trained_codes"]) >= MIN_TRAINED_CODES else RECENTRE
    return [
        Entry(owner, "text tokens, mapped", known, "source", REPAIR, why_source),
        Entry(owner, "text tokens, recentred", unknown, "target", RECENTRE, why),
        Entry(owner, "language codes, recentred", sets["dead_codes"], "target", codes, why_code),
    ]


def _delta_entries(owner: str, sets: dict[str, np.ndarray]) -> list[Entry]:
    why = "occurs in the text: what adaptation changed in the source's row is added, mapped"
    return [Entry(owner, "text tokens, changed", sets["seen"], "target + source", DELTA, why)]


def _kept_entries(owner: str, inputs: Inputs, sets: dict[str, np.ndarray]) -> list[Entry]:
    vocabulary = inputs.vocabulary
    text = "no text, or no source, to change it by" if inputs.settings.mode == "delta" else "trained in the target"
    classes = [
        ("text tokens, kept", vocabulary.ordinary, text),
        ("language codes, kept", vocabulary.language_code, "the target's own; the source has no such tokens"),
        ("special tokens", vocabulary.special, "their meaning is each model's own"),
        ("<pad>", vocabulary.pad, "is never looked at, and its low output probability is right"),
        ("rows without a token", vocabulary.unused, "never read; their low output probability is right"),
    ]
    left = [(name, np.setdiff1d(ids, sets["changed"]), why) for name, ids, why in classes]
    return [Entry(owner, name, ids, "target", KEEP, why) for name, ids, why in left if len(ids)]


def fit(plan: Plan, inputs: Inputs) -> Fit | None:
    """Fit W and c where the plan has use for them: `repair` on the adapted source's rows, `delta` on the rows before.

    Row v weighs 1 + log(1 + n_v). Every tenth row, in an order shuffled with a fixed seed, is held out.

    Raises:
        TransferError: fewer rows that both models have learned than the source is wide, or fewer than 50.
    """
    if not any(entry.transform in (REPAIR, DELTA) for entry in plan.entries):
        return None
    source = _matrix_to_map(inputs)
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
    source_of, scale = inputs.vocabulary.source_of, _scale(inputs.target)
    fitted = fit_ridge(source, source_of[ids], target, ids, weights[ids], inputs.settings.ridge_lambda)
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


def _matrix_to_map(inputs: Inputs) -> Tensor:
    model = inputs.source_before if inputs.settings.mode == "delta" else inputs.source_after
    if model is None:
        raise TransferError(f"mode {inputs.settings.mode} needs the source model.")
    return embedding_matrix(model)


def _scale(target: PreTrainedModel) -> float:
    """s: what the model multiplies an embedding by before it reads it."""
    config = target.config
    return float(config.d_model) ** 0.5 if getattr(config, "scale_embedding", False) else 1.0


def apply(plan: Plan, fitted: Fit | None, inputs: Inputs) -> Changes:
    """Carry out the plan on `inputs.target`, in place; all values are computed before the first is written."""
    matrix = embedding_matrix(inputs.target)
    written = []
    for entry in plan.entries:
        if entry.transform != KEEP and entry.ids is not None:
            written.append((entry.ids, _new_rows(entry.transform, entry.ids, plan, fitted, inputs)))
    ids = plan.row_sets["changed"]
    changes = Changes(inputs.target, ids, matrix[torch.from_numpy(ids)].clone())
    for rows, values in written:
        matrix[torch.from_numpy(rows)] = values.to(matrix.dtype)
    return changes


def _new_rows(transform: str, ids: np.ndarray, plan: Plan, fitted: Fit | None, inputs: Inputs) -> Tensor:
    matrix, sets, settings = embedding_matrix(inputs.target), plan.row_sets, inputs.settings
    trained = matrix[torch.from_numpy(sets["trained"])]
    if transform == RECENTRE_CODES:
        trained = matrix[torch.from_numpy(sets["trained_codes"])]
    if transform in (RECENTRE, RECENTRE_CODES):
        drift = matrix[torch.from_numpy(_joined([sets["dead"], sets["dead_codes"]]))].mean(0)
        own = torch.nn.functional.normalize(matrix[torch.from_numpy(ids)] - drift, dim=1)
        return place(own, trained, settings.norm_scale or RECENTRED_SCALE)
    if fitted is None:
        raise TransferError(f"'{transform}' needs a fitted map.")
    if transform == REPAIR:
        source = _matrix_to_map(inputs)
        mapped = fitted.map(source[torch.from_numpy(inputs.vocabulary.source_of[ids])]) / _scale(inputs.target)
        return place(mapped - mapped.mean(0), trained, settings.norm_scale or MAPPED_SCALE)
    return matrix[torch.from_numpy(ids)] + mapped_change(ids, plan, fitted, inputs)


def place(offsets_Nd: Tensor, reference_Md: Tensor, norm_scale: float = 1.0) -> Tensor:
    """Return rows around the mean of the reference rows, at their median distance from it (x `norm_scale`).

    One factor for all rows, so that the offsets keep their relative lengths; (N, d).
    """
    mean_d = reference_Md.mean(0)
    distance = torch.cat([(block - mean_d).norm(dim=1) for block in reference_Md.split(BLOCK_ROWS)]).median()
    length = offsets_Nd.norm(dim=1).median()
    return mean_d + offsets_Nd * (norm_scale * distance / length if length > 0 else 0.0)


def mapped_change(ids: np.ndarray, plan: Plan, fitted: Fit, inputs: Inputs) -> Tensor:
    """Return what `delta` adds to the rows `ids`: (len(ids), d_B) in fp32."""
    settings, source_of, sets = inputs.settings, inputs.vocabulary.source_of, plan.row_sets
    if inputs.source_before is None or inputs.source_after is None:
        raise TransferError("mode delta needs the source as it was before and as it is after adaptation.")
    before, after = embedding_matrix(inputs.source_before), embedding_matrix(inputs.source_after)

    def difference(rows: np.ndarray) -> Tensor:
        which = torch.from_numpy(source_of[rows])
        return after[which].double() - before[which].double()

    # weight decay and the softmax move unseen rows too, all alike: that is not what adaptation learned
    unseen = np.setdiff1d(sets["mapped"], sets["seen"])
    common = difference(unseen).mean(0) if len(unseen) else 0.0
    seen_N = torch.from_numpy(inputs.counts[ids]).double()
    shrunk_N = settings.alpha * seen_N / (seen_N + settings.shrinkage_count)
    change = (difference(ids) - common) @ fitted.map.weight / _scale(inputs.target)
    return (shrunk_N[:, None] * change).float()


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate([*arrays, np.zeros(0, dtype=np.int64)]))


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

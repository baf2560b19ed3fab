"""The new values of rows: mapped from the source, recentred, or changed as the source changed.

N rows that are written, M rows that they are compared with, d width of the target.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polygraft.errors import TransferError
from polygraft.models.matrices import embedding_matrix, embedding_scale
from polygraft.transfers.contract import Inputs
from polygraft.transfers.controls import PERMUTED, RANDOM, cycle
from polygraft.transfers.linear_map import BLOCK_ROWS, LinearMap
from polygraft.transfers.plan import Entry
from polygraft.transfers.rows.sorting import RowSets, RowTransform, joined

MAPPED_SCALE, RECENTRED_SCALE = 0.8, 1.0  # lowest denoising loss on the nano pair's development text, before training


def new_rows(entry: Entry, sets: RowSets, fitted: LinearMap | None, inputs: Inputs) -> Tensor:
    """Return the new values of an entry's rows, (N, d): this is where a row of mBART's embeddings gets its value."""
    matrix, settings = embedding_matrix(inputs.target), inputs.settings
    ids = entry.ids if entry.ids is not None else np.arange(len(matrix))
    if entry.transform in (RowTransform.RECENTRE, RowTransform.RECENTRE_CODES):
        like = sets.trained_codes if entry.transform is RowTransform.RECENTRE_CODES else sets.trained
        drift = matrix[torch.from_numpy(joined([sets.dead, sets.dead_codes]))].mean(0)
        own = torch.nn.functional.normalize(matrix[torch.from_numpy(ids)] - drift, dim=1)
        return place(own, matrix[torch.from_numpy(like)], settings.norm_scale or RECENTRED_SCALE)
    if fitted is None:
        raise TransferError(f"'{entry.done}' needs a fitted map.")
    if entry.transform is RowTransform.REPAIR:
        source = matrix_to_map(inputs)
        mapped = fitted(source[torch.from_numpy(inputs.vocabulary.source_of[ids])]) / embedding_scale(inputs.target)
        trained = matrix[torch.from_numpy(sets.trained)]
        placed = place(mapped - mapped.mean(0), trained, settings.norm_scale or MAPPED_SCALE)
        return in_place_of(placed, placed.mean(0), settings.control, inputs.seed)
    change = mapped_change(ids, sets, fitted, inputs)
    change = in_place_of(change, torch.zeros_like(change[0]), settings.control, inputs.seed)
    return matrix[torch.from_numpy(ids)] + change


def in_place_of(rows_Nd: Tensor, centre_d: Tensor, control: str, seed: int) -> Tensor:
    """Return what a control writes where `rows_Nd` would be written; with control "none", these.

    "permuted": the same rows, along one random cycle, so that none stays where it was. "random": Gaussian directions
    from `centre_d`, each row as far from it as it was.

    Raises:
        TransferError: a single row, which cannot be permuted.
    """
    generator = torch.Generator().manual_seed(seed)
    if control == PERMUTED:
        if len(rows_Nd) < 2:
            raise TransferError("control: permuted: a single row is written, which has none to change places with.")
        return rows_Nd[cycle(len(rows_Nd), generator)]
    if control == RANDOM:
        directions = torch.randn(rows_Nd.shape, generator=generator, dtype=torch.float64).to(rows_Nd.dtype)
        lengths_N1 = (rows_Nd - centre_d).norm(dim=1, keepdim=True)
        return centre_d + lengths_N1 * torch.nn.functional.normalize(directions, dim=1)
    return rows_Nd


def place(offsets_Nd: Tensor, reference_Md: Tensor, norm_scale: float = 1.0) -> Tensor:
    """Return rows around the mean of the reference rows, at their median distance from it (x `norm_scale`).

    One factor for all rows, so that the offsets keep their relative lengths; (N, d).
    """
    length = offsets_Nd.norm(dim=1).median()
    factor = norm_scale * distance_from_mean(reference_Md) / length if length > 0 else 0.0
    return reference_Md.mean(0) + offsets_Nd * factor


def distance_from_mean(rows_Md: Tensor) -> Tensor:
    """Return the median distance of rows from their mean (scalar)."""
    mean_d = rows_Md.mean(0)
    return torch.cat([(block - mean_d).norm(dim=1) for block in rows_Md.split(BLOCK_ROWS)]).median()


def mapped_change(ids: np.ndarray, sets: RowSets, fitted: LinearMap, inputs: Inputs) -> Tensor:
    """Return what `delta` adds to the rows `ids`: (len(ids), d) in fp32."""
    settings, source_of = inputs.settings, inputs.vocabulary.source_of
    before, after = embedding_matrix(inputs.source_before), embedding_matrix(inputs.source_after)

    def difference(rows: np.ndarray) -> Tensor:
        which = torch.from_numpy(source_of[rows])
        return after[which].double() - before[which].double()

    # weight decay and the softmax move unseen rows too, all alike: that is not what adaptation learned
    unseen = np.setdiff1d(sets.mapped, sets.seen)
    common = difference(unseen).mean(0) if len(unseen) else 0.0
    seen_N = torch.from_numpy(inputs.counts[ids]).double()
    shrunk_N = settings.alpha * seen_N / (seen_N + settings.shrinkage_count)
    change = (difference(ids) - common) @ fitted.weight / embedding_scale(inputs.target)
    return (shrunk_N[:, None] * change).float()


def matrix_to_map(inputs: Inputs) -> Tensor:
    """Return the source's rows that the map is fitted on: of `delta`, as they were before adaptation."""
    return embedding_matrix(inputs.source_before if inputs.settings.mode == "delta" else inputs.source_after)

"""The new values of rows: mapped from the source, recentred, or changed as the source changed.

N rows that are written, M rows that they are compared with, d width of the target.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from polygraft.errors import TransferError
from polygraft.transfer.linear_map import BLOCK_ROWS, LinearMap
from polygraft.transfer.plan import Inputs, Plan
from polygraft.transfer.row_plan import RECENTRE, RECENTRE_CODES, REPAIR, embedding_matrix, joined

MAPPED_SCALE, RECENTRED_SCALE = 0.8, 1.0  # lowest denoising loss on the nano pair's development text, before training


def new_rows(transform: str, ids: np.ndarray, plan: Plan, fitted: LinearMap | None, inputs: Inputs) -> Tensor:
    matrix, sets, settings = embedding_matrix(inputs.target), plan.row_sets, inputs.settings
    trained = matrix[torch.from_numpy(sets["trained"])]
    if transform == RECENTRE_CODES:
        trained = matrix[torch.from_numpy(sets["trained_codes"])]
    if transform in (RECENTRE, RECENTRE_CODES):
        drift = matrix[torch.from_numpy(joined([sets["dead"], sets["dead_codes"]]))].mean(0)
        own = torch.nn.functional.normalize(matrix[torch.from_numpy(ids)] - drift, dim=1)
        return place(own, trained, settings.norm_scale or RECENTRED_SCALE)
    if fitted is None:
        raise TransferError(f"'{transform}' needs a fitted map.")
    if transform == REPAIR:
        source = matrix_to_map(inputs)
        mapped = fitted(source[torch.from_numpy(inputs.vocabulary.source_of[ids])]) / embedding_scale(inputs.target)
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


def mapped_change(ids: np.ndarray, plan: Plan, fitted: LinearMap, inputs: Inputs) -> Tensor:
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
    change = (difference(ids) - common) @ fitted.weight / embedding_scale(inputs.target)
    return (shrunk_N[:, None] * change).float()


def matrix_to_map(inputs: Inputs) -> Tensor:
    model = inputs.source_before if inputs.settings.mode == "delta" else inputs.source_after
    if model is None:
        raise TransferError(f"mode {inputs.settings.mode} needs the source model.")
    return embedding_matrix(model)


def embedding_scale(target: PreTrainedModel) -> float:
    """s: what the model multiplies an embedding by before it reads it."""
    config = target.config
    return float(config.d_model) ** 0.5 if getattr(config, "scale_embedding", False) else 1.0

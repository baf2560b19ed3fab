"""Transfer through one trainable map from the source's rows to the target's: denoising moves all mapped rows at once.

    e_B(v) = r(v) + rho / sqrt(d_B) [x(v) M + c]      for the rows v that B never learned and A has learned

r(v): the row that mode `repair` of `embeddings` gives v. x(v): A's row, centred and of length 1 in the median. rho: the
trained rows' median distance from their mean, so that a step of AdamW is the same share of a row at every width. M and
c begin at zero, where all is as `repair` leaves it, and are the only weights that are trained. The gradient of one
token's row moves M, and with it the rows of all tokens: also of those that the text never shows.

N rows that are mapped, V rows of the target, a width of the source, b width of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from polygraft.data.dataset import TextDataset, text_dataset
from polygraft.errors import TransferError
from polygraft.models.checkpoints import max_positions
from polygraft.models.untied import INPUT
from polygraft.objectives.denoising import Denoising
from polygraft.objectives.noise import Noise
from polygraft.settings import TextData
from polygraft.stages.adapt import EVAL_NOISE
from polygraft.training.train import train
from polygraft.transfer.linear_map import HELDOUT_EVERY
from polygraft.transfer.methods import Embeddings
from polygraft.transfer.plan import Inputs, Plan
from polygraft.transfer.rows import embeddings
from polygraft.transfer.rows.embeddings import Fit
from polygraft.transfer.rows.sorting import embedding_matrix, from_source
from polygraft.transfer.rows.values import distance_from_mean

ATTRIBUTE = "shared_map"
MAPPED = "mapped"
MIN_DOCUMENTS = 2


@dataclass(frozen=True)
class Changes:
    """The model, what was overwritten in its rows, the repaired rows (N, b), and what `training.train` returned."""

    model: PreTrainedModel
    rows: embeddings.Changes
    repaired: Tensor
    trained: dict[str, Any]


def plan(inputs: Inputs) -> Plan:
    """Return the plan of `repair`, whose mapped rows are then trained together.

    Raises:
        TransferError: there are none.
    """
    made = embeddings.plan(_repair(inputs))
    why = "never learned by the target, but by the source: its row, by a map that denoising trains for all of them"
    entries = [replace(e, transform=f"{e.transform}, map trained", reason=why) if from_source(e) else e
               for e in made.entries]  # fmt: skip
    mapped = [entry.ids for entry in entries if from_source(entry) and entry.ids is not None]
    if not mapped:
        raise TransferError(
            "method map: the source knows no row that the target never learned, so that there is none to map. Leave "
            "`transfer` out, or use method: embeddings, mode: delta."
        )
    return replace(made, entries=entries, row_sets=made.row_sets | {MAPPED: mapped[0]})


def _repair(inputs: Inputs) -> Inputs:
    settings = inputs.settings
    start = Embeddings(mode="repair", ridge_lambda=settings.ridge_lambda, norm_scale=settings.norm_scale)
    return replace(inputs, settings=start)


def fit(plan: Plan, inputs: Inputs) -> Fit | None:
    """Fit the map that training starts from, as mode `repair` does."""
    return embeddings.fit(plan, _repair(inputs))


def apply(plan: Plan, fitted: Fit | None, inputs: Inputs) -> Changes:
    """Train the map, and write the rows that it gives; goes on from the last checkpoint in `inputs.out_dir`."""
    model: Any = inputs.target
    rows = embeddings.apply(plan, fitted, _repair(inputs))
    ids, matrix = torch.from_numpy(plan.row_sets[MAPPED]), embedding_matrix(model)
    repaired = matrix[ids].clone()
    source_Na = embedding_matrix(inputs.source_after)[torch.from_numpy(inputs.vocabulary.source_of)[ids]]
    reference = matrix[torch.from_numpy(plan.row_sets["trained"])]
    model.requires_grad_(False)
    model.add_module(ATTRIBUTE, RowMap(ids, source_Na, reference))
    data = documents(inputs)
    trained = train(
        model, inputs.target_tokenizer, inputs.settings, _objective(inputs, Noise(inputs.seed)),
        _objective(inputs, EVAL_NOISE), data, seed=inputs.seed, out_dir=inputs.out_dir,
    )  # fmt: skip
    trained["trainable_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        matrix = embedding_matrix(model)
        matrix.copy_(model.shared_map(matrix))
    del model.shared_map
    model.requires_grad_(True).eval()
    return Changes(model, rows, repaired, trained)


class RowMap(nn.Module):
    """The change of the map: `weight` (a, b) and `bias` (b), both zero at first.

    Args:
        ids: int64 [N], the rows of the target that it moves.
        source_Na: the source's rows of these tokens.
        reference_Mb: the target's rows whose distance from their mean is the unit of a change.
    """

    def __init__(self, ids: Tensor, source_Na: Tensor, reference_Mb: Tensor) -> None:
        super().__init__()
        centred_Na = source_Na.float() - source_Na.float().mean(0)
        length = centred_Na.norm(dim=1).median().clamp_min(1e-12)
        width = reference_Mb.shape[1]
        self.unit = float(distance_from_mean(reference_Mb)) / width**0.5
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("source_Na", centred_Na / length, persistent=False)
        self.weight = nn.Parameter(torch.zeros(source_Na.shape[1], width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, matrix_Vb: Tensor) -> Tensor:
        """Return the target's matrix with its mapped rows moved, (V, b)."""
        change_Nb = self.unit * (self.source_Na @ self.weight + self.bias)  # type: ignore[operator]
        return matrix_Vb.index_add(0, self.ids, change_Nb.to(matrix_Vb.dtype))  # type: ignore[arg-type]


class MappedDenoising(Denoising):
    """Denoising by a model whose one matrix, inputs and output alike, is what its `RowMap` makes of it."""

    def loss(self, model: Any, *, masked: Tensor | None = None, **batch: Tensor) -> Tensor:
        """Return the summed cross-entropy of the whole original (`masked` only serves evaluation)."""
        return _with_mapped_rows(partial(Denoising.loss, self), model, batch)

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return losses and counts as `Denoising` does."""
        plainly = partial(Denoising.eval_sums, self)
        return _with_mapped_rows(lambda mapped, **inputs: plainly(mapped, inputs), model, batch)


class _Call(nn.Module):
    """A function of a model, as a module: what `functional_call` can lend other weights to."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, **batch: Tensor) -> Any:
        return self.function(self.model, **batch)


def _with_mapped_rows(function: Callable[..., Any], model: Any, batch: dict[str, Tensor]) -> Any:
    """Call a function of the model while its matrix is the mapped one, made once; what is tied stays tied."""
    rows_Vb = model.shared_map(model.get_input_embeddings().weight)
    return functional_call(_Call(model, function), {f"model.{INPUT}": rows_Vb}, kwargs=batch)


def _objective(inputs: Inputs, noise: Noise) -> MappedDenoising:
    settings = inputs.settings
    how = settings.mask_ratio, settings.poisson_lambda, settings.permute_sentences
    return MappedDenoising(inputs.target_tokenizer, *how, noise)


def documents(inputs: Inputs) -> tuple[TextDataset, TextDataset]:
    """Return the text to train on, and every tenth document, held out.

    Raises:
        TransferError: a single document.
    """
    if len(inputs.texts) < MIN_DOCUMENTS:
        raise TransferError("method map: the text is one document, of which none can be held out. Give more documents.")
    length = min(inputs.settings.max_length_tokens, max_positions(inputs.target))
    described = TextData(train_file="the transfer's text", lang_column="lang")
    first, second = (
        text_dataset(_Part(inputs, held_out), described, inputs.target_tokenizer, length, coded=True)
        for held_out in (False, True)
    )
    return first, second


@dataclass(frozen=True)
class _Part:
    """The documents to train on, or every tenth, as rows; gone through at every pass."""

    inputs: Inputs
    held_out: bool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, (text, lang) in enumerate(zip(self.inputs.texts, self.inputs.languages, strict=True)):
            if (number % HELDOUT_EVERY == 0) == self.held_out:
                yield {"text": text, "lang": lang}


def diagnose(plan: Plan, fitted: Fit | None, inputs: Inputs, changes: Changes) -> dict[str, float]:
    """Return those of `embeddings`, and how far training moved the mapped rows, also those that the text lacks."""
    ids = plan.row_sets[MAPPED]
    moved_N = (embedding_matrix(changes.model)[torch.from_numpy(ids)] - changes.repaired).norm(dim=1)
    unseen_N = torch.from_numpy(inputs.counts[ids] == 0)
    figures: dict[str, float] = {"mapped_rows": len(ids), "mapped_rows.unseen": int(unseen_N.sum())}
    figures |= {
        name: float(moved_N[which].mean())
        for name, which in (("map_moved.seen", ~unseen_N), ("map_moved.unseen", unseen_N))
        if which.any()
    }
    return figures | embeddings.diagnose(plan, fitted, _repair(inputs), changes.rows)

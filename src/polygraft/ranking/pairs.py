"""How well a source maps into a target: what `polygraft transfer` would have to work with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from polygraft.errors import TransferError
from polygraft.models.matrices import assert_tied, embedding_matrix, embedding_scale
from polygraft.models.vocabulary import (
    SAMPLE_TEXTS,
    alike_share,
    check_vocabularies,
    map_vocabularies,
    marks_insides,
)
from polygraft.transfers.methods import EmbeddingsTransfer
from polygraft.transfers.rows.dead_rows import DeadRows
from polygraft.transfers.rows.embeddings import fit_map
from polygraft.transfers.rows.sorting import RowSets, SourceRows, dead_rows_of, sort_rows

PROBE_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A source and a target; `refused` says why nothing can be transferred, and the figures behind it are then None.

    Attributes:
        shared_share: of the target's tokens, those that the source has too.
        alike_share: of the texts, those that both tokenizers split alike.
        heldout_r2, csls_precision_at_1: of the ridge map, on a tenth of the rows that both learned.
        fit_rows: rows that it was fitted on.
        repairable_share: of the text's tokens, those with a row that the target never learned and the source did.
    """

    source: str
    target: str
    shared_share: float
    alike_share: float
    heldout_r2: float | None = None
    csls_precision_at_1: float | None = None
    fit_rows: int | None = None
    repairable_share: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class KeptSource:
    """What is kept of a source after it was measured: its tokenizer and its rows."""

    name: str
    tokenizer: Any
    rows: SourceRows

    @classmethod
    def of(cls, name: str, model: Any, tokenizer: Any) -> KeptSource:
        return cls(name, tokenizer, SourceRows(embedding_matrix(model), model.config.pad_token_id))


@dataclass(frozen=True, kw_only=True)
class TargetRows:
    """A target's side of a transfer: its rows (V, d), what was never learned of them, the text's counts int64 [V]."""

    name: str
    tokenizer: Any
    matrix: Tensor
    scale: float
    dead: DeadRows
    sets: RowSets
    counts: np.ndarray

    @classmethod
    def of(cls, name: str, model: Any, tokenizer: Any, counts: np.ndarray) -> TargetRows:
        assert_tied(model)
        matrix = embedding_matrix(model)
        vocabulary = map_vocabularies(tokenizer, len(matrix))
        dead = dead_rows_of(matrix, vocabulary)
        sets = sort_rows(matrix, dead, vocabulary, counts, None)
        scale = embedding_scale(model)
        return cls(name=name, tokenizer=tokenizer, matrix=matrix, scale=scale, dead=dead, sets=sets, counts=counts)


def match(source: KeptSource, target: TargetRows, texts: Sequence[str]) -> Pair:
    """Fit the map between the two embedding matrices on the rows that both models learned."""
    vocabulary = map_vocabularies(target.tokenizer, len(target.matrix), source.tokenizer, len(source.rows.matrix))
    probe = [*(text[:PROBE_CHARACTERS].strip() for text in texts), *SAMPLE_TEXTS]
    alike = alike_share(source.tokenizer, target.tokenizer, probe)
    pair = Pair(source=source.name, target=target.name, shared_share=vocabulary.shared_share, alike_share=alike)
    if marks_insides(source.tokenizer):
        why = "its vocabulary marks the insides of words (##ing), the target's their beginnings (▁the)"
        return replace(pair, refused=f"{why}: equal strings are different tokens, so rows cannot be matched by token.")
    try:
        check_vocabularies(vocabulary, alike)
        sets = sort_rows(target.matrix, target.dead, vocabulary, target.counts, source.rows)
        if not len(sets.seen):
            return replace(pair, refused="no token of the text has a row in both models.")
        fitted = fit_map(
            source.rows.matrix, target.matrix, sets.fit, source_of=vocabulary.source_of, counts=target.counts,
            scale=target.scale, ridge=EmbeddingsTransfer().ridge_lambda,
        )  # fmt: skip
    except TransferError as error:
        return replace(pair, refused=str(error))
    repairable = np.intersect1d(sets.dead, sets.learned_by_source)
    return replace(
        pair,
        heldout_r2=fitted.figures["heldout_r2"],
        csls_precision_at_1=fitted.figures["csls_precision_at_1"],
        fit_rows=int(fitted.figures["fit_rows"]),
        repairable_share=float(target.counts[repairable].sum() / max(1, target.counts.sum())),
    )

"""How well a source maps into a target: what `polygraft transfer` would have to work with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from polygraft.errors import TransferError
from polygraft.models.vocabulary import alike_share, check_vocabularies, map_vocabularies, marks_insides, tokens_by_id
from polygraft.stages.transfer import SAMPLE_TEXTS
from polygraft.transfer.methods import Embeddings
from polygraft.transfer.plan import Inputs
from polygraft.transfer.rows import embeddings

PROBE_CHARACTERS = 300


@dataclass(frozen=True)
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


class Rows:
    """What is kept of a source after it was measured: its tokenizer, and the rows that `transfer` reads."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.config: PreTrainedConfig = model.config
        self.embeddings = model.get_input_embeddings()

    def get_input_embeddings(self) -> Any:
        return self.embeddings


def target_inputs(model: Any, tokenizer: Any, counts: np.ndarray) -> Inputs:
    """The target's side of a transfer, without a source."""
    rows = len(embeddings.embedding_matrix(model))
    vocabulary, tokens = map_vocabularies(tokenizer, rows), tokens_by_id(tokenizer, rows, "target")
    return Inputs(Embeddings(mode="recentre"), model, vocabulary, tokens, None, None, counts)


def match(source: Rows, target: str, target_tokenizer: Any, inputs: Inputs, texts: Sequence[str]) -> Pair:
    """Fit the map between the two embedding matrices on the rows that both models learned."""
    model: Any = source  # all that is asked of the model is its rows
    source_rows = len(embeddings.embedding_matrix(model))
    vocabulary = map_vocabularies(target_tokenizer, len(inputs.tokens), source.tokenizer, source_rows)
    probe = [*(text[:PROBE_CHARACTERS].strip() for text in texts), *SAMPLE_TEXTS]
    alike = alike_share(source.tokenizer, target_tokenizer, probe)
    pair = Pair(source.name, target, vocabulary.shared_share, alike)
    if marks_insides(source.tokenizer):
        why = "its vocabulary marks the insides of words (##ing), the target's their beginnings (▁the)"
        return replace(pair, refused=f"{why}: equal strings are different tokens, so rows cannot be matched by token.")
    both = Inputs(Embeddings(mode="delta"), inputs.target, vocabulary, inputs.tokens, model, model, inputs.counts)
    try:
        check_vocabularies(vocabulary, alike)
        plan = embeddings.plan(both)
        fitted = embeddings.fit(plan, both)
    except TransferError as error:
        return replace(pair, refused=str(error))
    if fitted is None:
        return replace(pair, refused="no token of the text has a row in both models.")
    repairable = np.intersect1d(plan.row_sets["dead"], plan.row_sets["learned_by_source"])
    return replace(
        pair,
        heldout_r2=fitted.figures["heldout_r2"],
        csls_precision_at_1=fitted.figures["csls_precision_at_1"],
        fit_rows=int(fitted.figures["fit_rows"]),
        repairable_share=float(inputs.counts[repairable].sum() / max(1, inputs.counts.sum())),
    )

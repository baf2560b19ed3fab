"""One candidate on the text: its likelihoods, what it never learned, and what a token costs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from polygraft.errors import CheckpointError
from polygraft.inference.generate import best_device
from polygraft.measure.losses import (
    HIDDEN_EVERY,
    Pass,
    denoising,
    masked_logits,
    masked_passes,
    mbart_task,
    pseudo_likelihood,
    special_tokens,
)
from polygraft.measure.pieces import Piece, cut
from polygraft.models.matrices import embedding_matrix
from polygraft.models.vocabulary import map_vocabularies
from polygraft.objectives.seq2seq import make_batch, token_losses
from polygraft.ranking.candidates import Candidate, language_code
from polygraft.ranking.text import LanguageText
from polygraft.scoring.intervals import Ratio, ratio
from polygraft.transfers.rows.dead_rows import find_dead_rows
from polygraft.transfers.rows.sorting import RowSets

COST_PIECES, MIN_RUNS, MAX_RUNS, COST_SECONDS = 8, 2, 5, 1.0
OnWork = Callable[[float], None]  # called with the operations done since the last call


@dataclass(frozen=True)
class TokenCost:
    """A forward pass of the objective that would adapt the model, per million tokens of text, on this machine."""

    tflop: float
    seconds: float


@dataclass(kw_only=True)
class Scored:
    """What was measured of a loaded candidate; ratios are bits per character over languages.

    Attributes:
        main: a source's pseudo-likelihood of words, a target's loss on removed spans; None for a source without a head.
        whole: a target's loss on the whole original.
        reliance: by how much that rises with another document's source; None where no language has two documents.
        perplexity: of `main` per token, by language.
        never_learned: ids of text tokens whose rows training never gave a meaning; int64.
        unread_codes: the target's codes of languages that it never read, among all that it has.
    """

    cost: TokenCost
    never_learned: np.ndarray
    main: Ratio | None = None
    whole: Ratio | None = None
    reliance: Ratio | None = None
    perplexity: dict[str, float] = field(default_factory=dict)
    unread_codes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ScoringPlan:
    """The documents as one candidate reads them, and the operations that this will probably take."""

    texts: list[str]
    languages: list[str]
    pieces: list[Piece]
    passes: list[Pass]
    operations: float


def plan_scoring(candidate: Candidate, texts: Sequence[LanguageText]) -> ScoringPlan:
    """Cut the scored documents for a candidate; a target reads those whose language it has a code for."""
    usable = [t for t in texts if candidate.role == "source" or language_code(candidate, t.language)]
    documents = [one for text in usable for one in text.scored]
    languages = [text.language for text in usable for _ in text.scored]
    pieces = cut(candidate.tokenizer, documents, candidate.room, spell_unknown=True) if documents else []
    passes = [p for piece in pieces for p in masked_passes(piece)] if candidate.role == "source" else []
    read = sum(len(p.piece) for p in passes) if candidate.role == "source" else 2 * sum(map(len, pieces))
    expected = 0 if candidate.role == "source" and candidate.seems_headless else read
    return ScoringPlan(
        texts=documents,
        languages=languages,
        pieces=pieces,
        passes=passes,
        operations=operations(candidate, expected),
    )


def operations(candidate: Candidate, tokens: int) -> float:
    """Multiplications of a forward pass over so many tokens, the head aside."""
    return float(tokens) * candidate.body_parameters


def score_source(candidate: Candidate, model: Any, has_head: bool, plan: ScoringPlan, on_work: OnWork) -> Scored:
    """Measure a masked language model; one without a head of its own is asked for nothing."""
    tokenizer, vocabulary = candidate.tokenizer, map_vocabularies(candidate.tokenizer, candidate.config.vocab_size)
    pad = candidate.config.pad_token_id
    dead = find_dead_rows(embedding_matrix(model), vocabulary.ordinary, pad=pad)
    model.to(best_device())
    before, after = special_tokens(tokenizer)
    rows = [[*before, *piece.ids.tolist(), *after] for piece in _usual(plan.pieces)]
    tokens = sum(map(len, rows))
    asked = np.arange(0, tokens, HIDDEN_EVERY)  # as many predictions as in training
    cost = _cost(model, lambda: masked_logits(model, rows, tokenizer.pad_token_id or 0, asked), tokens)
    scored = Scored(cost=cost, never_learned=dead.ids)
    if has_head:
        found = pseudo_likelihood(
            model, tokenizer, plan.passes, len(plan.texts), lambda n: on_work(operations(candidate, n))
        )
        scored.main = _finite(ratio(found.bits, found.characters, plan.languages))
        scored.perplexity = _perplexity(found.bits, found.tokens, plan.languages)
    return scored


def _finite(found: Ratio) -> Ratio:
    if not math.isfinite(found.value):
        raise CheckpointError("its likelihoods are not numbers: its weights are broken, or its training diverged.")
    return found


def _perplexity(bits_D: np.ndarray, tokens_D: np.ndarray, languages: list[str]) -> dict[str, float]:
    return {language: 2**bits for language, bits in ratio(bits_D, tokens_D, languages).points.items()}


def score_target(candidate: Candidate, model: Any, plan: ScoringPlan, sets: RowSets, on_work: OnWork) -> Scored:
    """Measure an mBART on the documents whose language it has a code for."""
    model.to(best_device())
    unread = frozenset(candidate.tokenizer.convert_ids_to_tokens(sets.dead_codes.tolist()))
    objective = mbart_task(candidate.tokenizer)
    codes = candidate.tokenizer.convert_tokens_to_ids([str(language_code(candidate, one)) for one in plan.languages])
    wrapped = [objective.layout.wrap(piece.ids.tolist(), codes[piece.document]) for piece in _usual(plan.pieces)]
    batch = make_batch(objective.layout, wrapped, wrapped)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    cost = _cost(model, lambda: token_losses(model, batch), sum(map(len, wrapped)))
    found = denoising(model, objective, plan.pieces, codes, on_tokens=lambda n: on_work(operations(candidate, n)))
    characters = np.array([len(text) for text in plan.texts], dtype=np.float64)
    scored = Scored(cost=cost, never_learned=sets.dead, unread_codes=unread)
    scored.main = _finite(ratio(found.removed_bits, found.removed_characters, plan.languages))
    scored.whole = ratio(found.bits, characters, plan.languages)
    scored.perplexity = _perplexity(found.removed_bits, found.removed_tokens, plan.languages)
    paired = ~np.isnan(found.other_bits)
    if paired.any():
        languages = [language for language, known in zip(plan.languages, paired, strict=True) if known]
        scored.reliance = ratio((found.other_bits - found.bits)[paired], characters[paired], languages)
    return scored


def _usual(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of about the median length, so that next to nothing is padding, as in training."""
    middle = max(0, len(pieces) // 2 - COST_PIECES // 2)
    return sorted(pieces, key=len)[middle : middle + COST_PIECES]


def _cost(model: Any, read: Callable[[], Any], tokens: int) -> TokenCost:
    """Count the operations of a pass, then time others: the fastest, since a machine does other things as well."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        read()
    seconds: list[float] = []
    while len(seconds) < MIN_RUNS or (len(seconds) < MAX_RUNS and sum(seconds) < COST_SECONDS):
        started = time.perf_counter()
        with torch.inference_mode():
            read()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    millions = tokens / 1e6
    return TokenCost(counter.get_total_flops() / 1e12 / millions, min(seconds) / millions)

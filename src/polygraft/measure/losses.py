"""What a text costs a model, in bits per document: pseudo-likelihood, denoising, reliance on the source.

Pseudo-likelihood (Salazar et al. 2020, "Masked language model scoring") hides tokens and adds up -log p of each. If the
other tokens of its word stay visible, a token is easily guessed, the more so the finer a tokenizer splits words. So a
word is hidden as a whole and uncovered token by token from the left (Kauf and Ivanova 2023, "A better way to do masked
language model scoring"): what adds up is -log p of words, given the same other words in every model. At most one word
in seven is hidden at a time, about as many as in pretraining. One word in four of every document is asked for: at equal
cost, more documents tell more than more words of each.

B batch, T positions, N predictions, V vocabulary, D documents.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polygraft.data.batching import longest_first
from polygraft.data.layout import pad_rows
from polygraft.errors import CheckpointError
from polygraft.measure.pieces import Piece
from polygraft.objectives.denoising import SpanDenoising
from polygraft.objectives.labels import pick
from polygraft.objectives.mlm import masked_lm_head
from polygraft.objectives.noise import Noise
from polygraft.objectives.seq2seq import make_batch, token_losses

HIDDEN_EVERY, ASKED_EVERY = 7, 4
NOISE_SEED = 1
BATCH_TOKENS = 4096
BATCH_LOGITS = 2**26  # fp32: 256 MB

OnTokens = Callable[[int], None]  # called with the number of tokens read since the last call


@dataclass(frozen=True)
class Pass:
    """One reading of a piece: the positions that are hidden, and those of them that are asked for; both int64."""

    piece: Piece
    hidden: np.ndarray
    asked: np.ndarray


def masked_passes(piece: Piece) -> Iterator[Pass]:
    """The readings of a piece that ask for the words whose number, plus the document's, is a multiple of four.

    In step j the j-th tokens of all these words that have one are asked for, with the word's earlier tokens shown and
    its later ones hidden; the words are dealt out to as many readings as it takes to hide one in seven at most.
    """
    starts = np.flatnonzero(np.diff(piece.words, prepend=-1))
    ends = np.append(starts[1:], len(piece))
    most = max(1, len(starts) // HIDDEN_EVERY)
    wanted = (piece.words[starts] + piece.document) % ASKED_EVERY == 0
    starts, ends, step = starts[wanted], ends[wanted], 0
    while len(starts):
        readings = -(-len(starts) // most)
        for first in range(readings):
            mine = slice(first, None, readings)
            asked = starts[mine] + step
            hidden = [np.arange(start, end) for start, end in zip(asked, ends[mine], strict=True)]
            yield Pass(piece, np.concatenate(hidden), asked)
        step += 1
        longer = starts + step < ends
        starts, ends = starts[longer], ends[longer]


@dataclass(frozen=True)
class Likelihood:
    """-log2 p of the words of each document that were asked for, and how many tokens and characters they have; [D]."""

    bits: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray


@torch.inference_mode()
def pseudo_likelihood(
    model: Any,
    tokenizer: Any,
    passes: Sequence[Pass],
    documents: int,
    on_tokens: OnTokens | None = None,
) -> Likelihood:
    """Measure what the readings ask for under a masked language model; the spelling of <unk> is included.

    Raises:
        CheckpointError: the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise CheckpointError(f"its {type(tokenizer).__name__} has no mask token, so that nothing can be hidden.")
    before, after = special_tokens(tokenizer)
    sums_3D = np.zeros((3, documents))
    positions = [len(one.piece) + len(before) + len(after) for one in passes]
    predictions = [len(one.asked) for one in passes]
    for indices in _batches(positions, predictions, model.config.vocab_size):
        chosen = [passes[i] for i in indices]
        width = positions[indices[0]]
        rows, asked = [], []
        for row, one in enumerate(chosen):
            ids_T = one.piece.ids.copy()
            ids_T[one.hidden] = tokenizer.mask_token_id
            rows.append([*before, *ids_T.tolist(), *after])
            asked.append(one.asked + len(before) + row * width)
        logits_NV = masked_logits(model, rows, tokenizer.pad_token_id or 0, np.concatenate(asked))
        wanted_N = torch.from_numpy(np.concatenate([one.piece.ids[one.asked] for one in chosen]))
        losses_N = F.cross_entropy(logits_NV, wanted_N.to(logits_NV.device), reduction="none").double().cpu()
        for one, nats in zip(chosen, losses_N.split([len(one.asked) for one in chosen]), strict=True):
            bits = float(nats.sum()) / math.log(2) + one.piece.spelling[one.asked].sum()
            sums_3D[:, one.piece.document] += bits, len(one.asked), one.piece.characters[one.asked].sum()
        if on_tokens:
            on_tokens(sum(positions[i] for i in indices))
    return Likelihood(*sums_3D)


def masked_logits(model: Any, rows: list[list[int]], pad: int, positions: np.ndarray) -> Tensor:
    """Return a masked language model's logits (fp32 [N, V]) at flat positions of the rows, padded to [B, T].

    Where its head is not one of those that work position by position, all logits are made, and those are picked.
    """
    input_ids = pad_rows(rows, pad).to(model.device)
    lengths_B = torch.tensor([len(row) for row in rows], device=model.device)
    mask_BT = (torch.arange(input_ids.shape[1], device=model.device) < lengths_B[:, None]).long()
    which = torch.from_numpy(positions).to(model.device)
    inputs = {"input_ids": input_ids, "attention_mask": mask_BT}
    try:
        head = masked_lm_head(model)
    except CheckpointError:
        return pick(model(**inputs).logits, which).float()
    return head(pick(model.base_model(**inputs).last_hidden_state, which)).float()


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a single text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if start is None:
        raise CheckpointError(f"a {type(tokenizer).__name__} splits a text differently between its special tokens.")
    return whole[:start], whole[start + len(bare) :]


def _batches(positions: Sequence[int], predictions: Sequence[int], vocabulary: int) -> Iterator[list[int]]:
    """Indices of rows of so many positions and predictions each, per batch: within both budgets, or a row alone."""

    def fits(batch: list[int]) -> bool:
        within = len(batch) * positions[batch[0]] <= BATCH_TOKENS
        return within and sum(predictions[i] for i in batch) * vocabulary <= BATCH_LOGITS

    return longest_first(positions, fits)


def _spelling(pieces: Sequence[Piece], documents: int) -> np.ndarray:
    bits_D = np.zeros(documents)
    for piece in pieces:
        bits_D[piece.document] += piece.spelling.sum()
    return bits_D


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """What restoring each document costs a target; float64 [D].

    Attributes:
        bits: -log2 p of the whole original and </s>. Copied tokens, most of it, cost next to nothing.
        removed_bits: of the tokens that the noisy source lacks.
        removed_tokens, removed_characters: how many those are, and what they stand for.
        other_bits: as `bits`, but reading the noisy source of another document of the same language; NaN where there
            is none.
    """

    bits: np.ndarray
    removed_bits: np.ndarray
    removed_tokens: np.ndarray
    removed_characters: np.ndarray
    other_bits: np.ndarray


def mbart_task(tokenizer: Any) -> SpanDenoising:
    """Return mBART's own task, the same noise at every call, whatever a model trains with."""
    noise = Noise(1, fixed=True)
    return SpanDenoising(tokenizer, mask_ratio=0.35, poisson_lambda=3.5, permute_sentences=True, noise=noise)


def denoising(
    model: Any,
    objective: SpanDenoising,
    pieces: Sequence[Piece],
    languages: Sequence[int],
    on_tokens: OnTokens | None = None,
) -> Denoised:
    """Remove spans from every piece and have an mBART restore it, from its own noisy source and from another's.

    The noise of a piece follows from its place among the pieces, not from how they are batched. The
    language token is left out, as in `evaluate`: the task gives it.

    Args:
        languages: for every document the id of its language code.
    """
    own, missing = _to_restore(objective, pieces, languages)
    others = other_documents(pieces, [languages[piece.document] for piece in pieces])
    foreign = [(own[others[i]][0], own[i][1]) for i in range(len(pieces)) if others[i] >= 0]
    losses = iter(_restoring_bits(model, objective, own + foreign, on_tokens))
    own_losses = [next(losses) for _ in own]
    spelling_D = _spelling(pieces, len(languages))
    bits_D, other_D = spelling_D.copy(), spelling_D.copy()
    removed_3D = np.zeros((3, len(languages)))  # bits, tokens, characters
    for piece, lacks_T, other, loss_T in zip(pieces, missing, others, own_losses, strict=True):
        bits_D[piece.document] += loss_T.sum()
        removed = (loss_T[:-1] + piece.spelling)[lacks_T]
        removed_3D[:, piece.document] += removed.sum(), len(removed), piece.characters[lacks_T].sum()
        other_D[piece.document] += next(losses).sum() if other >= 0 else math.nan
    removed_bits_D, removed_tokens_D, removed_characters_D = removed_3D
    return Denoised(
        bits=bits_D,
        removed_bits=removed_bits_D,
        removed_tokens=removed_tokens_D,
        removed_characters=removed_characters_D,
        other_bits=other_D,
    )


def restoring_nats(
    model: Any,
    objective: SpanDenoising,
    pieces: Sequence[Piece],
    languages: Sequence[int],
    on_tokens: OnTokens | None = None,
) -> np.ndarray:
    """What restoring each document from its own noisy source costs: -ln p of it and of </s>, float64 [D].

    The `bits` of `denoising`, without what another document's source would cost.
    """
    nats_D = np.zeros(len(languages))
    losses = _restoring_bits(model, objective, _to_restore(objective, pieces, languages)[0], on_tokens)
    for piece, loss_T in zip(pieces, losses, strict=True):
        nats_D[piece.document] += loss_T.sum() * math.log(2)
    return nats_D


def _to_restore(
    objective: SpanDenoising, pieces: Sequence[Piece], languages: Sequence[int]
) -> tuple[list[tuple[list[int], list[int]]], list[np.ndarray]]:
    """Each piece as (noisy source, labels), special tokens included, and which of its tokens the source lacks."""
    layout, codes = objective.layout, [languages[piece.document] for piece in pieces]
    sources, missing = noisy(objective, pieces)
    sources = [layout.wrap(source, code) for source, code in zip(sources, codes, strict=True)]
    labels = [layout.wrap(piece.ids.tolist(), code) for piece, code in zip(pieces, codes, strict=True)]
    return list(zip(sources, labels, strict=True)), missing


def noisy(objective: SpanDenoising, pieces: Sequence[Piece]) -> tuple[list[list[int]], list[np.ndarray]]:
    """Return each piece with its noise, and which of its tokens that lacks (bool [T])."""
    made = [objective.corrupt(piece.ids, np.random.default_rng([NOISE_SEED, i])) for i, piece in enumerate(pieces)]
    return [source for source, _ in made], [lacks_T for _, lacks_T in made]


def other_documents(pieces: Sequence[Piece], codes: Sequence[int]) -> list[int]:
    """Return for each piece the next one of another document in the same language, -1 where there is none."""
    members = defaultdict(list)
    for index, code in enumerate(codes):
        members[code].append(index)
    others = [-1] * len(pieces)
    for indices in members.values():
        for place, index in enumerate(indices):
            following = [*indices[place + 1 :], *indices[:place]]
            document = pieces[index].document
            others[index] = next((i for i in following if pieces[i].document != document), -1)
    return others


def _restoring_bits(
    model: Any,
    objective: SpanDenoising,
    pairs: list[tuple[list[int], list[int]]],
    on_tokens: OnTokens | None,
) -> list[np.ndarray]:
    """Return for each (source, labels) -log2 p of its text's tokens and of </s> (float64 [T + 1])."""
    layout, found = objective.layout, [np.zeros(0)] * len(pairs)
    first = int(layout.language_first)
    positions = [len(source) + len(labels) for source, labels in pairs]
    predictions = [len(labels) for _, labels in pairs]
    for indices in _batches(positions, predictions, model.config.vocab_size):
        batch = make_batch(layout, [pairs[i][0] for i in indices], [pairs[i][1] for i in indices])
        losses_BT = token_losses(model, {name: tensor.to(model.device) for name, tensor in batch.items()})
        losses_BT = losses_BT.double().cpu() / math.log(2)
        for row, index in enumerate(indices):
            found[index] = losses_BT[row, first : first + predictions[index] - 1].numpy()
        if on_tokens:
            on_tokens(sum(predictions[i] for i in indices))
    return found

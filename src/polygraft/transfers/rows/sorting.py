"""Which rows of the target's matrix get a new value, and from where: the entries of a plan of method `embeddings`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygraft.models.vocabulary import VocabularyMap, map_vocabularies, script_of, token_counts, tokens_by_id
from polygraft.transfers.contract import Inputs
from polygraft.transfers.plan import Entry, Transform
from polygraft.transfers.rows.dead_rows import DeadRows, find_dead_rows

MIN_TRAINED_CODES = 2


class RowTransform(Transform):
    """What new values of rows are made by (values.py)."""

    RECENTRE = "recentre"
    RECENTRE_CODES = "recentre among language codes"
    REPAIR = "repair"
    DELTA = "delta"


FROM_SOURCE = (RowTransform.REPAIR, RowTransform.DELTA)
"""What writes rows with something of the source's, or with what a control puts in its place."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RowSets:
    """The target's rows by what each side has learned of them: int64 ids, ascending.

    Attributes:
        dead, trained: text tokens that the target never learned, or did.
        dead_codes, trained_codes: language codes, likewise.
        mapped: text tokens that the source has, too.
        learned_by_source: those of them that the source learned.
        fit: those of these that the target learned, too: what maps are fitted on.
        seen: mapped ones that occur in the text.
    """

    dead: np.ndarray
    trained: np.ndarray
    dead_codes: np.ndarray
    trained_codes: np.ndarray
    mapped: np.ndarray
    learned_by_source: np.ndarray
    fit: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class SourceRows:
    """A source's embedding matrix, (rows, width), and the id of its <pad>."""

    matrix: Tensor
    pad: int | None


def dead_rows_of(matrix: Tensor, vocabulary: VocabularyMap) -> DeadRows:
    """Find the rows of tokens and language codes that were never learned; see `find_dead_rows`."""
    anchors = [*vocabulary.unused[:1], *vocabulary.special[:1]]
    pad = int(vocabulary.pad[0]) if len(vocabulary.pad) else None
    return find_dead_rows(matrix, np.union1d(vocabulary.ordinary, vocabulary.language_code), anchors, pad)


def sort_rows(
    matrix: Tensor, dead: DeadRows, vocabulary: VocabularyMap, counts: np.ndarray, source: SourceRows | None
) -> RowSets:
    """Sort the target's rows by what each side has learned of them.

    Args:
        matrix: the target's, (V, d).
        counts: int64 [V], occurrences in the text.
    """
    tokens, codes = vocabulary.ordinary, vocabulary.language_code
    mapped = learned = tokens[:0]
    if source is not None:
        mapped = tokens[vocabulary.source_of[tokens] >= 0]
        source_dead = find_dead_rows(source.matrix, np.unique(vocabulary.source_of[mapped]), pad=source.pad).ids
        learned = mapped[~np.isin(vocabulary.source_of[mapped], source_dead)]
    # Text names locales (ru_RU), codes to the tokenizer: a few sightings take one out of the ball, but make no
    # language of it. One that was read as a language was so in all its documents, and is far from the drift.
    strayed = (matrix[torch.from_numpy(codes)] - dead.drift).norm(dim=1) < dead.drift.norm() / 2
    dead_codes = codes[strayed.numpy()] if len(dead.ids) else codes[:0]
    return RowSets(
        dead=np.intersect1d(dead.ids, tokens),
        trained=np.setdiff1d(tokens, dead.ids),
        dead_codes=dead_codes,
        trained_codes=np.setdiff1d(codes, dead_codes),
        mapped=mapped,
        learned_by_source=learned,
        fit=np.setdiff1d(learned, dead.ids),
        seen=mapped[counts[mapped] > 0],
    )


def changed_entries(owner: str, sets: RowSets, mode: str) -> list[Entry]:
    """The rows of the tensor `owner` that a mode rewrites; classes without rows are left out."""
    entries = delta_entries(owner, sets) if mode == "delta" else dead_entries(owner, sets, mode)
    return [entry for entry in entries if entry.count]


def dead_entries(owner: str, sets: RowSets, mode: str) -> list[Entry]:
    """The rows that `recentre` or `repair` rewrites."""
    known = np.intersect1d(sets.dead, sets.learned_by_source) if mode == "repair" else sets.dead[:0]
    # A language code is read as a language and predicted first, in one place: rows that play this role are each other's
    # best guess. Among text tokens it would get a text token's logit. Its own noise keeps it apart from other codes.
    codes = RowTransform.RECENTRE_CODES if len(sets.trained_codes) >= MIN_TRAINED_CODES else RowTransform.RECENTRE
    return [
        Entry(
            tensor=owner, token_class="text tokens, mapped", ids=known, origin="source", transform=RowTransform.REPAIR,
            reason="never learned by the target, but by the source: its row, mapped and scaled like trained rows",
        ),
        Entry(
            tensor=owner, token_class="text tokens, recentred", ids=np.setdiff1d(sets.dead, known),
            transform=RowTransform.RECENTRE,
            reason="never learned by the target: all such rows lie on one drift of the softmax, which is removed",
        ),
        Entry(
            tensor=owner, token_class="language codes, recentred", ids=sets.dead_codes, transform=codes,
            reason="language unknown to the target: a language in general, around the mean of the codes that it knows",
        ),
    ]  # fmt: skip


def delta_entries(owner: str, sets: RowSets) -> list[Entry]:
    """The rows that `delta` adds to."""
    why = "occurs in the text: what adaptation changed in the source's row is added, mapped"
    return [
        Entry(
            tensor=owner, token_class="text tokens, changed", ids=sets.seen, origin="target + source",
            transform=RowTransform.DELTA, reason=why,
        )
    ]  # fmt: skip


PLACEBO_ORIGINS = {"permuted": "source, other tokens", "random": "random numbers"}
PLACEBO_REASONS = {
    "permuted": "control: what belongs to another token, drawn from those that are written",
    "random": "control: random directions, as long as what comes from the source would be, and about its mean",
}


def with_control(entries: list[Entry], control: str) -> list[Entry]:
    """Return the entries as a control carries them out: other tokens' rows, or random ones, for those of the source."""
    if control == "none":
        return entries
    origin, why = PLACEBO_ORIGINS[control], PLACEBO_REASONS[control]
    origins: dict[Transform, str] = {RowTransform.REPAIR: origin, RowTransform.DELTA: f"target + {origin}"}
    return [
        replace(entry, origin=origins[entry.transform], control=control, reason=why)
        if entry.transform in FROM_SOURCE
        else entry
        for entry in entries
    ]


def kept_entries(owner: str, inputs: Inputs, changed: np.ndarray) -> list[Entry]:
    """The rows that stay as they are, by class of token."""
    vocabulary = inputs.vocabulary
    text = "no text, or no source, to change it by" if inputs.settings.mode == "delta" else "trained in the target"
    classes = [
        ("text tokens, kept", vocabulary.ordinary, text),
        ("language codes, kept", vocabulary.language_code, "the target's own; the source has no such tokens"),
        ("special tokens", vocabulary.special, "their meaning is each model's own"),
        ("<pad>", vocabulary.pad, "is never looked at, and its low output probability is right"),
        ("rows without a token", vocabulary.unused, "never read; their low output probability is right"),
    ]
    left = [(name, np.setdiff1d(ids, changed), why) for name, ids, why in classes]
    return [Entry(tensor=owner, token_class=name, ids=ids, reason=why) for name, ids, why in left if len(ids)]


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Return all ids of several arrays, int64, ascending."""
    return np.sort(np.concatenate([*arrays, np.zeros(0, dtype=np.int64)]))


def row_health(model: Any, tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Count the rows of text tokens that a model never learned, by script, and how much of the texts they make up."""
    matrix = model.get_output_embeddings().weight.detach()
    vocabulary = map_vocabularies(tokenizer, len(matrix))
    dead = np.intersect1d(dead_rows_of(matrix, vocabulary).ids, vocabulary.ordinary)
    tokens, counts = tokens_by_id(tokenizer, len(matrix), "target"), token_counts(tokenizer, texts, len(matrix))
    scripts = Counter(script_of(tokens[row] or "") for row in dead)
    return {"dead_rows": dict(scripts.most_common()), "dead_share": float(counts[dead].sum() / max(1, counts.sum()))}

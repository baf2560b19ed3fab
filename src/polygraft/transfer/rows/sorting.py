"""Which rows of the target's matrix get a new value, and from where: the entries of a plan of method `embeddings`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from polygraft.models.vocabulary import VocabularyMap
from polygraft.transfer.plan import KEEP, Entry, Inputs
from polygraft.transfer.rows.dead_rows import DeadRows, find_dead_rows

RECENTRE, RECENTRE_CODES, REPAIR, DELTA = "recentre", "recentre among language codes", "repair", "delta"
MIN_TRAINED_CODES = 2


def embedding_matrix(model: PreTrainedModel) -> Tensor:
    """Return a model's input embeddings, (rows, width), without a gradient; the tensor itself, not a copy."""
    return model.get_input_embeddings().weight.detach()  # type: ignore[operator]


def dead_rows_of(matrix: Tensor, vocabulary: VocabularyMap) -> DeadRows:
    """Find the rows of tokens and language codes that were never learned; see `find_dead_rows`."""
    anchors = [*vocabulary.unused[:1], *vocabulary.special[:1]]
    pad = int(vocabulary.pad[0]) if len(vocabulary.pad) else None
    return find_dead_rows(matrix, np.union1d(vocabulary.ordinary, vocabulary.language_code), anchors, pad)


def row_sets(inputs: Inputs, dead: DeadRows) -> dict[str, np.ndarray]:
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


def dead_entries(owner: str, sets: dict[str, np.ndarray], mode: str) -> list[Entry]:
    """The rows that `recentre`, `repair` or `replace` rewrites."""
    lost, learned = sets["dead"], sets["learned_by_source"]
    known = {"recentre": lost[:0], "repair": np.intersect1d(lost, learned), "replace": learned}[mode]
    unknown = np.setdiff1d(lost, known)
    why = "never learned by the target: all such rows lie on one drift of the softmax, which is removed"
    why_source = "never learned by the target, but by the source: its row, mapped and scaled like trained rows"
    if mode == "replace":
        why_source = "learned by the source: its row, mapped and scaled like trained rows, whatever the target knew"
    # A language code is read as a language and predicted first, in one place: rows that play this role are each other's
    # best guess. Among text tokens it would get a text token's logit. Its own noise keeps it apart from other codes.
    why_code = "language unknown to the target: a language in general, around the mean of the codes that it knows"
    codes = RECENTRE_CODES if len(sets["trained_codes"]) >= MIN_TRAINED_CODES else RECENTRE
    return [
        Entry(owner, "text tokens, mapped", known, "source", REPAIR, why_source),
        Entry(owner, "text tokens, recentred", unknown, "target", RECENTRE, why),
        Entry(owner, "language codes, recentred", sets["dead_codes"], "target", codes, why_code),
    ]


def delta_entries(owner: str, sets: dict[str, np.ndarray]) -> list[Entry]:
    """The rows that `delta` adds to."""
    why = "occurs in the text: what adaptation changed in the source's row is added, mapped"
    return [Entry(owner, "text tokens, changed", sets["seen"], "target + source", DELTA, why)]


def from_source(entry: Entry) -> bool:
    """Whether an entry writes something of the source's, or what a control puts in its place."""
    return entry.transform.startswith((REPAIR, DELTA))


def with_control(entries: list[Entry], control: str) -> list[Entry]:
    """Return the entries as a control carries them out: other tokens' rows, or random ones, for those of the source."""
    if control == "none":
        return entries
    origin = {"permuted": "source, other tokens", "random": "random numbers"}[control]
    why = {
        "permuted": "control: what belongs to another token, drawn from those that are written",
        "random": "control: random directions, as long as what comes from the source would be, and about its mean",
    }[control]
    return [
        replace(
            entry, origin=f"target + {origin}" if entry.transform == DELTA else origin,
            transform=f"{entry.transform}, {control}", reason=why,
        ) if from_source(entry) else entry
        for entry in entries
    ]  # fmt: skip


def kept_entries(owner: str, inputs: Inputs, sets: dict[str, np.ndarray]) -> list[Entry]:
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
    left = [(name, np.setdiff1d(ids, sets["changed"]), why) for name, ids, why in classes]
    return [Entry(owner, name, ids, "target", KEEP, why) for name, ids, why in left if len(ids)]


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Return all ids of several arrays, int64, ascending."""
    return np.sort(np.concatenate([*arrays, np.zeros(0, dtype=np.int64)]))

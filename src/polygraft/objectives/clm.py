"""Causal language modelling by mBART's decoder: every token of a text from those before it, and no source to copy from.

The encoder reads a text without tokens, in the text's language: cross-attention is trained, and finds nothing in it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from polygraft.data.layout import IGNORED
from polygraft.objectives.seq2seq import Seq2Seq, make_batch


class CausalLM(Seq2Seq):
    """The whole text to be written from an empty source."""

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return a batch of `make_batch`, each source the two special tokens of its row's language."""
        sources = [self.layout.wrap([], row["language"]) for row in rows]
        labels = [self.layout.wrap(row["input_ids"].tolist(), row["language"]) for row in rows]
        return make_batch(self.layout, sources, labels)

    @staticmethod
    def tokens(batch: dict[str, Tensor]) -> Tensor:
        """Count the real tokens of the texts."""
        return (batch["labels"] != IGNORED).sum()

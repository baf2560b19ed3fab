"""Where mBART puts language codes and </s>: one table for cc25 and 50, so that no other file has to know.

| | source | labels | decoder input |
|---|---|---|---|
| cc25 | ``X </s> src`` | ``Y </s> tgt`` | ``tgt Y </s>`` |
| mBART-50 | ``src X </s>`` | ``tgt Y </s>`` | ``</s> tgt Y`` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100  # the label that PyTorch's cross-entropy skips


@dataclass(frozen=True)
class Layout:
    """The layout of one mBART family: language code first (mBART-50) or last (cc25)."""

    language_first: bool
    eos: int
    pad: int

    @classmethod
    def of(cls, tokenizer: Any) -> Layout:
        """Tell the family from the tokenizer's class; MBartTokenizer is cc25's, MBart50Tokenizer the other."""
        return cls(not is_cc25(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)

    def wrap(self, content: list[int], language: int) -> list[int]:
        """Add the two special tokens of a source; those of labels are the same, with the target's language."""
        return [language, *content, self.eos] if self.language_first else [*content, self.eos, language]

    def decoder_input_ids(self, labels_BT: torch.Tensor) -> torch.Tensor:
        """Shift labels right: each row's last token goes to the front ([B, T] int64, padding -100 becomes <pad>)."""
        ids_BT = labels_BT.masked_fill(labels_BT == IGNORED, self.pad)
        last_B = (ids_BT != self.pad).sum(dim=1) - 1
        shifted_BT = ids_BT.roll(1, dims=1)
        shifted_BT[:, 0] = ids_BT.gather(1, last_B.clamp(min=0).unsqueeze(1)).squeeze(1)
        return shifted_BT


def is_cc25(tokenizer: Any) -> bool:
    """Whether this is the class of mBART-cc25, which puts language codes last; mBART-50's puts them first."""
    return type(tokenizer).__name__.startswith("MBartTokenizer")


def pad_rows(rows: list[list[int]], value: int) -> torch.Tensor:
    """Stack rows of unequal length into one [B, T] int64 tensor, padded on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.int64)

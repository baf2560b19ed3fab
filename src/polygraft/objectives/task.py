"""What a training asks of a training task and of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the settings of objectives name these types, and are read without torch
    import numpy as np
    from torch import Tensor

    from polygraft.objectives.noise import Noise


class SizedDataset(Protocol):
    """A map-style dataset."""

    @property
    def lengths(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Objective(Protocol):
    """What a training task offers."""

    @property
    def noise(self) -> Noise | None:
        """Where its random numbers come from, if it draws any."""

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return a batch of items of a dataset, with `labels` [B, T] int64, -100 where there is none."""

    @property
    def loss(self) -> Callable[..., Tensor]:
        """A function of a model and, by keywords, a batch's tensors: the loss in nats, summed over labels."""

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return sums and counts, whose quotients are reported; `eval_loss` is one of them."""

    def tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the real tokens that the budget is charged for."""


@dataclass(frozen=True)
class BatchShape:
    """The shape of a batch: its documents, tokens per input and per output (None without a decoder), all labels."""

    batch: int
    source: int
    target: int | None
    labels: int

    def scaled(self, factor: float) -> BatchShape:
        """The same with another number of documents."""
        labels = max(1, round(self.labels * factor))
        return BatchShape(max(1, round(self.batch * factor)), self.source, self.target, labels)

    @property
    def padded_tokens(self) -> int:
        return self.batch * (self.source + (self.target or 0))

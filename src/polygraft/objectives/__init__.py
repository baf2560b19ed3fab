"""Training tasks: what the model reads, what it has to predict, and the loss. What each of them offers stands here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

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
    """What a training task offers (polygraft.objectives)."""

    @property
    def noise(self) -> Noise | None: ...

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]: ...

    @property
    def loss(self) -> Callable[..., Tensor]: ...

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]: ...
    def tokens(self, batch: dict[str, Tensor]) -> Tensor: ...

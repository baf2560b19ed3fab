"""Where the randomness of masking comes from."""

from __future__ import annotations

import os

import numpy as np


class Noise:
    """One seed per batch, a function of the run's seed, the process and the batch's number.

    The global generator would not do: data loaders draw batches ahead of training, so that a resumed run would mask
    them differently from an uninterrupted one.
    """

    def __init__(self, seed: int, fixed: bool = False) -> None:
        """With `fixed`, every batch gets the same seed: evaluations of the same batches are then comparable."""
        self.seed, self.fixed = seed, fixed
        self.process = int(os.environ.get("RANK", "0"))
        self.batches = 0

    def next_seed(self) -> int:
        """Return the seed of the next batch, a non-negative 63-bit integer."""
        key = [self.seed, 0, 0] if self.fixed else [self.seed, self.process, self.batches]
        self.batches += 1
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

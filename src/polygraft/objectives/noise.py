"""Where the randomness of masking comes from."""

from __future__ import annotations

import numpy as np

from polygraft import processes


class Noise:
    """One seed per batch, a function of the run's seed and the batch's number among those of all processes.

    The global generator would not do: data loaders draw batches ahead of training, so that a resumed run would mask
    them differently from an uninterrupted one.
    """

    def __init__(self, seed: int, fixed: bool = False) -> None:
        """With `fixed`, every batch gets the same seed: evaluations of the same batches are then comparable."""
        self.seed, self.fixed = seed, fixed
        self.batches = 0  # that this process drew; all processes together number theirs in turn

    def next_seed(self) -> int:
        """Return the seed of the next batch, a non-negative 63-bit integer."""
        number = self.batches * processes.count() + processes.rank()
        key = [self.seed, 0, 0 if self.fixed else number]
        self.batches += 1
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

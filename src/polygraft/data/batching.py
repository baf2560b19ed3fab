"""The order in which documents are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

BATCHES_PER_POOL = 50


class LengthGroupedSampler(Sampler[int]):
    """Shuffle documents, then group those of like length into batches, so that little is padding.

    Documents are sorted within pools of `BATCHES_PER_POOL` batches only, and the batches of a pool are shuffled, so
    that lengths do not come in waves. The order is a function of seed and epoch alone: a resumed run, in whatever
    epoch, reads what an uninterrupted one would have.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = torch.as_tensor(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        for pool in order.split(self.batch_size * BATCHES_PER_POOL):
            pool = pool[self.lengths[pool].argsort(stable=True)]
            batches = pool.split(self.batch_size)
            whole, rest = (batches, []) if len(batches[-1]) == self.batch_size else (batches[:-1], batches[-1:])
            for place in torch.randperm(len(whole), generator=generator).tolist():
                yield from whole[place].tolist()
            for batch in rest:  # a short batch in between would shift the borders of all that follow
                yield from batch.tolist()

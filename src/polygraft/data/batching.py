"""Which documents are read together, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from polygraft.errors import DataError
from polygraft.settings import Optimization

GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples, modulo 1, lie the most evenly


def sort_by_length(lengths: np.ndarray) -> np.ndarray:
    """Return the order of documents by their lengths (N, sides), the text's first; equal ones stay as they are."""
    return np.lexsort(lengths.T[::-1])


def longest_first(
    lengths: Sequence[int] | Sequence[tuple[int, ...]], fits: Callable[[list[int]], bool]
) -> Iterator[list[int]]:
    """Batch documents of like length without training: the longest first, so that memory runs out early or never.

    Args:
        lengths: of each document, on one side or on several; equal ones stay in their order.
        fits: whether a batch of these documents, its longest first, is small enough; a single one always is.

    Yields:
        The indices of each batch.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        batch.append(index)
        if len(batch) > 1 and not fits(batch):
            yield batch[:-1]
            batch = [index]
    if batch:
        yield batch


def places(counts: np.ndarray, temperature: float) -> np.ndarray:
    """Return how many documents of each language an epoch reads, of N in all as many: in proportion to n_i^(1/T).

    fairseq's temperature sampling (`--sampling-method temperature`); largest remainders are rounded up. T = 1 is the
    data as they are; XLM-R has 1/T = 0.3 (Conneau et al. 2020), mBART 1/T = 0.7 (Liu et al. 2020).
    """
    weights = np.exp(np.log(counts) / temperature)
    wanted = counts.sum() * weights / weights.sum()
    found = np.floor(wanted).astype(np.int64)
    found[np.argsort(found - wanted, kind="stable")[: counts.sum() - found.sum()]] += 1
    return found


class Balance:
    """Which documents an epoch reads where languages are balanced: a function of seed and epoch alone.

    A language with more places than documents gives each of these the same number of times, as far as that goes. For
    the q places that are left one of every n/q documents is drawn, of n sorted by length, and in each epoch others
    (systematic sampling): all are read equally often, and every epoch has about the same lengths. Batches can then be
    cut once for all epochs, by the longest document that a place may hold.
    """

    def __init__(self, lengths: np.ndarray, languages: np.ndarray, temperature: float) -> None:
        """Divide the places of an epoch among languages, numbered in `languages` (N,), by `lengths` (N, sides)."""
        _, members, counts = np.unique(languages, return_inverse=True, return_counts=True)
        self.languages = len(counts)
        self.order = np.lexsort((*lengths.T[::-1], members))
        """The documents, by language and length."""
        longest, numbers, steps, drawn = [], [], [], []  # of the places of each language
        for language, wanted in enumerate(places(counts, temperature)):
            before, count = int(counts[:language].sum()), int(counts[language])
            own = lengths[self.order[before : before + count]]
            whole, left = divmod(int(wanted), count)
            each, some, step = np.tile(np.arange(count), whole), np.arange(left), count / max(1, left)
            ends = np.stack([some * step, np.minimum((some + 1) * step, count - 1) + 1], axis=1).astype(np.int64)
            padded = np.concatenate([own, np.zeros_like(own[:1])])
            longest += [own[each], np.maximum.reduceat(padded, ends.ravel())[::2] if left else own[:0]]
            numbers += [before + each, some]
            steps += [np.zeros(len(each)), np.full(left, step)]
            drawn += [np.full(len(each), -1), np.full(left, language)]
        self.lengths = np.concatenate(longest)
        """(N, sides) tokens of the longest document that each place may hold."""
        self.numbers, self.steps, self.drawn = map(np.concatenate, (numbers, steps, drawn))
        self.before = np.append(np.cumsum(counts) - counts, 0)

    def documents(self, seed: int, epoch: int) -> np.ndarray:
        """Return the document at each place, (N,) int64."""
        shifts = (np.random.default_rng(seed).random(self.languages) + epoch * GOLDEN_RATIO) % 1.0
        shifts = np.floor(shifts * 2**20) / 2**20  # added to a number of some digits, it must not become 1
        within = np.floor((self.numbers + shifts[self.drawn]) * self.steps).astype(np.int64) + self.before[self.drawn]
        return self.order[np.where(self.drawn < 0, self.numbers, within)]


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of documents of like length, in random order: little is padding, and every document is read once.

    Documents are sorted by length, those of one length shuffled, and cut into batches of so many documents, or of so
    many padded tokens; then the batches are shuffled. Their number is the same in every epoch. The order is a function
    of seed and epoch alone: a resumed run, in whatever epoch, reads what an uninterrupted one would have.

    Each of several processes reads its own batches, all the same number of them: for that the largest are divided, or,
    where all are single documents, the shortest joined.

    With a `balance` it is not every document that is read once, but those that this chooses for the epoch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        seed: int,
        *,
        documents: int | None = None,
        tokens: int | None = None,
        processes: int = 1,
        process: int = 0,
        balance: Balance | None = None,
    ) -> None:
        """Batch documents of the given lengths.

        Args:
            lengths: (N, sides) tokens: of a text, or of text and summary. A batch is as wide as its longest, on each
                side.
            documents: per batch; or
            tokens: per batch, padding counted; a longer document is a batch of its own.

        Raises:
            DataError: fewer documents than processes.
        """
        if len(lengths) < processes:
            raise DataError(f"{len(lengths)} documents are too few for {processes} process(es): each needs one.")
        self.lengths = np.asarray(lengths if balance is None else balance.lengths)
        self.seed, self.epoch, self.balance = seed, 0, balance
        self.documents, self.tokens = documents, tokens
        self.processes, self.process = processes, process
        self.cuts = self._cuts()

    def _cuts(self) -> list[int]:
        """Where in the sorted documents batches end, the last end left out."""
        count = len(self.lengths)
        if self.tokens is None:
            cuts = list(range(self.documents or 1, count, self.documents or 1))
        else:
            cuts, start, widest = [], 0, np.zeros(self.lengths.shape[1], dtype=np.int64)
            for place, lengths in enumerate(self.lengths[sort_by_length(self.lengths)]):
                widest = np.maximum(widest, lengths)
                if place > start and (place + 1 - start) * widest.sum() > self.tokens:
                    cuts.append(place)
                    start, widest = place, lengths
        wanted = -(-(len(cuts) + 1) // self.processes) * self.processes
        if wanted > count:  # nothing but single documents: the shortest go together
            del cuts[: len(cuts) + 1 - count // self.processes * self.processes]
        while len(cuts) + 1 < min(wanted, count // self.processes * self.processes):
            edges = [0, *cuts, count]
            largest = max(range(len(edges) - 1), key=lambda i: edges[i + 1] - edges[i])
            cuts.insert(largest, (edges[largest] + edges[largest + 1]) // 2)
        return cuts

    def in_order(self) -> list[list[int]]:
        """Return the batches unshuffled, the shortest first, for evaluation."""
        return [batch.tolist() for batch in np.split(sort_by_length(self.lengths), self.cuts)]

    def __len__(self) -> int:
        return (len(self.cuts) + 1) // self.processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        order = order[sort_by_length(self.lengths[order])]
        if self.balance is not None:
            order = self.balance.documents(self.seed, self.epoch)[order]
        batches = np.split(order, self.cuts)
        for place in generator.permutation(len(batches))[self.process :: self.processes]:
            yield batches[place].tolist()


def make_batches(
    settings: Optimization,
    lengths: np.ndarray,
    scale: int = 1,
    seed: int = 0,
    processes: int = 1,
    process: int = 0,
    balance: Balance | None = None,
) -> LengthGroupedBatches:
    """Return batches of `scale` times the settings' size: by tokens where they say so, else by documents."""
    documents, tokens = scale * settings.per_device_train_batch_size, settings.per_device_train_batch_tokens
    sized = {"documents": documents} if tokens is None else {"tokens": scale * tokens}
    return LengthGroupedBatches(lengths, seed, processes=processes, process=process, balance=balance, **sized)

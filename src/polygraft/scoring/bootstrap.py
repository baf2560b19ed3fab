"""Intervals of scores that follow from sums over documents: no text is read twice, all resamples are one product.

Suffixes: D documents, R bootstrap resamples, K sufficient statistics per document.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK_ENTRIES = 4_000_000  # resampling weights held at a time: 32 MB


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: percentile bootstrap over documents (Efron 1979; Koehn 2004)."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 12345  # sacreBLEU's default

    @property
    def signature(self) -> str:
        return f"bs:{self.resamples}|seed:{self.seed}"


@dataclass(frozen=True)
class Score:
    """One corpus score with its bootstrap interval."""

    score: float
    low: float
    high: float


def resampled_sums(statistics_DK: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Statistics summed over `resamples` draws of D documents with replacement: float64 [R, K].

    Equal seeds and equal D give equal draws, so that scores of two systems on the same documents are paired.
    """
    documents = len(statistics_DK)
    few = documents * bootstrap.resamples <= _CHUNK_ENTRIES
    draws = _kept_draws(documents, bootstrap) if few else _draws(documents, bootstrap)
    return np.concatenate([counts_RD @ statistics_DK for counts_RD in draws])


def _draws(documents: int, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """How often each document is drawn, float64 [R, D], some resamples at a time."""
    rng = np.random.default_rng(bootstrap.seed)
    chunk = max(1, _CHUNK_ENTRIES // documents)
    for start in range(0, bootstrap.resamples, chunk):
        size = min(chunk, bootstrap.resamples - start)
        yield rng.multinomial(documents, np.full(documents, 1.0 / documents), size=size).astype(np.float64)


@functools.lru_cache(maxsize=2)
def _kept_draws(documents: int, bootstrap: Bootstrap) -> list[np.ndarray]:
    """The same, drawn once for all scores of as many documents."""
    return list(_draws(documents, bootstrap))


def ratio_of_sums(sums_2: np.ndarray) -> np.ndarray:
    """First statistic over second, [..., 2] to [...]; 0 where the second is 0."""
    top, bottom = sums_2[..., 0], sums_2[..., 1]
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom != 0))


def mean_statistics(values: Sequence[float]) -> np.ndarray:
    """Statistics of which `ratio_of_sums` makes the mean over documents, float64 [D, 2]."""
    values_D = np.asarray(values, np.float64)
    return np.stack([values_D, np.ones_like(values_D)], axis=1)


def paired_bootstrap(
    treatment_DK: np.ndarray, control_DK: np.ndarray, from_sums: Callable[[np.ndarray], np.ndarray]
) -> float:
    """p-value of no difference between two systems on these documents, as `sacrebleu --paired-bs` computes it.

    Koehn (2004), with sacreBLEU's own draws: 1,000 of them, seed 12345 (sacrebleu.significance).
    """
    documents, bootstrap = len(treatment_DK), Bootstrap()
    rng = np.random.default_rng(bootstrap.seed)
    drawn_RD = rng.choice(documents, size=(bootstrap.resamples, documents), replace=True)
    counts_RD = np.stack([np.bincount(drawn_D, minlength=documents) for drawn_D in drawn_RD]).astype(np.float64)
    difference = abs(float(from_sums(treatment_DK.sum(axis=0)) - from_sums(control_DK.sum(axis=0))))
    drawn_R = np.abs(from_sums(counts_RD @ treatment_DK) - from_sums(counts_RD @ control_DK))
    return float((np.sum(drawn_R - drawn_R.mean() > difference) + 1) / (bootstrap.resamples + 1))

"""Does one arm score differently from another, beyond the noise of documents and of seeds? Pure numpy and scipy.

Suffixes: D documents, S seeds, K statistics per document, R bootstrap resamples.

Two things were drawn at random: the test documents and the seeds. Documents are shared by all arms, so every
bootstrap draw takes the same documents in both arms and all seeds. Seeds are independent between arms even where
their numbers agree, since arms draw their noise in different stages and in different order. A bootstrap over 3 seeds
would understate their variance by (n - 1) / n and ignore how uncertain that variance is, so seeds enter through
their sample variance and a t distribution (Welch-Satterthwaite) instead. `tests/test_comparison.py` measures the
coverage of the intervals and the rate of false alarms by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from polygraft import metrics
from polygraft.metrics import Bootstrap, resampled_sums

Word = Literal["helped", "hurt", "equivalent", "not enough evidence"]
MIN_SEEDS = 3  # below, the noise between seeds cannot be estimated
WANTED_SEEDS = 5  # METHODS: at least five for a claim


@dataclass(frozen=True)
class Metric:
    """A corpus score: how it follows from statistics summed over documents, and which direction is good."""

    name: str
    from_sums: Callable[[np.ndarray], np.ndarray]  # [..., K] to [...]
    better: Literal[-1, 1]


LOSS = Metric("loss per reference token (nats)", metrics.ratio_of_sums, -1)
CHRF = Metric("chrF++", metrics.chrf_from_sums, 1)
ROUGE_L = Metric("ROUGE-L", metrics.ratio_of_sums, 1)


@dataclass(frozen=True)
class DocumentScores:
    """What one seed of one arm scored: a metric's sufficient statistics per document, float64 [D, K]."""

    statistics_DK: np.ndarray

    @classmethod
    def of_loss(cls, loss_nats_D: Sequence[float], tokens_D: Sequence[int]) -> DocumentScores:
        """For LOSS: summed loss and number of tokens of each document."""
        return cls(np.stack([np.asarray(loss_nats_D, np.float64), np.asarray(tokens_D, np.float64)], axis=1))

    @classmethod
    def of_chrf(cls, predictions: Sequence[str], references: Sequence[str]) -> DocumentScores:
        """For CHRF: n-gram counts of each document."""
        return cls(metrics.chrf_statistics(predictions, references))

    @classmethod
    def of_rouge_l(cls, predictions: Sequence[str], references: Sequence[str]) -> DocumentScores:
        """For ROUGE_L: the F-measure x 100 of each document, averaged over documents."""
        values_D = metrics.rouge_per_document(predictions, references)["rougeL"]
        return cls(np.stack([values_D, np.ones_like(values_D)], axis=1))


@dataclass(frozen=True)
class Resampled:
    """One arm's score per seed, on all documents (`points_S`) and on each bootstrap draw of them (`draws_RS`)."""

    points_S: np.ndarray
    draws_RS: np.ndarray
    documents: int

    @property
    def seeds(self) -> int:
        return len(self.points_S)

    def seed_variance(self) -> float:
        """Variance of the mean over seeds, on these documents; 0 for one seed (then it is unknown, or none)."""
        return float(self.points_S.var(ddof=1)) / self.seeds if self.seeds > 1 else 0.0

    def interaction_variance(self) -> float:
        """The part of `seed_variance` that comes from having few documents, and that the bootstrap counts as well."""
        if self.seeds == 1:
            return 0.0
        return float((self.draws_RS - self.points_S).var(axis=1, ddof=1).mean()) / self.seeds


def resample(seeds: Sequence[DocumentScores], metric: Metric, bootstrap: Bootstrap) -> Resampled:
    """Score every seed of an arm on every bootstrap draw of documents; equal bootstrap seeds give equal draws."""
    shapes = {scores.statistics_DK.shape for scores in seeds}
    if len(shapes) != 1:
        raise ValueError(f"the seeds of an arm must score the same documents; got statistics of shapes {shapes}")
    documents, width = shapes.pop()
    stacked = np.concatenate([scores.statistics_DK for scores in seeds], axis=1)
    sums_RSK = resampled_sums(stacked, bootstrap).reshape(-1, len(seeds), width)
    points_S = metric.from_sums(np.stack([scores.statistics_DK.sum(axis=0) for scores in seeds]))
    return Resampled(points_S, metric.from_sums(sums_RSK), documents)


@dataclass(frozen=True)
class Comparison:
    """Difference treatment - control of a metric, averaged over seeds, with what can be said about it.

    `word` follows from `p_value` (two-sided, no difference) and `p_equivalence` (two one-sided tests: the difference
    is beyond the margin), both against 1 - confidence. Without enough seeds both are None and the interval is that of
    the documents alone; `suggestion` is the word that these alone would give.
    """

    metric: str
    effect: float
    low: float
    high: float
    confidence: float
    margin: float | None
    word: Word
    suggestion: Word
    p_value: float | None
    p_equivalence: float | None
    equivalence_low: float
    equivalence_high: float
    standard_error: float
    degrees_of_freedom: float
    includes_seeds: bool
    treatment_score: float
    control_score: float
    seeds_per_arm: int
    documents: int
    better: Literal[-1, 1]


def decide(effect: float, better: int, p_value: float, p_equivalence: float | None, alpha: float) -> Word:
    """The word for an effect. Within the margin is "equivalent", even where the difference is significant."""
    if p_equivalence is not None and p_equivalence < alpha:
        return "equivalent"
    if p_value < alpha:
        return "helped" if effect * better > 0 else "hurt"
    return "not enough evidence"


def standard_error(treatment: Resampled, control: Resampled, include_seeds: bool) -> tuple[float, float]:
    """Standard error of the difference of means over seeds, and its degrees of freedom (Welch-Satterthwaite).

    Variance = seeds of either arm + documents - their overlap: noise of one seed on one document is in the spread
    between seeds and in the spread between documents, and must count once.
    """
    documents = treatment.documents
    if documents < 2:
        return math.inf, 1.0
    differences_R = treatment.draws_RS.mean(axis=1) - control.draws_RS.mean(axis=1)
    by_documents = float(differences_R.var(ddof=1)) * documents / (documents - 1)
    if not include_seeds:
        return math.sqrt(by_documents), documents - 1.0
    total, uncertainty = by_documents, by_documents**2 / (documents - 1)
    for arm in (treatment, control):
        total += max(arm.seed_variance() - arm.interaction_variance(), 0.0)
        uncertainty += arm.seed_variance() ** 2 / max(arm.seeds - 1, 1)
    freedom = total**2 / uncertainty if uncertainty > 0 else documents - 1.0
    return math.sqrt(total), min(max(freedom, 1.0), documents + treatment.seeds + control.seeds - 3.0)


def _tail(value: float, error: float, freedom: float) -> float:
    """P(T > value / error); exact differences (error 0) are certain."""
    if error == 0:
        return 0.0 if value > 0 else 0.5 if value == 0 else 1.0
    return float(special.stdtr(freedom, -value / error))


def compare_resampled(
    treatment: Resampled,
    control: Resampled,
    *,
    metric: Metric = LOSS,
    margin: float | None = None,
    confidence: float = 0.95,
    control_is_fixed: bool = False,
) -> Comparison:
    """Compare two resampled arms; `control_is_fixed` marks a control without seeds, such as the lead baseline.

    `margin` (in the metric's unit) makes the word "equivalent" possible. Raises ValueError if the arms were scored on
    different numbers of documents.
    """
    if treatment.draws_RS.shape[0] != control.draws_RS.shape[0] or treatment.documents != control.documents:
        raise ValueError(f"unpaired arms: {treatment.documents} documents against {control.documents}")
    alpha = 1.0 - confidence
    seeds = treatment.seeds if control_is_fixed else min(treatment.seeds, control.seeds)
    enough = seeds >= MIN_SEEDS
    effect = float(treatment.points_S.mean() - control.points_S.mean())
    error, freedom = standard_error(treatment, control, include_seeds=enough)
    half = float(special.stdtrit(freedom, 1 - alpha / 2)) * error
    half_equivalence = float(special.stdtrit(freedom, 1 - alpha)) * error
    p_value = min(1.0, 2 * _tail(abs(effect), error, freedom))
    p_equivalence = None
    if margin is not None:
        p_equivalence = max(_tail(margin - effect, error, freedom), _tail(margin + effect, error, freedom))
    word = decide(effect, metric.better, p_value, p_equivalence, alpha)
    return Comparison(
        metric=metric.name,
        effect=effect,
        low=effect - half,
        high=effect + half,
        confidence=confidence,
        margin=margin,
        word=word if enough else "not enough evidence",
        suggestion=word,
        p_value=p_value if enough else None,
        p_equivalence=p_equivalence if enough else None,
        equivalence_low=effect - half_equivalence,
        equivalence_high=effect + half_equivalence,
        standard_error=error,
        degrees_of_freedom=freedom,
        includes_seeds=enough,
        treatment_score=float(treatment.points_S.mean()),
        control_score=float(control.points_S.mean()),
        seeds_per_arm=seeds,
        documents=treatment.documents,
        better=metric.better,
    )


def compare(
    treatment: Sequence[DocumentScores],
    control: Sequence[DocumentScores],
    *,
    margin: float | None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 12345,
    metric: Metric = LOSS,
) -> Comparison:
    """Compare two arms, each a list of one DocumentScores per seed over the same documents in the same order.

    An effect below 0 is in favour of the treatment where lower is better. "helped" and "hurt": the interval (t-based,
    seeds and documents, see the module's docstring) excludes 0. "equivalent": the (1 - 2 alpha) interval lies within
    ± margin (two one-sided tests, Schuirmann 1987). Fewer than 3 seeds in either arm: "not enough evidence".
    """
    bootstrap = Bootstrap(resamples=resamples, confidence=confidence, seed=seed)
    return compare_resampled(
        resample(treatment, metric, bootstrap),
        resample(control, metric, bootstrap),
        metric=metric,
        margin=margin,
        confidence=confidence,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down adjusted p-values, in the given order; None stays None and is not counted."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[index] = running
    return adjusted

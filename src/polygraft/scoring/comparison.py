"""Does one arm score differently from another, beyond the noise of documents and of seeds? Pure numpy and scipy.

Suffixes: A arms, D documents, S seeds, K statistics per document.

Two things were drawn at random: the test documents, which all arms share, and the seeds, which are each arm's own even
where their numbers agree (stages draw their noise in another order). A score of a whole corpus is split into what each
document contributes (jackknife), which makes documents x seeds a table with two random factors. docs/verdict.md has the
formulas, and how often the intervals hold the truth: `benchmarks/intervals.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from polygraft.scoring.metrics import LOSS, Metric

Word = Literal["helped", "hurt", "equivalent", "not enough evidence"]
MIN_SEEDS = 3  # below, the noise between seeds cannot be estimated
WANTED_SEEDS = 5  # METHODS: at least five for a claim
MOST_BELOW = 0.1  # of the seeds' variance: how far below 0 the documents' may be estimated


@dataclass(frozen=True)
class ArmScores:
    """One arm's score per seed, `points_S`, and what each document contributes to it, `values_SD`."""

    points_S: np.ndarray
    values_SD: np.ndarray

    @classmethod
    def of(cls, seeds: Sequence[np.ndarray], metric: Metric) -> ArmScores:
        """Score the seeds of an arm, given the metric's statistics of each, [D, K].

        A document contributes its pseudo-value (Tukey 1958): in a mean, its own score.

        Raises:
            ValueError: seeds that scored different numbers of documents.
        """
        shapes = {statistics_DK.shape for statistics_DK in seeds}
        if len(shapes) != 1:
            raise ValueError(f"the seeds of an arm must score the same documents; got statistics of shapes {shapes}")
        statistics_SDK = np.stack(seeds)
        sums_S1K = statistics_SDK.sum(axis=1, keepdims=True)
        points_S1, documents = metric.from_sums(sums_S1K), statistics_SDK.shape[1]
        without_SD = metric.from_sums(sums_S1K - statistics_SDK)
        return cls(points_S1[:, 0], documents * points_S1 - (documents - 1) * without_SD)

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return float(self.points_S.mean())

    def seed_variance(self) -> float:
        """Variance of the mean over seeds, on these documents; at least two seeds."""
        return float(self.points_S.var(ddof=1)) / len(self.points_S)

    def interaction_variance(self) -> float:
        """The part of `seed_variance` that more documents would average out; the spread of documents has it, too."""
        seeds, documents = self.values_SD.shape
        noise_SD = self.values_SD - self.values_SD.mean(axis=1, keepdims=True)
        return float(noise_SD.var(axis=0, ddof=1).sum()) / (documents - 1) / documents / seeds


@dataclass(frozen=True)
class Comparison:
    """Difference treatment - control of a metric, averaged over seeds, with what can be said about it.

    All that is said follows from the interval `low` to `high` of level `confidence`, and from nothing else. Without
    enough seeds it is that of the documents alone, `word` is "not enough evidence", and `suggestion` is the word that
    the documents alone would give.
    """

    metric: str
    better: int
    confidence: float
    margin: float | None
    effect: float
    standard_error: float
    degrees_of_freedom: float
    treatment_score: float
    control_score: float
    seeds_per_arm: int
    documents: int

    @property
    def _half(self) -> float:
        return float(special.stdtrit(self.degrees_of_freedom, (1 + self.confidence) / 2)) * self.standard_error

    @property
    def low(self) -> float:
        return self.effect - self._half

    @property
    def high(self) -> float:
        return self.effect + self._half

    @property
    def includes_seeds(self) -> bool:
        return self.seeds_per_arm >= MIN_SEEDS

    @property
    def suggestion(self) -> Word:
        """Within the margin is "equivalent", even where the interval excludes 0."""
        if self.margin is not None and -self.margin < self.low and self.high < self.margin:
            return "equivalent"
        if self.low <= 0 <= self.high:
            return "not enough evidence"
        return "helped" if self.effect * self.better > 0 else "hurt"

    @property
    def word(self) -> Word:
        return self.suggestion if self.includes_seeds else "not enough evidence"

    @property
    def p_value(self) -> float:
        """Of no difference, two-sided: 1 - the level at which the interval ends at 0."""
        return self._p(abs(self.effect))

    @property
    def p_equivalence(self) -> float | None:
        """1 - the level at which the interval ends at the margin, 1 for an effect beyond it.

        Two one-sided tests (Schuirmann 1987), both at half of 1 - confidence, as the interval has it.
        """
        return None if self.margin is None else self._p(self.margin - abs(self.effect))

    def _p(self, distance: float) -> float:
        if distance <= 0:
            return 1.0
        if self.standard_error == 0:  # a difference without noise is certain
            return 0.0
        return 2 * float(special.stdtr(self.degrees_of_freedom, -distance / self.standard_error))


def standard_error(
    by_documents: Any, by_seeds_A: Any, shared: Any, spare_documents: int, spare_seeds_A: Any
) -> tuple[Any, Any]:
    """Standard error of a difference and its degrees of freedom, from variances of it; all may have axes behind.

    Noise of one seed on one document is in `by_seeds_A`, of each arm, and in `by_documents`, off which it is taken as
    `shared`. What is left is no less than 0 in truth, and less by chance: cut off at 0 it would be too much on average.
    The seeds' part has Welch's degrees of freedom. 1 / f is averaged over that part and the documents', by variance:
    Satterthwaite's f is larger where a few seeds agree by chance, and his intervals then cover 92%.
    """
    by_seeds_A = np.asarray(by_seeds_A)
    spare_A = np.reshape(spare_seeds_A, (-1, *[1] * (by_seeds_A.ndim - 1)))
    seeds = by_seeds_A.sum(axis=0)
    documents = np.maximum(by_documents - shared, -MOST_BELOW * seeds)
    counted = np.maximum(documents, 0.0)
    with np.errstate(invalid="ignore"):  # 0 / 0, where nothing varies
        welch = np.nan_to_num((by_seeds_A**2 / spare_A).sum(axis=0) / seeds)
        freedom = (seeds + counted) / (welch + counted / spare_documents)
    return np.sqrt(seeds + documents), np.where(np.isnan(freedom), spare_documents, freedom)


def compare_arms(
    treatment: ArmScores,
    control: ArmScores,
    *,
    metric: Metric = LOSS,
    margin: float | None = None,
    confidence: float = 0.95,
    control_is_fixed: bool = False,
) -> Comparison:
    """Compare two scored arms; `control_is_fixed` marks a control without seeds, such as the lead baseline.

    `margin` (in the metric's unit) makes the word "equivalent" possible. Raises ValueError if the arms were scored on
    different numbers of documents.
    """
    documents = treatment.values_SD.shape[1]
    if documents != control.values_SD.shape[1]:
        raise ValueError(f"unpaired arms: {documents} documents against {control.values_SD.shape[1]}")
    arms = [treatment] if control_is_fixed else [treatment, control]
    seeds = min(len(arm.points_S) for arm in arms)
    error, freedom = math.inf, 1.0
    if documents > 1:
        differences_D = treatment.values_SD.mean(axis=0) - control.values_SD.mean(axis=0)
        by_documents = differences_D.var(ddof=1) / documents
        varied = arms if seeds >= MIN_SEEDS else []
        error, freedom = standard_error(
            by_documents, [arm.seed_variance() for arm in varied], sum(arm.interaction_variance() for arm in varied),
            documents - 1, [len(arm.points_S) - 1 for arm in varied],
        )  # fmt: skip
    return Comparison(
        metric=metric.name,
        better=metric.better,
        confidence=confidence,
        margin=margin,
        effect=treatment.score - control.score,
        standard_error=float(error),
        degrees_of_freedom=float(freedom),
        treatment_score=treatment.score,
        control_score=control.score,
        seeds_per_arm=seeds,
        documents=documents,
    )


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm's (1979) procedure decides on each: p < level says the same as adjusted p < alpha.

    It is alpha over the number of hypotheses that are open when their turn comes, smallest p first.
    """
    levels, still_open = [alpha] * len(p_values), len(p_values)
    for p, index in sorted((p, index) for index, p in enumerate(p_values)):
        levels[index] = alpha / still_open
        still_open -= p < levels[index]
    return levels

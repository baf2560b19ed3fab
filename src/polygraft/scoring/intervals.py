"""Ratios over a text with intervals: what if other documents of the same kind had been taken?

Documents are drawn anew within each language (bootstrap); every language counts the same. Two models that were measured
on the same documents get the same draws, so that what is hard for both cancels out of their difference.

D documents, L languages, R draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from polygraft.scoring.bootstrap import Bootstrap, ratio_of_sums, resampled_sums
from polygraft.scoring.figures import rounded

CONFIDENCE = 0.95
DRAWS = Bootstrap()


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval, of 95% where nothing else is said; None where single documents leave it unknown."""

    value: float
    low: float | None
    high: float | None

    def text(self, signed: bool = False, marks: Sequence[float] = (0.0,)) -> str:
        """For people: 2.31 (2.20 to 2.42), with decimals enough to see on which side of each mark the ends are."""
        if self.low is None or self.high is None:
            return rounded([], [self.value], signed=signed)[0]
        low, high, value = rounded([self.low, self.high], [self.value], marks=marks, signed=signed)
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums over documents, per language: on the documents (`points`) and on draws of them ([R])."""

    points: Mapping[str, float]
    draws: Mapping[str, np.ndarray]
    documents: Mapping[str, int]

    @property
    def value(self) -> float:
        """The mean over languages."""
        return float(np.mean(list(self.points.values())))

    def minus(self, other: Ratio) -> Ratio:
        """The paired difference, over the languages that both have."""
        shared = [language for language in self.points if language in other.points]
        return Ratio(
            {language: self.points[language] - other.points[language] for language in shared},
            {language: self.draws[language] - other.draws[language] for language in shared},
            {language: self.documents[language] for language in shared},
        )

    def only(self, language: str) -> Ratio:
        """The same of one language."""
        points, draws, documents = self.points[language], self.draws[language], self.documents[language]
        return Ratio({language: points}, {language: draws}, {language: documents})

    def standard_error(self) -> tuple[float, float]:
        """The standard error of `value`, and its degrees of freedom (Welch-Satterthwaite over languages)."""
        if min(self.documents.values()) < 2:
            return math.inf, 1.0
        spare = {language: number - 1 for language, number in self.documents.items()}
        # the bootstrap's variance is that of the documents as they are: too small by (D - 1) / D
        variances = {
            language: float(self.draws[language].var(ddof=1)) * (1 + 1 / spare[language]) for language in spare
        }
        total = sum(variances.values())
        uncertainty = sum(variance**2 / spare[language] for language, variance in variances.items())
        return math.sqrt(total) / len(spare), total**2 / uncertainty if uncertainty else float(sum(spare.values()))

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The figure and its interval, from a t distribution: that of few documents is wider."""
        error, freedom = self.standard_error()
        if not math.isfinite(error):
            return Estimate(self.value, None, None)
        half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
        return Estimate(self.value, self.value - half, self.value + half)

    def p_value(self) -> float:
        """Two-sided, for the ratio being 0; 1 where the interval is unknown."""
        error, freedom = self.standard_error()
        if error == 0:
            return float(self.value == 0)
        return min(1.0, 2 * float(special.stdtr(freedom, -abs(self.value) / error)))


def ratio(top_D: np.ndarray, bottom_D: np.ndarray, languages: Sequence[str]) -> Ratio:
    """The sum of `top_D` over that of `bottom_D`, for each of the documents' languages [D].

    Equal documents give equal draws, whatever the two statistics are.
    """
    of = np.asarray(languages)
    points, draws, documents = {}, {}, {}
    for language in dict.fromkeys(languages):
        mine_D2 = np.stack([top_D, bottom_D], axis=1)[of == language].astype(np.float64)
        points[language] = float(ratio_of_sums(mine_D2.sum(axis=0)))
        seed = DRAWS.seed + zlib.crc32(language.encode())  # its own, wherever it stands among the languages
        own = replace(DRAWS, seed=seed)
        draws[language] = ratio_of_sums(resampled_sums(mine_D2, own))
        documents[language] = len(mine_D2)
    return Ratio(points, draws, documents)

"""A linear map from one space of embeddings or hidden states to another, fitted on tokens that both know.

Legend: N rows, a width of the source, b width of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK_ROWS = 8192
HELDOUT_EVERY = 10  # rows or documents: this one is not fitted on, but judges the map
CSLS_NEIGHBOURS = 10
CSLS_MAX_ROWS = 5000


@dataclass(frozen=True)
class LinearMap:
    """y = x W + c: `weight` (a, b) and `intercept` (b,), float64."""

    weight: Tensor
    intercept: Tensor

    @classmethod
    def through_origin(cls, weight: Tensor) -> LinearMap:
        """y = x W."""
        return cls(weight, torch.zeros(weight.shape[1], dtype=torch.float64))

    def __call__(self, rows_Na: Tensor) -> Tensor:
        return rows_Na.double() @ self.weight + self.intercept


class Moments:
    """Weighted second moments of x and y, added up block by block: all that a ridge map and its R^2 need.

    Memory is O(a^2 + a b), in float64, whatever the number of rows.
    """

    def __init__(self, a: int, b: int) -> None:
        self.crossed = torch.zeros(a + 1, a + 1 + b, dtype=torch.float64)  # [x 1]^T diag(w) [x 1 y]
        self.squares_b = torch.zeros(b, dtype=torch.float64)  # sum of w y^2

    @property
    def total(self) -> float:
        """The sum of the weights: without weights, the number of rows."""
        return float(self.crossed[-1, len(self.crossed) - 1])

    @property
    def variance(self) -> float:
        """The weighted mean squared distance of y from its mean."""
        sums_b = self.crossed[-1, len(self.crossed) :]
        return float((self.squares_b.sum() - sums_b.square().sum() / self.total) / self.total)

    def add(self, x_Na: Tensor, y_Nb: Tensor, weights_N: Tensor | None = None) -> None:
        """Add rows of any float dtype; without weights each weighs 1."""
        x1, y = torch.nn.functional.pad(x_Na.double(), (0, 1), value=1.0), y_Nb.double()
        weighted = x1 if weights_N is None else x1 * weights_N[:, None]
        self.crossed += weighted.T @ torch.cat([x1, y], dim=1)
        self.squares_b += weighted[:, -1] @ y.square()

    def solve(self, ridge: float) -> LinearMap:
        """Minimise sum_n w_n |x_n W + c - y_n|^2 + ridge * trace(S) / a * |W|^2, S the weighted scatter of the x_n.

        The penalty is relative to the mean eigenvalue of S, so that the same `ridge` means the same at every width,
        number of rows and scale of x: 1 halves a direction of mean variance. c is not penalised.
        """
        scatter_aa, cross_ab, mean_a, mean_b = self.centred()
        weight_ab = _ridge(scatter_aa, cross_ab, ridge)
        return LinearMap(weight_ab, mean_b - mean_a @ weight_ab)

    def through_origin(self, ridge: float) -> LinearMap:
        """Minimise sum_n w_n |x_n W - y_n|^2 + ridge * trace(S) / a * |W|^2, with S = sum_n w_n x_n^T x_n and c = 0."""
        a = len(self.crossed) - 1
        return LinearMap.through_origin(_ridge(self.crossed[:a, :a], self.crossed[:a, a + 1 :], ridge))

    def low_rank(self, ridge: float, rank: int) -> tuple[Tensor, Tensor]:
        """Minimise the same over all W of a rank.

        Reduced-rank regression (Izenman 1975, Reduced-rank regression for the multivariate linear model): the ridge
        solution, projected on the leading principal directions V of its fitted values.

        Returns:
            V^T W^T [r, a] and V [b, r], whose product is W^T; r = `rank`, or b if that is less.
        """
        a = len(self.crossed) - 1
        weight_ab = self.through_origin(ridge).weight
        fitted_bb = weight_ab.T @ self.crossed[:a, a + 1 :]  # W^T (S + penalty) W
        leading_br = torch.linalg.eigh((fitted_bb + fitted_bb.T) / 2).eigenvectors[:, -rank:]
        return (weight_ab @ leading_br).T, leading_br

    def centred(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weighted scatter of x (a, a), its cross moment with y (a, b), and the means of x and y."""
        a = len(self.crossed) - 1
        means = self.crossed[a] / self.crossed[a, a]  # of [x 1 y]
        moments = self.crossed[:a] - torch.outer(self.crossed[:a, a], means)
        return moments[:, :a], moments[:, a + 1 :], means[:a], means[a + 1 :]

    def r_squared(self, fitted: LinearMap) -> float:
        """Return the share of y's variance about its mean that a map explains on these rows; as `r_squared` on them."""
        return 1 - self._residual(fitted) / max(self.total * self.variance, 1e-300)

    def explained(self, fitted: LinearMap) -> float:
        """Return the share of y's squares, not those about its mean, that a map explains on these rows."""
        return 1 - self._residual(fitted) / max(float(self.squares_b.sum()), 1e-300)

    def _residual(self, fitted: LinearMap) -> float:
        a = len(self.crossed) - 1
        both = torch.cat([fitted.weight, fitted.intercept[None]])
        moments, cross = self.crossed[:, : a + 1], self.crossed[:, a + 1 :]
        return float((both * (moments @ both - 2 * cross)).sum() + self.squares_b.sum())

    def size(self, fitted: LinearMap) -> float:
        """Return the root mean square length of what a map makes of these x."""
        a = len(self.crossed) - 1
        both = torch.cat([fitted.weight, fitted.intercept[None]])
        return float((both * (self.crossed[:, : a + 1] @ both)).sum().clamp_min(0.0) / self.total) ** 0.5


def _ridge(scatter_aa: Tensor, cross_ab: Tensor, ridge: float) -> Tensor:
    a = len(scatter_aa)
    system = scatter_aa + ridge * scatter_aa.trace() / a * torch.eye(a, dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(system)
    if ridge > 0 and not failed:
        return torch.cholesky_solve(cross_ab, factor)
    # with fewer rows than a and no ridge the scatter is singular, and the shortest W is wanted
    return torch.linalg.lstsq(system, cross_ab, driver="gelsd").solution


def moments_of(
    source: Tensor, source_ids: np.ndarray, target: Tensor, target_ids: np.ndarray, weights: np.ndarray
) -> Moments:
    """Add up the moments of pairs of rows of two matrices, block by block.

    Args:
        source, target: (rows, a) and (rows, b), any float dtype; x_n = source[source_ids[n]], y_n likewise.
        weights: (N,) positive.
    """
    moments = Moments(source.shape[1], target.shape[1])
    for start in range(0, len(weights), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        x, y = source[torch.from_numpy(source_ids[block])], target[torch.from_numpy(target_ids[block])]
        moments.add(x, y, torch.from_numpy(weights[block]))
    return moments


def r_squared(predicted_Nb: Tensor, true_Nb: Tensor) -> float:
    """Return the share of the true rows' variance about their mean that the predictions explain."""
    residual = (predicted_Nb.double() - true_Nb.double()).square().sum()
    return float(1 - residual / (true_Nb.double() - true_Nb.double().mean(0)).square().sum().clamp_min(1e-300))


def csls_precision(predicted_Nb: Tensor, true_Nb: Tensor, k: int = CSLS_NEIGHBOURS) -> float:
    """Return how often a prediction's nearest true row is its own, by cross-domain similarity local scaling.

    Both sides are centred and normalised; similarity 2 cos(p, t) - r(p) - r(t), with r the mean cosine to the k nearest
    of the other side, which discounts hubs (Conneau et al. 2018, Word translation without parallel data, section 2.3).
    """
    p, t = (torch.nn.functional.normalize((m - m.mean(0)).double(), dim=1) for m in (predicted_Nb, true_Nb))
    cosine_NN = p @ t.T
    k = min(k, len(cosine_NN))
    near_p, near_t = (cosine_NN.topk(k, dim=axis).values.mean(axis, keepdim=True) for axis in (1, 0))
    best = (2 * cosine_NN - near_p - near_t).argmax(1)
    return float((best == torch.arange(len(best))).double().mean())


def mean_pairwise_cosine(rows_Nd: Tensor) -> float:
    """Return the mean cosine over all pairs of different rows, in O(N d): |sum of unit rows|^2 counts every pair."""
    count = len(rows_Nd)
    if count < 2:
        return float("nan")
    summed_d = torch.zeros(rows_Nd.shape[1], dtype=torch.float64)
    for block in rows_Nd.split(BLOCK_ROWS):
        summed_d += torch.nn.functional.normalize(block.double(), dim=1).sum(0)
    return float((summed_d.square().sum() - count) / (count * (count - 1)))

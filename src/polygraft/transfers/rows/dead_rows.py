"""Find the rows of a tied embedding matrix that training never gave a meaning.

A token that never occurs still gets a gradient from the tied softmax: ``sum_t p_t(v) h_t``, the push away from every
hidden state. It is the same for all such tokens, and Adam, which divides by its size, makes it exactly so. Hence a
never-seen row is

    e_v = g + noise_v,      g the common drift, noise_v what is left of its random initialisation,

and the never-seen rows are a ball around g whose radii are those of a d-dimensional Gaussian: concentrated, with
relative spread 1 / sqrt(2 d). A few sightings as a target take a row out of it. The row of ``<pad>``, which starts at
zero and is never a target, *is* g. So no counts are needed, and no threshold that depends on the scale of a model: find
the ball, clip at four of its own sigmas, and check that it is one. Where all rows were trained there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEED_ROWS = 64  # rows nearest to a seed that start a search; fewer dead rows than a quarter of them do not matter
MAX_ROUNDS = 30  # of growing; the balls of measured matrices were complete after 4 to 6
SIGMAS = 4.0
MAX_SPREAD = 3.0  # a ball's spread of radii, in units of the Gaussian's: beyond it, it is a cloud of trained rows
MIN_DRIFT_SHARE = 0.8  # |g|^2 / mean |e|^2, the mean pairwise cosine of the ball; dead 0.88 to 0.997, nano XLM-R 0.73
MAX_SHARE_OF_ROWS = 0.95  # a model that learned anything has more rows outside the ball than that
MIN_ISOTROPY = 0.25  # effective dimensions of the noise / those of Gaussian rows; trained 0.06 to 0.5, dead 0.5 to 1
MAX_PAD_OFFSET = 0.25  # |e_pad - g| / radius; measured: dead 0.03 to 0.06, clouds of trained rows 0.4 to 5


@dataclass(frozen=True)
class DeadRows:
    """The rows found: `ids` int64, ascending; their common `drift` (d, float32); what the ball measures, and why."""

    ids: np.ndarray
    drift: Tensor
    figures: dict[str, float]
    reason: str


def find_dead_rows(
    matrix: Tensor, candidates: np.ndarray, anchors: Sequence[int] = (), pad: int | None = None
) -> DeadRows:
    """Find the ball of never-seen rows, if there is one.

    Args:
        matrix: (rows, d), any float dtype.
        candidates: int64 ids of the rows that may be dead.
        anchors: ids of rows that surely were no targets (``<s>``, rows without a token): where to look first. Wrong or
            missing anchors cost time, not correctness.
        pad: id of ``<pad>``: the first anchor, and, unless its row is zero, the proof: it has to lie at the centre of
            the ball. Better to miss dead rows, with a reason, than to overwrite trained ones.

    Returns:
        The dead rows among `candidates`; none, with the reason, where no ball passes the checks.
    """
    rows_Vd = matrix.detach()[torch.from_numpy(candidates)].float()
    pad_d = matrix[pad].detach().float() if pad is not None and matrix[pad].any() else None
    reasons = []
    for name, start_d in _starts(matrix, rows_Vd, anchors if pad is None else [pad, *anchors]):
        inside = _grow(rows_Vd, start_d)
        figures, fault = _judge(rows_Vd[inside], len(rows_Vd), pad_d)
        if fault is None:
            ids = np.sort(candidates[inside.numpy()])
            return DeadRows(ids, rows_Vd[inside].mean(0), figures, f"a ball of {len(ids)} rows around {name}")
        reasons.append(f"around {name}: {fault}")
    none = np.zeros(0, dtype=np.int64)
    return DeadRows(none, torch.zeros(matrix.shape[1]), {}, "; ".join(reasons) or "no rows to look at")


def _starts(matrix: Tensor, rows_Vd: Tensor, anchors: Sequence[int]) -> list[tuple[str, Tensor]]:
    """Where g may be: the anchors, and the tip of the densest cone of rows."""
    starts = [(f"row {row}", matrix[row].detach().float()) for row in anchors if matrix[row].any()]
    if len(rows_Vd) > SEED_ROWS:
        axis_d = torch.nn.functional.normalize(rows_Vd, dim=1).mean(0)
        along_V = rows_Vd @ axis_d  # never pulled back by a sighting, dead rows lie farthest out on the drift
        starts.append(("the common direction", rows_Vd[along_V.topk(SEED_ROWS).indices].mean(0)))
    return starts


def _grow(rows_Vd: Tensor, start_d: Tensor) -> Tensor:
    """Sigma-clip from the rows nearest to a start until the ball no longer changes; returns its indices."""
    theory = (2 * rows_Vd.shape[1]) ** -0.5
    rows_Vd = rows_Vd - start_d  # small near the ball, so that |x|^2 - 2 x c + |c|^2 keeps its digits in fp32
    square_V = torch.linalg.vector_norm(rows_Vd, dim=1).square()
    inside_V = torch.zeros(len(rows_Vd), dtype=torch.bool)
    inside_V[square_V.topk(min(SEED_ROWS, len(rows_Vd)), largest=False).indices] = True
    for _ in range(MAX_ROUNDS):
        centre_d = inside_V.float() @ rows_Vd / inside_V.sum()
        distances_V = (square_V - 2 * (rows_Vd @ centre_d) + centre_d @ centre_d).clamp_min(0).sqrt()
        radius = distances_V[inside_V].median()
        spread = 1.4826 * (distances_V[inside_V] - radius).abs().median() / radius.clamp_min(1e-12)
        grown_V = distances_V <= radius * (1 + SIGMAS * spread.clamp(theory, MAX_SPREAD * theory))
        if torch.equal(grown_V, inside_V):
            break
        inside_V = grown_V
    return inside_V.nonzero().squeeze(1)


def _judge(ball_Nd: Tensor, rows: int, pad_d: Tensor | None) -> tuple[dict[str, float], str | None]:
    """Measure a ball, and say what is wrong with it as one of never-seen rows (None: nothing)."""
    count, width = ball_Nd.shape
    if count < SEED_ROWS // 4:
        return {}, f"only {count} rows"
    drift_d = ball_Nd.mean(0)
    drift_share = float(drift_d.square().sum() / torch.linalg.vector_norm(ball_Nd, dim=1).square().mean())
    if not drift_share >= MIN_DRIFT_SHARE:
        return {}, f"{count} rows share too little drift ({drift_share:.2f})"
    noise_Nd = ball_Nd - drift_d
    radii_N = noise_Nd.norm(dim=1)
    covariance_dd = noise_Nd.T @ noise_Nd
    effective = covariance_dd.trace().square() / covariance_dd.square().sum()
    figures = {
        "drift_share": drift_share,
        "radius": float(radii_N.median()),
        "spread": float(radii_N.std() / radii_N.mean()) * (2 * width) ** 0.5,
        "isotropy": float(effective) * (1 / width + 1 / count),  # Gaussian rows: n d / (n + d) effective dimensions
    }
    if not figures["isotropy"] >= MIN_ISOTROPY:
        return figures, f"{count} rows differ by more than noise (isotropy {figures['isotropy']:.2f})"
    if not figures["spread"] <= MAX_SPREAD:
        return figures, f"{count} rows are not at one distance (spread {figures['spread']:.2f} of a Gaussian's)"
    if pad_d is not None:
        figures["pad_offset"] = float((pad_d - drift_d).norm()) / figures["radius"]
        if not figures["pad_offset"] <= MAX_PAD_OFFSET + count**-0.5:  # the second term: the mean's sampling error
            return figures, f"<pad> is not at the centre of the {count} rows ({figures['pad_offset']:.2f} radii away)"
    if count > MAX_SHARE_OF_ROWS * rows:
        return figures, f"{count} of {rows} rows, nearly all"
    return figures, None

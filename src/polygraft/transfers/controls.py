"""Placebos: the same method at the same cost with the knowledge destroyed.

What a transfer gains over its placebo is what came from the source; what both gain is due to something else, such as
repaired rows, more parameters or more steps. `random` puts noise of the same size in place of what was learned;
`permuted` leaves what was learned and gives it to the wrong tokens. How is each method's own matter; here is what they
draw. Everything follows from the seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polygraft.transfers.contract import Inputs

RANDOM, PERMUTED = "random", "permuted"


def generator_of(inputs: Inputs) -> torch.Generator:
    """Return a new generator on the CPU, started with the transfer's seed."""
    return torch.Generator().manual_seed(inputs.seed)


def cycle(count: int, generator: torch.Generator) -> Tensor:
    """Return a random permutation, int64 [count], that is one cycle: of two or more, none stays in its place."""
    order = torch.randperm(count, generator=generator)
    permutation = torch.empty(count, dtype=torch.int64)
    permutation[order] = order.roll(1)
    return permutation


def rotation(width: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix, uniformly distributed, float64 [width, width].

    QR of normal noise with the signs of R's diagonal (Mezzadri 2007, How to generate random matrices from the classical
    compact groups, section 5).
    """
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal noise of a tensor's shape and Frobenius norm, float64."""
    return sized_like(torch.randn(tensor.shape, generator=generator, dtype=torch.float64), tensor)


def sized_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return a tensor scaled to the Frobenius norm of another, float64."""
    return tensor.double() * (model.double().norm() / tensor.double().norm().clamp_min(1e-300))

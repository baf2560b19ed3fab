"""The cross-entropy of a linear output layer without its logits: for 250,000 classes they are most of the memory.

Rows of logits are made a chunk at a time, and turned into gradients in place while they are there. Unlike torch's own
`linear_cross_entropy` this follows autocast, smooths labels, and is made of operations that torch's flop counter knows.

N labels, D width, V classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry

CHUNK_LOGITS = 2**26  # a quarter of a gigabyte in fp32; smaller chunks multiply slower

flop_registry[torch.ops.aten.addmm_] = flop_registry[torch.ops.aten.addmm]  # torch counts it, but not in place


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the (label-smoothed) cross-entropy of a linear layer in nats, summed over labels (fp32 scalar).

    The products are computed in autocast's type where it is active, sums and exponentials in fp32.
    """
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    rows = max(1, CHUNK_LOGITS // len(weight_VD))
    needed = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden_ND, weight_VD, bias_V)]
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias_V, labels_N, label_smoothing, dtype, rows, needed)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float,
        dtype: torch.dtype, rows: int, needed: list[bool],
    ) -> Tensor:  # fmt: skip
        needs_hidden, needs_weight, needs_bias = needed
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        d_bias = torch.zeros_like(bias) if bias is not None and needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix_VD = weight.to(dtype)
            for chunk in range(0, len(hidden), rows):
                part = slice(chunk, chunk + rows)
                x_nD, y_n1 = hidden[part].to(dtype), labels[part, None]
                logits_nV = (x_nD @ matrix_VD.T).float()
                if bias is not None:
                    logits_nV += bias
                lse_n1 = logits_nV.logsumexp(1, keepdim=True)
                loss += (lse_n1 - (1 - smoothing) * logits_nV.gather(1, y_n1)).sum()
                if smoothing:
                    loss -= smoothing * logits_nV.mean(1).sum()
                if not any(needed):
                    continue
                error_nV = logits_nV.sub_(lse_n1).exp_()  # softmax minus the (smoothed) one-hot label
                if smoothing:
                    error_nV -= smoothing / len(weight)
                error_nV.scatter_add_(1, y_n1, torch.full_like(lse_n1, smoothing - 1))
                if d_bias is not None:
                    d_bias += error_nV.sum(0)
                error_nV = error_nV.to(dtype)
                if d_hidden is not None:
                    d_hidden[part] = error_nV @ matrix_VD
                if d_weight is not None and d_weight.dtype == dtype:
                    d_weight.addmm_(error_nV.T, x_nD)
                elif d_weight is not None:
                    d_weight += error_nV.T @ x_nD
        ctx.gradients = d_hidden, d_weight, d_bias
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        gradients = tuple(None if g is None else g.mul_(grad) for g in ctx.gradients)
        del ctx.gradients
        return (*gradients, None, None, None, None, None)

"""Give the tokens that a trimmed training never saw the probability that they deserve.

While a model is trained with a trimmed vocabulary, nothing keeps its hidden states away from the other tokens. Back in
the full vocabulary these take part in the softmax again, with whatever logits they happen to have: on the nano pair in
a language new to mBART, 1.1 nats per token of loss. Training with all tokens would have pushed them down, all alike.
So one bias for all of them is set, such that on held-out text they get together the probability of unseen tokens by
Good and Turing's estimate: the share of tokens in the training text that occur once (Good 1953, The population
frequencies of species and the estimation of population parameters, equation 9). Their embedding rows stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygraft.models.matrices import output_bias
from polygraft.models.vocabulary import token_counts

POSITIONS = 2000  # labels to measure on: one number is estimated
BISECTIONS = 60


def unseen_mass(tokenizer: Any, texts: Iterable[str]) -> float:
    """Return Good and Turing's estimate of the probability that the next token is one that `texts` lack."""
    counts = token_counts(tokenizer, texts)
    return float((counts == 1).sum() / max(1, counts.sum()))


@torch.inference_mode()
def quieten_others(model: Any, kept: np.ndarray, objective: Any, data: Any, mass: float) -> dict[str, float]:
    """Lower the output bias of all tokens but `kept`, in place, until they have at most `mass` together.

    Args:
        kept: int64 ids of the tokens that were trained.
        objective: makes batches of `data` (held out), and logits of its labels; a task of polygraft.objectives.
        mass: probability between 0 and 1.

    Returns:
        {"others_mass_before", "others_mass": mean probability of the other tokens, "others_bias": nats, 0 or below}.
    """
    gap_N = _log_odds(model.eval(), torch.from_numpy(kept).to(model.device), objective, data)
    before = float(gap_N.sigmoid().mean())
    low, high = -100.0, 0.0
    for _ in range(BISECTIONS if before > mass else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if float((gap_N + middle).sigmoid().mean()) > mass else (middle, high)
    bias = low if before > mass else 0.0
    others = torch.ones(model.config.vocab_size, dtype=torch.bool)
    others[kept] = False
    output_bias(model)[others] += bias
    return {
        "others_mass_before": before, "others_mass": float((gap_N + bias).sigmoid().mean()), "others_bias": bias,
    }  # fmt: skip


def _log_odds(model: Any, kept_K: Tensor, objective: Any, data: Any) -> Tensor:
    """Return log P(other tokens) - log P(kept tokens) at the labels of the first rows, float64 [at most POSITIONS]."""
    gaps: list[Tensor] = []
    for index in range(len(data)):
        batch = {name: tensor.to(model.device) for name, tensor in objective.collate([data[index]]).items()}
        logits_NV = objective.label_logits(model, batch)
        inside_N = logits_NV[:, kept_K].logsumexp(1)
        logits_NV[:, kept_K] = -torch.inf
        gaps.append((logits_NV.logsumexp(1) - inside_N).double().cpu())
        if sum(map(len, gaps)) >= POSITIONS:
            break
    return torch.cat(gaps)[:POSITIONS]

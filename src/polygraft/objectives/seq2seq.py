"""Sequence-to-sequence learning on labelled pairs.

B batch, S source positions, T target positions, D width, N labels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polygraft.data.layout import IGNORED, Layout, pad_rows
from polygraft.models.graft import decoder_states
from polygraft.objectives.labels import find_labels, pick
from polygraft.objectives.linear_loss import CHUNK_LOGITS, linear_cross_entropy
from polygraft.objectives.noise import Noise


class Seq2Seq:
    """Pad pairs (labels with -100), shift labels right, and take the cross-entropy of the labels."""

    noise: Noise | None = None  # nothing is random here; its heir, denoising, has some

    def __init__(self, tokenizer: Any, label_smoothing_factor: float = 0.0) -> None:
        self.layout, self.smoothing = Layout.of(tokenizer), label_smoothing_factor

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return a batch of `make_batch`."""
        return make_batch(self.layout, [row["input_ids"] for row in rows], [row["labels"] for row in rows])

    def loss(self, model: Any, **batch: Tensor) -> Tensor:
        """Return the (label-smoothed) cross-entropy in nats, summed over labels (fp32 scalar)."""
        return summed_loss(model, label_smoothing=self.smoothing, **batch)

    def label_logits(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the fp32 logits [N, V] of the labels."""
        return label_logits(model, **{name: tensor for name, tensor in batch.items() if name != "masked"})[0]

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the summed loss and the number of labels."""
        return {"eval_loss": (self.loss(model, **batch), (batch["labels"] != IGNORED).sum())}

    @staticmethod
    def tokens(batch: dict[str, Tensor]) -> Tensor:
        """Count the real tokens of sources and targets."""
        return batch["attention_mask"].sum() + (batch["labels"] != IGNORED).sum()


def make_batch(layout: Layout, sources: list[list[int]], labels: list[list[int]]) -> dict[str, Tensor]:
    """Return input_ids, attention_mask [B, S], decoder_input_ids, labels [B, T] and label_positions [N], all int64."""
    input_ids, labels_BT = pad_rows(sources, layout.pad), pad_rows(labels, IGNORED)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != layout.pad).long(),
        "decoder_input_ids": layout.decoder_input_ids(labels_BT),
        "labels": labels_BT,
        "label_positions": find_labels(labels_BT),
    }


def summed_loss(model: Any, *, label_smoothing: float = 0.0, **batch: Tensor) -> Tensor:
    """Return the (label-smoothed) cross-entropy of a batch in nats, summed over labels (fp32 scalar)."""
    hidden_ND, labels_N = label_states(model, **batch)
    bias = getattr(model, "final_logits_bias", None)
    return linear_cross_entropy(hidden_ND, model.get_output_embeddings().weight, bias, labels_N, label_smoothing)


def label_states(model: Any, labels: Tensor, label_positions: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decoder's states [N, D] at the positions that have a label, and those labels [N]."""
    hidden_BTD = decoder_states(model, **inputs)
    return pick(hidden_BTD, label_positions), pick(labels, label_positions)


def label_logits(model: Any, **batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the fp32 logits [N, V] of the positions that have a label, and those labels [N].

    Padding positions get no logits: with a vocabulary of 250,000 each would cost a megabyte.
    """
    hidden_ND, labels_N = label_states(model, **batch)
    return _logits(model, hidden_ND), labels_N


def _logits(model: Any, hidden_ND: Tensor) -> Tensor:
    logits_NV = model.get_output_embeddings()(hidden_ND).float()
    bias = getattr(model, "final_logits_bias", None)
    return logits_NV if bias is None else logits_NV + bias


@torch.inference_mode()
def token_losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return -log p of every label in nats, [B, T] fp32, 0 where there is none; logits are made a chunk at a time."""
    labels = batch["labels"]
    hidden_ND, labels_N = label_states(model, **batch)
    rows = max(1, CHUNK_LOGITS // len(model.get_output_embeddings().weight))
    chunks = zip(hidden_ND.split(rows), labels_N.split(rows), strict=True)
    losses = [F.cross_entropy(_logits(model, x_nD), y_n, reduction="none") for x_nD, y_n in chunks]
    losses_BT = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    losses_BT.view(-1)[batch["label_positions"]] = torch.cat(losses)
    return losses_BT

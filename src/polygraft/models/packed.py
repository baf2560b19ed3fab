"""The encoder of the BERT family on real tokens only, and its last layer on wanted positions only. Both are exact.

Padding takes part in attention alone: everything else in a layer sees the real tokens of a batch as one row. No
document sees another, since attention is still computed document by document. What the head does not read need not
leave the last layer, whose queries and feed-forward network are therefore computed for the wanted positions only.

B documents, T padded positions, N real tokens, M wanted tokens, H heads, D width, d width of a head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from polygraft.models.recomputed import running

LAYERS = (XLMRobertaLayer, RobertaLayer, BertLayer)


@dataclass(frozen=True)
class Places:
    """Where the real tokens of a padded batch are: flat indices into B * T [N], None where all of them are real."""

    batch: int
    length: int
    tokens_N: Tensor | None
    mask_B11T: Tensor | None

    @classmethod
    def of(cls, attention_mask_BT: Tensor, token_positions_N: Tensor) -> Places:
        batch, length = attention_mask_BT.shape
        if len(token_positions_N) == batch * length:
            return cls(batch, length, None, None)
        return cls(batch, length, token_positions_N, attention_mask_BT.bool()[:, None, None])

    def pack(self, values_BTD: Tensor) -> Tensor:
        """Return the real tokens' values, (N, ...)."""
        values = values_BTD.flatten(0, 1)
        return values if self.tokens_N is None else values[self.tokens_N]

    def heads(self, values_MD: Tensor, places_M: Tensor | None, width: int) -> Tensor:
        """Return the values at their places of the padded batch, zeros elsewhere, by head: (B, H, T, d)."""
        if places_M is not None:
            padded = values_MD.new_zeros(self.batch * self.length, values_MD.shape[1])
            values_MD = padded.index_copy(0, places_M, values_MD)
        return values_MD.view(self.batch, self.length, -1, width).transpose(1, 2)


def can_pack(encoder: Any) -> bool:
    """Whether `encode` knows this encoder's layers."""
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    return layers is not None and len(layers) > 0 and all(isinstance(layer, LAYERS) for layer in layers)


def encode(
    encoder: Any, input_ids: Tensor, attention_mask: Tensor, token_positions: Tensor, wanted_positions: Tensor
) -> Tensor:
    """Return the last hidden states at the wanted positions, (M, D).

    Args:
        encoder: a model for which `can_pack` holds.
        input_ids, attention_mask: (B, T) int64, padded on the right.
        token_positions: (N,) int64, flat indices into B * T of all real tokens, ascending.
        wanted_positions: (M,) int64, likewise, those whose states are needed.
    """
    places = Places.of(attention_mask, token_positions)
    hidden_ND = places.pack(encoder.embeddings(input_ids=input_ids))
    layers = encoder.encoder.layer
    for layer in layers[:-1]:
        hidden_ND = _call(layer, hidden_ND, places, None)
    return _call(layers[-1], hidden_ND, places, wanted_positions)


def _call(layer: Any, *args: Any) -> Tensor:
    """Run `_forward` through the layer's own __call__, so that hooks (adapters, sharding) run as they always do."""
    with running(layer, functools.partial(_forward, layer)):
        return layer(*args)


def _forward(layer: Any, hidden_ND: Tensor, places: Places, wanted_M: Tensor | None) -> Tensor:
    attention, width = layer.attention.self, layer.attention.self.attention_head_size
    queries_MD, at_M = hidden_ND, places.tokens_N
    if wanted_M is not None:
        among_real_M = wanted_M if at_M is None else torch.searchsorted(at_M, wanted_M)
        queries_MD, at_M = hidden_ND[among_real_M], wanted_M
    query = places.heads(attention.query(queries_MD), at_M, width)
    key = places.heads(attention.key(hidden_ND), places.tokens_N, width)
    value = places.heads(attention.value(hidden_ND), places.tokens_N, width)
    context_BTD = attend(query, key, value, places.mask_B11T, attention.dropout.p if layer.training else 0.0)
    context = context_BTD.flatten(0, 1)
    attended_MD = layer.attention.output(context if at_M is None else context[at_M], queries_MD)
    return layer.feed_forward_chunk(attended_MD)


def attend(query_BHTd: Tensor, key: Tensor, value: Tensor, mask_B11T: Tensor | None, dropout: float) -> Tensor:
    """Return softmax(q k / sqrt(d)) v of each document, (B, T, H * d).

    On a CPU in plain operations: at a few hundred positions twice as fast as sdpa's backward pass.
    """
    if query_BHTd.is_cuda:
        out = F.scaled_dot_product_attention(query_BHTd, key, value, mask_B11T, dropout)
    else:
        scores_BHTT = (query_BHTd * query_BHTd.shape[-1] ** -0.5) @ key.transpose(2, 3)
        if mask_B11T is not None:
            scores_BHTT = scores_BHTT.masked_fill(~mask_B11T, float("-inf"))
        out = F.dropout(scores_BHTT.softmax(-1), dropout, dropout > 0) @ value
    return out.transpose(1, 2).flatten(2)

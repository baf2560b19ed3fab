"""Masked language modelling (Devlin et al. 2019), computed for real tokens and masked positions only.

B batch, T positions, D width, N masked positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import gelu
from transformers.models.bert.modeling_bert import BertOnlyMLMHead
from transformers.models.roberta.modeling_roberta import RobertaLMHead
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLMHead

from polygraft.data.layout import IGNORED, Layout, pad_rows
from polygraft.errors import CheckpointError
from polygraft.models.graft import is_graft
from polygraft.models.packed import can_pack, encode
from polygraft.objectives.labels import find_labels, pick
from polygraft.objectives.linear_loss import linear_cross_entropy
from polygraft.objectives.noise import Noise

KEPT_MASKED, RANDOM_BELOW = 0.8, 0.9  # of the chosen positions, 80% become <mask>, 10% another token, 10% stay


class MaskedLM:
    """Dynamic 80/10/10 masking of real tokens, and its loss."""

    def __init__(self, tokenizer: Any, mlm_probability: float, noise: Noise) -> None:
        self.bos, self.eos = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.pad, self.mask = tokenizer.pad_token_id, tokenizer.mask_token_id
        self.probability, self.noise = mlm_probability, noise
        special = torch.zeros(len(tokenizer), dtype=torch.bool)
        special[tokenizer.all_special_ids] = True
        self.special_V = special
        self.ordinary_ids = (~special).nonzero().squeeze(1)  # what a token may be replaced by

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask, labels [B, T], label_positions [N] and token_positions, all int64.

        Labels are -100 but where a token was chosen; their positions are those of `find_labels`. The positions of real
        tokens are flat indices into B * T, too.
        """
        input_ids = pad_rows([self.wrap(row) for row in rows], self.pad)
        attention_mask = (input_ids != self.pad).long()
        input_ids, labels = self.corrupt(input_ids, torch.Generator().manual_seed(self.noise.next_seed()))
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "label_positions": find_labels(labels),
            "token_positions": attention_mask.flatten().nonzero().squeeze(1),
        }

    def wrap(self, row: dict[str, Any]) -> list[int]:
        """Add a document's two special tokens."""
        return [self.bos, *row["input_ids"].tolist(), self.eos]

    def corrupt(self, ids_BT: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose real tokens independently with the given probability, one at least, and corrupt them 80/10/10."""
        real_BT = ~self.special_V[ids_BT]
        chosen_BT = (torch.rand(ids_BT.shape, generator=generator) < self.probability) & real_BT
        if not chosen_BT.any():  # a batch of a few tokens: without a target its loss would be 0 / 0
            places = real_BT.flatten().nonzero().squeeze(1)
            chosen_BT.view(-1)[places[torch.randint(len(places), (1,), generator=generator)]] = True
        labels_BT = ids_BT.masked_fill(~chosen_BT, IGNORED)
        fate_BT = torch.rand(ids_BT.shape, generator=generator)
        substitutes_BT = self.ordinary_ids[torch.randint(len(self.ordinary_ids), ids_BT.shape, generator=generator)]
        corrupted_BT = ids_BT.masked_fill(chosen_BT & (fate_BT < KEPT_MASKED), self.mask)
        replaced_BT = chosen_BT & (fate_BT >= KEPT_MASKED) & (fate_BT < RANDOM_BELOW)
        return torch.where(replaced_BT, substitutes_BT, corrupted_BT), labels_BT

    @staticmethod
    def loss(
        model: Any, *, labels: Tensor, label_positions: Tensor, token_positions: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Return the cross-entropy in nats, summed over chosen positions (fp32 scalar).

        The full model's own loss is this sum divided by the number of labels; its logits of the other positions,
        85% of them at the usual rate, are never made.
        """
        if can_pack(model.base_model):
            hidden_ND = encode(model.base_model, **inputs, token_positions=token_positions,
                               wanted_positions=label_positions)  # fmt: skip
        else:
            hidden_ND = pick(model.base_model(**inputs).last_hidden_state, label_positions)
        labels_N = pick(labels, label_positions)
        transform, decoder = split_head(masked_lm_head(model))
        if decoder is None:
            return F.cross_entropy(transform(hidden_ND).float(), labels_N, reduction="sum")
        return linear_cross_entropy(transform(hidden_ND), decoder.weight, decoder.bias, labels_N)

    def label_logits(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the fp32 logits [N, V] of the chosen positions."""
        hidden_BTD = model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return masked_lm_head(model)(pick(hidden_BTD, batch["label_positions"])).float()

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the summed loss and the number of labels."""
        return {"eval_loss": (self.loss(model, **batch), (batch["labels"] != IGNORED).sum())}

    @staticmethod
    def tokens(batch: dict[str, Tensor]) -> Tensor:
        """Count the real tokens read."""
        return batch["attention_mask"].sum()


class EncoderMaskedLM(MaskedLM):
    """The same of mBART's encoder: what its last states say under the tied matrix, as the decoder's would."""

    def __init__(self, tokenizer: Any, mlm_probability: float, noise: Noise) -> None:
        super().__init__(tokenizer, mlm_probability, noise)
        self.layout = Layout.of(tokenizer)
        # whatever was added to the pieces is no text: languages, too, where the tokenizer does not call them special
        self.special_V[list(tokenizer.added_tokens_decoder)] = True
        self.ordinary_ids = (~self.special_V).nonzero().squeeze(1)

    def wrap(self, row: dict[str, Any]) -> list[int]:
        """Add a document's two special tokens, its language among them, where the encoder has them as a source."""
        return self.layout.wrap(row["input_ids"].tolist(), row["language"])

    @staticmethod
    def loss(
        model: Any, *, labels: Tensor, label_positions: Tensor, token_positions: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """Return the cross-entropy in nats, summed over chosen positions (fp32 scalar).

        Raises:
            CheckpointError: the encoder reads another matrix than the decoder writes with, as a graft's does.
        """
        hidden_ND = encoder_states(model, label_positions, **inputs)
        weight_VD = model.get_output_embeddings().weight
        return linear_cross_entropy(hidden_ND, weight_VD, model.final_logits_bias, pick(labels, label_positions))

    def label_logits(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the fp32 logits [N, V] of the chosen positions."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        hidden_ND = encoder_states(model, batch["label_positions"], **inputs)
        return model.get_output_embeddings()(hidden_ND).float() + model.final_logits_bias


def encoder_states(model: Any, positions_N: Tensor, **inputs: Tensor) -> Tensor:
    """Return the last states of an mBART's encoder at flat positions, [N, D]."""
    if is_graft(model):
        raise CheckpointError(
            "objective: mlm trains an mBART's encoder under the matrix that it shares with the decoder, and a graft's "
            "encoder has one of its own. Use objective: denoising."
        )
    return pick(model.get_encoder()(**inputs).last_hidden_state, positions_N)


def masked_lm_head(model: Any) -> nn.Module:
    """Return the module that turns hidden states into logits: `lm_head` of the RoBERTa family, `cls` of BERT's."""
    for name in ("lm_head", "cls"):
        if isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    raise CheckpointError(f"{type(model).__name__} has no masked language modelling head that polygraft knows.")


def split_head(head: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.Linear | None]:
    """Split a head into what comes before its output layer, and that layer; an unknown head stays whole (None)."""
    if isinstance(head, XLMRobertaLMHead | RobertaLMHead):
        return lambda hidden: head.layer_norm(gelu(head.dense(hidden))), head.decoder
    if isinstance(head, BertOnlyMLMHead):
        return head.predictions.transform, head.predictions.decoder
    return head, None

"""One model's encoder before another's decoder, as a plain transformers `EncoderDecoderModel`.

The encoder's embedding matrix is laid out in the decoder's vocabulary, so that mBART's tokenizer serves both sides: the
rows of its language codes hold the encoder's ``<s>``, and mBART's ``[lang] X </s>`` is ``<s> X </s>`` to it.

B documents, S source positions, T target positions, a width of the encoder, b width of the decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderConfig, EncoderDecoderModel, MBartForCausalLM, PreTrainedConfig, PreTrainedModel

from polygraft.errors import CheckpointError, DataError, TransferError
from polygraft.models.matrices import is_untied

MODEL_TYPE = EncoderDecoderConfig.model_type
ENCODER_ROWS = "encoder.embeddings.word_embeddings.weight"
DECODER_ROWS = "decoder.model.decoder.embed_tokens.weight"
TIED = {"decoder.lm_head.weight": DECODER_ROWS}


def graft_config(source: Any, target: Any, positions: int) -> Any:
    """Return the EncoderDecoderConfig of a source's encoder, of `positions` positions, before a target's decoder."""
    encoder, decoder = copy.deepcopy(source), copy.deepcopy(target)
    encoder.vocab_size = target.vocab_size
    decoder.is_encoder_decoder = False
    shared = {key: getattr(target, key) for key in ("pad_token_id", "decoder_start_token_id", "vocab_size")}
    return EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, eos_token_id=target.eos_token_id, max_position_embeddings=positions, **shared
    )


def skeleton(config: Any) -> EncoderDecoderModel:
    """Return the model without values: names and shapes of its tensors."""
    with torch.device("meta"):
        return EncoderDecoderModel(copy.deepcopy(config))


def assemble(encoder: PreTrainedModel, target: PreTrainedModel, config: Any) -> EncoderDecoderModel:
    """Put an encoder before a target's decoder; both become part of the result, nothing is copied.

    The bridge and the encoder's pooler, if its class has one, are zero; nothing reads the pooler.
    """
    with torch.device("meta"):
        decoder = MBartForCausalLM(copy.deepcopy(config.decoder))
    decoder.model.decoder, decoder.lm_head = target.model.decoder, target.lm_head
    _share_config(decoder, decoder.config, target.config._attn_implementation)
    _share_config(encoder, copy.deepcopy(config.encoder), encoder.config._attn_implementation)
    if getattr(encoder, "pooler", 0) is None:
        small = copy.deepcopy(config.encoder)
        small.num_hidden_layers, small.vocab_size = 0, small.pad_token_id + 1
        encoder.pooler = type(encoder)(small).pooler
    model = EncoderDecoderModel(copy.deepcopy(config), encoder, decoder)
    model.generation_config = copy.deepcopy(target.generation_config)
    for name, tensor in model.state_dict().items():
        if name.startswith(("encoder.pooler", "enc_to_dec_proj")):
            tensor.zero_()
    freeze_unused(model)
    return model.eval()


def _share_config(model: Any, config: PreTrainedConfig, attention: str) -> None:
    config._attn_implementation = attention  # not part of a configuration's copy
    for module in model.modules():
        if hasattr(module, "config"):
            module.config = config


def freeze_unused(model: Any) -> None:
    """Freeze the pooler, which gets no gradient: several processes would wait for it."""
    pooler = getattr(model.encoder, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(False)


@torch.no_grad()
def set_bridge(model: EncoderDecoderModel, weight_ab: Tensor, intercept_b: Tensor) -> None:
    """Have the decoder read h W + c where it read its own encoder's states.

    Where widths differ, W and c are `enc_to_dec_proj`. Where they are equal transformers has no such layer; the keys
    and values of every cross-attention are linear in what they read, so W and c go into these: K (h W + c) + k.
    """
    if hasattr(model, "enc_to_dec_proj"):
        model.enc_to_dec_proj.weight.copy_(weight_ab.T)
        model.enc_to_dec_proj.bias.copy_(intercept_b)
        return
    for projection in cross_projections(model).values():
        kernel_bb = projection.weight.double()
        projection.bias.copy_(projection.bias.double() + kernel_bb @ intercept_b)
        projection.weight.copy_(kernel_bb @ weight_ab.T)


def cross_projections(model: nn.Module) -> dict[str, Any]:
    """Return the layers that read the encoder's states, by name: keys and values of the decoder's cross-attention."""
    ends = (".encoder_attn.k_proj", ".encoder_attn.v_proj")
    return {name: module for name, module in model.named_modules() if name.endswith(ends)}


def decoder_states(model: Any, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
    """Return what the output layer reads, [B, T, D], of an mBART or a graft."""
    if not is_graft(model):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
        return model.base_model(**inputs, use_cache=False).last_hidden_state
    states_BSa = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    bridge = getattr(model, "enc_to_dec_proj", nn.Identity())
    return model.decoder.model(
        input_ids=decoder_input_ids, encoder_hidden_states=bridge(states_BSa), encoder_attention_mask=attention_mask,
        use_cache=False,
    ).last_hidden_state  # fmt: skip


def is_graft(model: Any) -> bool:
    """Whether a model is a graft."""
    return isinstance(model, EncoderDecoderModel)


def train_bridge_only(model: Any) -> None:
    """Freeze everything but the bridge and the decoder's cross-attention with its LayerNorms.

    Raises:
        CheckpointError: not a graft.
    """
    if not is_graft(model):
        raise CheckpointError(
            f"trainable: bridge: a {type(model).__name__} has no bridge; what transfer method `encoder` makes has one."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("enc_to_dec_proj") or ".encoder_attn" in name)


def assert_reads(model: Any, lengths: Iterable[int]) -> None:
    """Refuse sources, of so many tokens with their special ones, that a graft's encoder has no positions for.

    Raises:
        DataError: at least one is longer.
    """
    limit = model.config.max_position_embeddings
    too_long = [length for length in lengths if length > limit] if is_graft(model) else []
    if too_long:
        raise DataError(
            f"{len(too_long)} sources are longer than the {limit} tokens that this model's encoder reads (the longest: "
            f"{max(too_long)}). Set max_source_length_tokens: {limit} to have their ends cut off, or use a transfer "
            "method that keeps mBART's own encoder."
        )


def assert_graftable(target: Any) -> None:
    """Raise TransferError for a target whose output bias or output matrix the decoder alone would lose."""
    if is_untied(target):
        raise TransferError(
            "the target's output matrix is a tensor of its own, and the decoder of an EncoderDecoderModel ties it to "
            "what it reads. Transfer into a model that ties them."
        )
    bias = getattr(target, "final_logits_bias", None)
    if bias is not None and bias.any():
        raise TransferError(
            "the target has an output bias (final_logits_bias, set by training with trim_vocabulary), which an "
            "EncoderDecoderModel cannot hold. Transfer into the target as it was before, and train it afterwards."
        )

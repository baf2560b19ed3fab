"""Write the untrained nano models: real architectures at nano size, random weights, ready for `polygraft adapt`.

As in reality the source is post-LN, the target pre-LN with scaled embeddings and relu, and their widths differ.
Positions start as sinusoids (Vaswani et al. 2017): in the two hours that these models are given, learned ones that
start from noise would take most of the time to find out which token is the previous one.

    python examples/nano/create.py --tokenizers outputs/nano/tokenizers --out outputs/nano
    python examples/nano/create.py --real ...      # instead, the target with the real vocabulary
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

MAX_POSITIONS = 256
POSITION_OFFSET = 2  # both families keep two rows before position 0


@torch.no_grad()
def set_sinusoids(weight: Tensor, amplitude: float) -> None:
    """Fill a [positions, width] table with sinusoids of the given amplitude."""
    positions = torch.arange(len(weight) - POSITION_OFFSET).unsqueeze(1)
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(0, weight.shape[1], 2) / weight.shape[1])
    weight[POSITION_OFFSET:, 0::2] = amplitude * torch.sin(positions * frequencies)
    weight[POSITION_OFFSET:, 1::2] = amplitude * torch.cos(positions * frequencies)


def create_source(vocabulary: int) -> XLMRobertaForMaskedLM:
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(
        vocab_size=vocabulary, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=MAX_POSITIONS + POSITION_OFFSET, type_vocab_size=1, layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    set_sinusoids(model.roberta.embeddings.position_embeddings.weight, 0.02)  # the size of an embedding's entries
    return model


def create_target(vocabulary: int, width: int = 160, layers: int = 3) -> MBartForConditionalGeneration:
    model = MBartForConditionalGeneration(MBartConfig(
        vocab_size=vocabulary, d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        max_position_embeddings=MAX_POSITIONS,
        scale_embedding=True, activation_function="relu", dropout=0.0, attention_dropout=0.0,
        decoder_start_token_id=2, forced_eos_token_id=2,
    ))  # fmt: skip
    for stack in (model.model.encoder, model.model.decoder):
        set_sinusoids(stack.embed_positions.weight, 0.02 * math.sqrt(model.config.d_model))
    return model


def create_real_target(vocabulary: int) -> MBartForConditionalGeneration:
    return create_target(vocabulary, width=256, layers=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path, default=Path("outputs/nano/tokenizers"))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    parser.add_argument("--real", action="store_true", help="the target with the real vocabulary, instead of the pair")
    args = parser.parse_args()
    torch.manual_seed(1)
    pair = {"xlmr": create_source, "mbart": create_target}
    for name, create in ({"real": create_real_target} if args.real else pair).items():
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizers / name)
        tokenizer.model_max_length = MAX_POSITIONS
        model = create(len(tokenizer))
        folder = args.out / f"{name}-random"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        print(f"{folder}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()

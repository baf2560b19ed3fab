"""Add languages to an mBART that it has no codes for, each starting from a named relative."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from polygraft.data.languages import to_code
from polygraft.errors import CheckpointError
from polygraft.models import checkpoints
from polygraft.models.tokenizers import add_languages
from polygraft.models.untied import is_untied


def run(relatives: Mapping[str, str], model: str, out_dir: Path) -> dict[str, Any]:
    """Save `model` with a row for each new language code (`da_DK`), a copy of its relative's (`sv_SE`, or `sv`).

    Returns:
        {new code: its id}.

    Raises:
        DataError: a malformed or known code, or an unknown relative.
        CheckpointError: the output matrix is a tensor of its own.
    """
    network: Any = checkpoints.load_seq2seq(model)
    if is_untied(network):
        raise CheckpointError(
            f"{model}: its output matrix is a tensor of its own (transfer with input_only), and languages are added to "
            "a tied one only. Add them before the transfer."
        )
    tokenizer = checkpoints.load_tokenizer(model)
    known = {code: to_code(relative, tokenizer) for code, relative in relatives.items()}
    add_languages(tokenizer, known)
    ids = {code: tokenizer.convert_tokens_to_ids(code) for code in known}
    rows = max(network.config.vocab_size, max(ids.values()) + 1)
    network.resize_token_embeddings(rows, mean_resizing=False)
    matrix = network.get_input_embeddings().weight
    with torch.no_grad():
        for code, relative in known.items():
            row = tokenizer.convert_tokens_to_ids(relative)
            matrix[ids[code]] = matrix[row]
            network.final_logits_bias[:, ids[code]] = network.final_logits_bias[:, row]
    checkpoints.save(network, tokenizer, out_dir)
    return ids

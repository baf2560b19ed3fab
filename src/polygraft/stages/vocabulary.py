"""Other vocabularies for a checkpoint: trimmed to a text, restored, with new languages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from polygraft.data.languages import to_code
from polygraft.data.notices import count_unwritable
from polygraft.data.reading import Rows
from polygraft.errors import CheckpointError
from polygraft.models import checkpoints
from polygraft.models.matrices import is_untied
from polygraft.models.recorded import languages_of, record
from polygraft.models.tokenizers import add_languages
from polygraft.models.trimming import restore, sizes, trim
from polygraft.settings import Trim


def run_trim(settings: Trim, model: str, out_dir: Path) -> dict[str, Any]:
    """Save `model`, either kind, with only the rows that the settings' texts need, into `out_dir`.

    Models with the same pieces (XLM-R and mBART) keep the same ones for the same text.

    Returns:
        {"before", "after"}: see `trimming.sizes`.
    """
    network, tokenizer = checkpoints.load_any(model), checkpoints.load_tokenizer(model)
    rows = Rows(settings.train_file, settings.text_column, settings.text_column)
    before = sizes(network)
    trimmed = trim(network, tokenizer, (row[column] for row in rows for column in settings.text_column))
    for column in settings.text_column:
        count_unwritable(tokenizer, (row[column] for row in rows), rows.name, column)
    checkpoints.save(network, trimmed, out_dir)
    return {"before": before, "after": sizes(network)}


def run_restore(model: str, full: str, out_dir: Path) -> dict[str, Any]:
    """Write what the trimmed `model` has learned into the checkpoint `full` that it was trimmed from; save the result.

    Returns:
        {"before", "after"}: see `trimming.sizes`.
    """
    trimmed = checkpoints.load_any(model)
    tokenizer, full_tokenizer = checkpoints.load_tokenizer(model), checkpoints.load_tokenizer(full)
    restored = restore(trimmed, tokenizer, checkpoints.load_any(full), full_tokenizer)
    learned = languages_of(trimmed.config, trimmed.generation_config, tokenizer)
    if learned.sources:
        record(restored, full_tokenizer, *learned)
    checkpoints.save(restored, full_tokenizer, out_dir, learned.targets or None)
    return {"before": sizes(trimmed), "after": sizes(restored)}


def run_add_languages(relatives: Mapping[str, str], model: str, out_dir: Path) -> dict[str, Any]:
    """Save `model` with a row for each new language code (`da_DK`), a copy of its relative's (`sv_SE`, or `sv`).

    Returns:
        {new code: its id}.

    Raises:
        DataError: a malformed or known code, or an unknown relative.
        CheckpointError: the output matrix is a tensor of its own.
    """
    network: Any = checkpoints.load_seq2seq(model)
    if is_untied(network):
        raise CheckpointError(f"{model}: its output matrix is a tensor of its own; languages are added to a tied one.")
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

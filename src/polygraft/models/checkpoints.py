"""Load and save checkpoints: bundled names, local folders, hub names. Safetensors only, never remote code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from polygraft.errors import CheckpointError
from polygraft.nano import bundled

TARGET_TYPES = ("mbart",)
REMEDY = "Give a folder with config.json, model.safetensors and a tokenizer, a hub name, or a bundled polygraft/… name."


def resolve(name: str) -> str:
    """Return the folder behind a bundled name or a local one; a hub name is returned unchanged.

    Raises:
        CheckpointError: a local folder that holds no checkpoint, or only pickled weights.
    """
    path = bundled(name) or Path(name)
    if not path.exists():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(f"{name}: no such folder. {REMEDY}")
        return name
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{name}: not a checkpoint, there is no config.json in it. {REMEDY}")
    if not list(path.glob("*.safetensors")):
        if list(path.glob("*.bin")):
            raise CheckpointError(
                f"{name}: its weights are pickled (.bin), which can run code when loaded. "
                "Convert them once with transformers, save_pretrained() writes model.safetensors."
            )
        raise CheckpointError(f"{name}: there are no weights (*.safetensors) in it. {REMEDY}")
    return str(path)


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a checkpoint."""
    return _load(AutoTokenizer, name, "tokenizer")


def load_masked_lm(name: str) -> PreTrainedModel:
    """Load a masked language model in fp32 (the source)."""
    return _load_model(AutoModelForMaskedLM, name, "masked language model")


def load_seq2seq(name: str) -> PreTrainedModel:
    """Load an mBART in fp32 (the target)."""
    config = _load(AutoConfig, name, "configuration")
    if config.model_type not in TARGET_TYPES:
        raise CheckpointError(f"{name}: is a '{config.model_type}' model, but the target has to be an mBART.")
    return _load_model(AutoModelForSeq2SeqLM, name, "sequence-to-sequence model")


def _load_model(kind: Any, name: str, what: str) -> PreTrainedModel:
    before = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        model = _load(kind, name, what, dtype=torch.float32, use_safetensors=True)
    finally:
        if before:
            hf_logging.enable_progress_bar()
    return model


def _load(kind: Any, name: str, what: str, **kwargs: Any) -> Any:
    try:
        return kind.from_pretrained(resolve(name), trust_remote_code=False, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        offline = " HF_HUB_OFFLINE is set, so the hub was not asked." if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{name}: cannot load its {what}: {reason}.{offline} {REMEDY}") from error


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write a plain Hugging Face checkpoint: safetensors, configuration, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def max_positions(model: PreTrainedModel) -> int:
    """Return the longest sequence, in tokens, that the model has positions for (XLM-R spends its padding id + 1)."""
    offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    return model.config.max_position_embeddings - offset


def set_output_language(folder: Path, model: PreTrainedModel, tokenizer: Any, language: int | None) -> None:
    """Have plain `generate()` on the saved folder begin with this language's token (None: several, so no default).

    Raises:
        OSError: the folder cannot be written.
    """
    config = model.generation_config
    if type(tokenizer).__name__.startswith("MBartTokenizer"):  # cc25 begins with the language itself
        config.decoder_start_token_id = language
    else:
        config.forced_bos_token_id = language
    config.save_pretrained(folder)

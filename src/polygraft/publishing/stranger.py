"""Load a folder as those will who have nothing but it: by plain transformers or by CTranslate2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from polygraft.errors import CheckpointError
from polygraft.inference.engine import import_ctranslate2, is_exported
from polygraft.models.sound import reading

TEXT = "1"


def load(folder: Path) -> None:
    """Load the model and the tokenizer in a folder, and have them write something.

    Raises:
        CheckpointError: it cannot be done, or weights are missing.
        RecipeError: CTranslate2 is not installed, and the folder is for it.
    """
    with reading("polygraft push: what would be uploaded", "model by itself", "Nothing was sent."):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        (_by_ctranslate2 if is_exported(str(folder)) else _by_transformers)(folder, tokenizer)


def _by_transformers(folder: Path, tokenizer: Any) -> None:
    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"polygraft push: of what would be uploaded {len(missing)} weights are missing, such as {missing[0]}."
        )
    model.eval().generate(**tokenizer(TEXT, return_tensors="pt"), max_new_tokens=2, num_beams=1)


def _by_ctranslate2(folder: Path, tokenizer: Any) -> None:
    ctranslate2 = import_ctranslate2()
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(TEXT).input_ids)
    ctranslate2.Translator(str(folder)).translate_batch([pieces], max_decoding_length=2, beam_size=1)

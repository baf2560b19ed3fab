"""Tokenizers: the right class for a checkpoint, the lost normalizer, new languages, and smaller vocabularies.

A Unigram tokenizer of the XLM-R family is a list of (piece, score) whose places are the ids, and the character map of
its normalization; everything else follows from its class. So a tokenizer is changed by making it anew from these two.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers
from transformers import MBart50Tokenizer, PreTrainedConfig
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as CODES_50
from transformers.utils import cached_file

from polygraft.data.languages import LANGUAGE_CODE, language_codes
from polygraft.data.layout import is_cc25
from polygraft.errors import CheckpointError, DataError

CODES_CC25 = CODES_50[:25]
MBART_CLASSES = ("MBartTokenizer", "MBart50Tokenizer")


def right_tokenizer(loaded: Any, path: str, config: PreTrainedConfig) -> Any:
    """Return the tokenizer that the checkpoint at `path` (folder or hub name) was made with.

    What `AutoTokenizer` loaded is wrong in two cases, both silent. An mBART-50 checkpoint that does not name its
    tokenizer class gets that of cc25, which knows 25 of its 52 languages and has <mask> at another id. And cc25's class
    drops the normalizer, so that ``ﬁ`` or ``２`` become <unk>.

    Raises:
        CheckpointError: not a tokenizer of the mBART family for an mBART, or one with ids beyond the model's rows.
    """
    tokenizer = loaded
    if config.model_type == "mbart":
        if not type(tokenizer).__name__.startswith(MBART_CLASSES):
            raise CheckpointError(
                f"{path}: its tokenizer is a {type(tokenizer).__name__}; an mBART needs one of "
                f"{' and '.join(MBART_CLASSES)}, which say where language codes go."
            )
        missing = config.vocab_size - len(tokenizer)
        if is_cc25(tokenizer) and missing == len(CODES_50) - len(CODES_CC25):
            tokenizer = MBart50Tokenizer.from_pretrained(path)
        if is_cc25(tokenizer) and tokenizer.backend_tokenizer.normalizer is None:
            _set_normalizer(tokenizer, published_character_map(path))
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{path}: its tokenizer has id {largest} ('{tokenizer.convert_ids_to_tokens(largest)}'), but the model "
            f"only {config.vocab_size} rows. Use the tokenizer that the model was trained with."
        )
    return tokenizer


def _set_normalizer(tokenizer: Any, character_map: bytes | None) -> None:
    if character_map:
        steps = [normalizers.Precompiled(character_map), normalizers.Replace(Regex(" {2,}"), " ")]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def published_character_map(path: str) -> bytes | None:
    """Return the normalization map in a checkpoint's tokenizer files, None if there is none.

    It lies in ``tokenizer.json``, also where the class drops it on loading, and in ``sentencepiece.bpe.model``.
    """
    if file := _tokenizer_file(path, "tokenizer.json"):
        return character_map(json.loads(file.read_text(encoding="utf-8")))
    if file := _tokenizer_file(path, "sentencepiece.bpe.model"):
        from sentencepiece import sentencepiece_model_pb2 as proto

        model = proto.ModelProto.FromString(file.read_bytes())  # type: ignore[attr-defined]
        return model.normalizer_spec.precompiled_charsmap
    return None


def _tokenizer_file(path: str, name: str) -> Path | None:
    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def character_map(content: dict[str, Any]) -> bytes | None:
    """Return the normalization map in the content of a tokenizer.json, None if there is none."""
    normalizer = content.get("normalizer") or {}
    steps = [normalizer, *normalizer.get("normalizers", [])]
    return next((base64.b64decode(s["precompiled_charsmap"]) for s in steps if s.get("type") == "Precompiled"), None)


def unigram_content(tokenizer: Any) -> dict[str, Any]:
    """Return what the tokenizer's tokenizer.json holds; its ["model"]["vocab"] is the list of (piece, score).

    Raises:
        CheckpointError: not a Unigram tokenizer.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "Unigram":
        raise CheckpointError(
            f"the vocabulary of a {type(tokenizer).__name__} with a {content['model']['type']} model cannot be "
            "trimmed; only SentencePiece Unigram vocabularies can, those of XLM-R and mBART. Leave trim_vocabulary out."
        )
    return content


def keep_ids(tokenizer: Any, kept: np.ndarray) -> Any:
    """Return a tokenizer of the same class whose id i means what id `kept[i]` meant (int64, ascending).

    Raises:
        CheckpointError: not a Unigram tokenizer.
    """
    content = unigram_content(tokenizer)
    pieces = content["model"]["vocab"]
    new = type(tokenizer)(
        vocab=[(pieces[i][0], pieces[i][1]) for i in kept if i < len(pieces)],
        _spm_precompiled_charsmap=character_map(content),
        model_max_length=tokenizer.model_max_length,
        **{key: getattr(tokenizer, key) for key in ("src_lang", "tgt_lang") if hasattr(tokenizer, key)},
    )
    if is_cc25(new):
        _set_normalizer(new, character_map(content))
    for token in sorted(content["added_tokens"], key=lambda token: token["id"]):
        if token["id"] >= len(pieces):
            new.add_tokens([tokenizer.added_tokens_decoder[token["id"]]], special_tokens=token["special"])
    return new


def add_languages(tokenizer: Any, relatives: dict[str, str]) -> None:
    """Add language codes to an mBART tokenizer, in place; their ids follow those there are.

    Args:
        relatives: new code -> the code of the known language that it is to start from.

    Raises:
        DataError: a code that is malformed or exists, or a relative that does not exist.
    """
    known = language_codes(tokenizer)
    for code, relative in relatives.items():
        if not LANGUAGE_CODE.match(code):
            raise DataError(
                f"new language '{code}': write it like uk_UA, language in small letters, region in capitals."
            )
        if code in known:
            raise DataError(f"new language '{code}': the model has it already; leave it out of the new languages.")
        if relative not in known:
            raise DataError(
                f"new language '{code}': its relative '{relative}' is not among the model's {len(known)} languages: "
                f"{', '.join(known)}."
            )
    tokenizer.add_tokens(list(relatives), special_tokens=True)

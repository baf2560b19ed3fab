"""Tokenizers: the right class for a checkpoint, the lost normalizer, new languages, and smaller vocabularies.

A Unigram tokenizer of the XLM-R family is a list of (piece, score) whose places are the ids, and the character map of
its normalization; everything else follows from its class. So a tokenizer is changed by making it anew from these two.
"""

from __future__ import annotations

import base64
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers
from transformers import MBart50Tokenizer, MBartTokenizer, PreTrainedConfig

from polygraft.data.languages import LANGUAGE_CODE, language_codes
from polygraft.data.layout import is_cc25
from polygraft.errors import CheckpointError, DataError
from polygraft.models.families import CC25, CODES_50, CODES_CC25, FIFTY, family_of, file_of, named_class, stored_ids

MBART_CLASSES: dict[str, Any] = {CC25: MBartTokenizer, FIFTY: MBart50Tokenizer}

logger = logging.getLogger(__name__)


def right_tokenizer(loaded: Any, path: str, config: PreTrainedConfig) -> Any:
    """Return the tokenizer that the checkpoint at `path` (folder or hub name) was made with.

    What `AutoTokenizer` loaded is wrong in two cases, both silent. An mBART-50 checkpoint that does not name its
    tokenizer class, or the wrong one, gets that of cc25, which puts language codes elsewhere. And cc25's class drops
    the normalizer, so that ``ﬁ`` or ``２`` become <unk>.

    Raises:
        CheckpointError: not a tokenizer of the mBART family for an mBART, one whose family cannot be told, one that
            transformers loads with other ids than its file has, or one with ids beyond the model's rows.
    """
    tokenizer = loaded
    if config.model_type == "mbart":
        stored = stored_ids(path)
        kind = _mbart_class(loaded, path, stored, config.vocab_size)
        if type(loaded).__name__ != kind:
            tokenizer = MBART_CLASSES[kind].from_pretrained(path)
        if kind == CC25 and tokenizer.backend_tokenizer.normalizer is None:
            _set_normalizer(tokenizer, published_character_map(path))
    ids = tokenizer.get_vocab()
    if config.model_type == "mbart":
        _assert_ids(ids, stored, path)
    if not isinstance(tokenizer.model_max_length, int | float) or tokenizer.model_max_length < 1:
        wrong = f"model_max_length = {tokenizer.model_max_length!r}"
        raise CheckpointError(
            f"{path}: its tokenizer_config.json has {wrong}, but that is a number of tokens. Mend it."
        )
    largest = max(ids.values())
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{path}: its tokenizer has id {largest} ('{tokenizer.convert_ids_to_tokens(largest)}'), but the model "
            f"only {config.vocab_size} rows. Use the tokenizer that the model was trained with."
        )
    return tokenizer


def _mbart_class(loaded: Any, path: str, stored: dict[str, int], rows: int) -> str:
    """Tell the class by the codes that the files hold, else by the one that they name, else by the model's rows."""
    named, found = named_class(path), family_of(stored)
    if found and named in MBART_CLASSES and named != found:
        logger.warning(
            "%s: names the tokenizer class %s, but holds the codes of %s, which is used.", path, named, found
        )
    if found:
        return found
    if type(loaded).__name__ not in MBART_CLASSES:
        raise CheckpointError(
            f"{path}: its tokenizer is a {type(loaded).__name__}; an mBART needs one of "
            f"{' and '.join(MBART_CLASSES)}, which say where language codes go."
        )
    spare = rows - len(loaded)  # of pieces alone, which both families share
    if not stored and type(loaded).__name__ == CC25 and spare == len(CODES_50) - len(CODES_CC25):
        return FIFTY
    if named in MBART_CLASSES or (not stored and not spare):
        return type(loaded).__name__
    raise CheckpointError(
        f"{path}: its files do not tell whether its tokenizer is of {CC25} (mBART-cc25) or {FIFTY} (mBART-50), which "
        f'put language codes in different places. Name the right one as "tokenizer_class" in its tokenizer_config.json.'
    )


def _assert_ids(ids: dict[str, int], stored: dict[str, int], path: str) -> None:
    moved = [token for token, i in stored.items() if ids.get(token) != i]
    if moved:
        first = moved[0]
        raise CheckpointError(
            f"{path}: transformers loads its tokenizer with other ids than its file has: {len(moved)} tokens, such as "
            f"'{first}' ({ids.get(first)}, not {stored[first]}). Save it anew with the class that it was made with."
        )


def _set_normalizer(tokenizer: Any, character_map: bytes | None) -> None:
    if character_map:
        steps = [normalizers.Precompiled(character_map), normalizers.Replace(Regex(" {2,}"), " ")]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def published_character_map(path: str) -> bytes | None:
    """Return the normalization map in a checkpoint's tokenizer files, None if there is none.

    It lies in ``tokenizer.json``, also where the class drops it on loading, and in ``sentencepiece.bpe.model``.
    """
    if file := file_of(path, "tokenizer.json"):
        return character_map(json.loads(file.read_text(encoding="utf-8")))
    if file := file_of(path, "sentencepiece.bpe.model"):
        from sentencepiece import sentencepiece_model_pb2 as proto

        model = proto.ModelProto.FromString(file.read_bytes())  # type: ignore[attr-defined]
        return model.normalizer_spec.precompiled_charsmap
    return None


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
    """Return a tokenizer like this one whose id i means what id `kept[i]` meant (int64, ascending).

    Made by saving, so that everything stays that a saved tokenizer holds.

    Raises:
        CheckpointError: not a Unigram tokenizer.
    """
    content = unigram_content(tokenizer)
    new_ids = {int(old): new for new, old in enumerate(kept)}
    pieces, added, template = content["model"]["vocab"], content["added_tokens"], content["post_processor"] or {}
    content["model"] |= {
        "vocab": [pieces[i] for i in kept if i < len(pieces)],
        "unk_id": new_ids[tokenizer.unk_token_id],
    }
    content["added_tokens"] = [{**token, "id": new_ids[token["id"]]} for token in added]
    for special in template.get("special_tokens", {}).values():
        special["ids"] = [new_ids[i] for i in special["ids"]]
    with tempfile.TemporaryDirectory() as folder:
        with _loadable(tokenizer):
            tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        new = type(tokenizer).from_pretrained(folder)
    if is_cc25(new):
        _set_normalizer(new, character_map(content))
    new.name_or_path = tokenizer.name_or_path
    if hasattr(tokenizer, "src_lang"):
        new.src_lang = tokenizer.src_lang
    return new


@contextmanager
def _loadable(tokenizer: Any) -> Iterator[None]:
    """Set an mBART tokenizer's source language to one of the class's own: it does not load with one that was added."""
    source = getattr(tokenizer, "src_lang", None)
    if source is None or source in tokenizer.lang_code_to_id:
        yield
        return
    tokenizer.src_lang = "en_XX"
    try:
        yield
    finally:
        tokenizer.src_lang = source


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
                f"new language '{code}': write it like uk_UA or sr_Latn, language in small letters, region in capitals."
            )
        if code in known:
            raise DataError(f"new language '{code}': the model has it already; leave it out of the new languages.")
        if relative not in known:
            raise DataError(
                f"new language '{code}': its relative '{relative}' is not among the model's {len(known)} languages: "
                f"{', '.join(known)}."
            )
    tokenizer.add_tokens(list(relatives), special_tokens=True)

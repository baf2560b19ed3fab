"""Which of the mBART families a checkpoint's tokenizer is of, by what its files hold: cc25 or mBART-50.

Their classes put language codes in different places, and a folder that names no class gets cc25's from transformers.
What tells them apart is not how many tokens there are, since users add codes and trim pieces, but which codes stand
before ``<mask>``: cc25's 25, or the 52 of mBART-50; what a user adds comes behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as CODES_50
from transformers.utils import cached_file

CODES_CC25 = CODES_50[:25]
CC25, FIFTY = "MBartTokenizer", "MBart50Tokenizer"
MASK = "<mask>"


def file_of(path: str, name: str) -> Path | None:
    """Return one of the files of a checkpoint (folder or hub name), None if it has none of that name."""
    silent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(path, name, **silent)
    return Path(found) if found else None


def _content(path: str, name: str) -> dict[str, Any]:
    file = file_of(path, name)
    found = json.loads(file.read_text(encoding="utf-8")) if file else {}
    return found if isinstance(found, dict) else {}


def stored_ids(path: str) -> dict[str, int]:
    """Return the id of every token that a checkpoint's files name.

    That is all of a tokenizer.json; beside a SentencePiece model, whose ids follow from the class, only tokens added.
    """
    content = _content(path, "tokenizer.json")
    if content:
        vocabulary = content["model"].get("vocab", {})
        ids = vocabulary if isinstance(vocabulary, dict) else {piece: i for i, (piece, *_) in enumerate(vocabulary)}
        return {**ids, **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
    added = _content(path, "tokenizer_config.json").get("added_tokens_decoder") or {}
    return {**_content(path, "added_tokens.json"), **{token["content"]: int(i) for i, token in added.items()}}


def family_of(ids: Mapping[str, int]) -> str | None:
    """Return the class of tokenizers that these tokens' ids are of, None if they do not tell."""
    end = ids.get(MASK, -1)
    own = [code for code in CODES_50 if ids.get(code, end) < end]
    return {tuple(CODES_CC25): CC25, tuple(CODES_50): FIFTY}.get(tuple(own))


def named_class(path: str) -> str | None:
    """Return the class of tokenizers that a checkpoint's files name, as transformers 5 calls it."""
    for name in ("tokenizer_config.json", "config.json"):
        if kind := _content(path, name).get("tokenizer_class"):
            return str(kind).removesuffix("Fast")
    return None

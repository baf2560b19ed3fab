"""Language codes: what users write, and what mBART's tokenizers call it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from polygraft.errors import DataError

LANGUAGE_CODE = re.compile(r"^[a-z]{2,3}_[A-Z]{2}$")
# ISO 639-3 codes (as in FLORES: eng_Latn) of mBART's languages whose two-letter code is not simply their beginning.
ISO_639_3 = {
    "afr": "af", "ara": "ar", "arb": "ar", "aze": "az", "azj": "az", "ben": "bn", "ces": "cs", "cze": "cs",
    "dan": "da", "deu": "de", "ger": "de", "eng": "en", "spa": "es", "est": "et", "ekk": "et", "fas": "fa",
    "pes": "fa", "fin": "fi", "fra": "fr", "fre": "fr", "glg": "gl", "guj": "gu", "heb": "he", "hin": "hi",
    "hrv": "hr", "ind": "id", "ita": "it", "jpn": "ja", "kat": "ka", "kaz": "kk", "khm": "km", "kor": "ko",
    "lit": "lt", "lav": "lv", "lvs": "lv", "mkd": "mk", "mal": "ml", "mon": "mn", "khk": "mn", "mar": "mr",
    "mya": "my", "bur": "my", "nep": "ne", "npi": "ne", "nld": "nl", "dut": "nl", "pol": "pl", "pus": "ps",
    "pbt": "ps", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru", "sin": "si", "slv": "sl", "swe": "sv",
    "swa": "sw", "swh": "sw", "tam": "ta", "tel": "te", "tha": "th", "tgl": "tl", "tur": "tr", "ukr": "uk",
    "urd": "ur", "vie": "vi", "xho": "xh", "zho": "zh", "chi": "zh", "slk": "sk", "hun": "hu", "bul": "bg",
}  # fmt: skip


def language_codes(tokenizer: Any) -> list[str]:
    """Return the language codes among a tokenizer's special tokens, in the order of their ids."""
    specials = {*tokenizer.all_special_tokens, *map(str, getattr(tokenizer, "lang_code_to_id", {}))}
    specials |= {str(token) for token in tokenizer.added_tokens_decoder.values()}
    codes = [token for token in specials if LANGUAGE_CODE.match(token)]
    return sorted(codes, key=tokenizer.convert_tokens_to_ids)


def language_prefix(lang: str) -> str:
    """Return the two-letter code (where there is one) of a language given as ``uk``, ``uk_UA`` or ``ukr_Cyrl``."""
    prefix = re.split(r"[_-]", lang.strip())[0].lower()
    return ISO_639_3.get(prefix, prefix)


def to_code(lang: str, tokenizer: Any) -> str:
    """Return the tokenizer's own code of a language given as ``uk``, ``uk_UA``, ``uk-UA`` or ``ukr_Cyrl``.

    Raises:
        DataError: the tokenizer has no such language; the nearest codes are listed.
    """
    return match_code(lang, language_codes(tokenizer))


def match_code(lang: str, codes: Sequence[str]) -> str:
    """Return the one of `codes` that means a language, as `to_code` does."""
    if lang in codes:
        return lang
    prefix = language_prefix(lang)
    matches = [code for code in codes if code.split("_")[0] == prefix]
    if len(matches) == 1:
        return matches[0]
    near = difflib.get_close_matches(prefix, codes, n=4, cutoff=0.2) or codes[:4]
    raise DataError(
        f"language '{lang}' is not one of the target model's {len(codes)} languages. Nearest: {', '.join(near)}. "
        f"All: {', '.join(codes)}."
    )

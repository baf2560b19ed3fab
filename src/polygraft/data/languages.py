"""Language codes: what users write, and what mBART's tokenizers call it.

What a code means is read by `langcodes` (BCP 47, ISO 639-1, -2 and -3, and so the codes of NLLB and FLORES); mBART's
own, whose regions are mere labels (``ar_AR`` is no Argentina), by one table. A language is found by what it is and the
script that it is written in; a region or a variant that the model does not tell apart is said, never dropped silently.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from langcodes import Language, LanguageTagError, standardize_tag, tag_distance

from polygraft.errors import DataError, RecipeError

LANGUAGE_CODE = re.compile(r"^[a-z]{2,3}_([A-Z]{2}|[A-Z][a-z]{3})$")
"""What a tokenizer's code looks like: ``uk_UA``, or as in NLLB ``be_Cyrl``."""
MBART = {
    "ar_AR": "ar-Arab", "cs_CZ": "cs-Latn", "de_DE": "de-Latn", "en_XX": "en-Latn", "es_XX": "es-Latn",
    "et_EE": "et-Latn", "fi_FI": "fi-Latn", "fr_XX": "fr-Latn", "gu_IN": "gu-Gujr", "hi_IN": "hi-Deva",
    "it_IT": "it-Latn", "ja_XX": "ja-Jpan", "kk_KZ": "kk-Cyrl", "ko_KR": "ko-Kore", "lt_LT": "lt-Latn",
    "lv_LV": "lv-Latn", "my_MM": "my-Mymr", "ne_NP": "ne-Deva", "nl_XX": "nl-Latn", "ro_RO": "ro-Latn",
    "ru_RU": "ru-Cyrl", "si_LK": "si-Sinh", "tr_TR": "tr-Latn", "vi_VN": "vi-Latn", "zh_CN": "zh-Hans",
    "af_ZA": "af-Latn", "az_AZ": "az-Latn", "bn_IN": "bn-Beng", "fa_IR": "fa-Arab", "he_IL": "he-Hebr",
    "hr_HR": "hr-Latn", "id_ID": "id-Latn", "ka_GE": "ka-Geor", "km_KH": "km-Khmr", "mk_MK": "mk-Cyrl",
    "ml_IN": "ml-Mlym", "mn_MN": "mn-Cyrl", "mr_IN": "mr-Deva", "pl_PL": "pl-Latn", "ps_AF": "ps-Arab",
    "pt_XX": "pt-Latn", "sv_SE": "sv-Latn", "sw_KE": "sw-Latn", "ta_IN": "ta-Taml", "te_IN": "te-Telu",
    "th_TH": "th-Thai", "tl_XX": "fil-Latn", "uk_UA": "uk-Cyrl", "ur_PK": "ur-Arab", "xh_ZA": "xh-Latn",
    "gl_ES": "gl-Latn", "sl_SI": "sl-Latn",
}  # fmt: skip
"""mBART's 52 codes: the language and the script that it has read; their regions say nothing further."""
MEMBERS = {
    "als": "sq", "ayr": "ay", "gaz": "om", "nb": "no", "pbt": "ps", "pbu": "ps", "plt": "mg", "quy": "qu", "uzn": "uz",
    "ydd": "yi",
}  # fmt: skip
"""Members of macrolanguages that stand for the whole (FLORES has ``pbt_Arab`` for Pashto), and CLDR does not say so."""
RELATIVES = {
    "bg": "mk_MK", "ckb": "fa_IR", "da": "sv_SE", "fo": "sv_SE", "is": "sv_SE", "nn": "sv_SE", "no": "sv_SE",
    "sk": "cs_CZ", "zu": "xh_ZA",
}  # fmt: skip
"""Relatives that CLDR's distances, of languages that people read, do not know."""
NEAR = 80  # CLDR: languages that have nothing to do with each other are 80 or more apart
SCRIPTS = {"Hang": "Kore", "Hrkt": "Jpan"}  # a part for the whole: FLORES writes kor_Hang
NO_REGION = ("", "XX", "AR")  # mBART's labels that are no region of the language
REMEDY = "Name it (lang of texts, source_lang of pairs), or the column that does (lang_column, source_lang_column)."

logger = logging.getLogger(__name__)


class Meaning(NamedTuple):
    """What a code says: a language, the script (given, or the usual one there), and what is narrower than these."""

    language: str
    script: str
    region: str
    variant: str


@cache
def meaning_of(code: str) -> Meaning | None:
    """Return what a code means, None where it is no language code."""
    tag = code.strip().replace("_", "-")
    try:
        given = Language.get(standardize_tag(tag, macro=True))
        given = given.update_dict({"language": MEMBERS.get(given.language or "", given.language)})
        region = "" if given.territory in (None, "XX") else str(given.territory)
        likely = given if region else given.update_dict({"territory": None})
        script = likely.maximize().script or ""
    except (LanguageTagError, ValueError):
        return None
    if not given.language or given.language == "und":
        return None
    variant = "-".join(
        [*(given.variants or ()), *(given.extensions or ()), *([given.private] if given.private else [])]
    )
    return Meaning(given.language, SCRIPTS.get(script, script), region, variant)


def language_codes(tokenizer: Any) -> list[str]:
    """Return the language codes among a tokenizer's special tokens, in the order of their ids."""
    specials = {*tokenizer.all_special_tokens, *map(str, getattr(tokenizer, "lang_code_to_id", {}))}
    specials |= {str(token) for token in tokenizer.added_tokens_decoder.values()}
    vocabulary = tokenizer.get_vocab()
    codes = [token for token in specials if LANGUAGE_CODE.match(token) and token in vocabulary]
    return sorted(codes, key=vocabulary.__getitem__)


def language_prefix(lang: str) -> str:
    """Return the two-letter code (where there is one) of a language given as ``uk``, ``uk_UA`` or ``ukr_Cyrl``."""
    meaning = meaning_of(lang)
    return meaning.language if meaning else re.split(r"[_-]", lang.strip())[0].lower()


def to_code(lang: str | None, tokenizer: Any) -> str:
    """Return the tokenizer's own code of a language given as ``uk``, ``uk_UA``, ``uk-UA`` or ``ukr_Cyrl``.

    Raises:
        RecipeError: no language.
        DataError: the tokenizer has no such language, or not in that script; the nearest codes are listed.
    """
    return match_code(lang, language_codes(tokenizer))


def match_code(lang: str | None, codes: Sequence[str]) -> str:
    """Return the one of `codes` that means a language, as `to_code` does."""
    if lang is None:
        raise RecipeError(f"the language of a text is not given. {REMEDY}")
    wanted = lang.strip().replace("-", "_").casefold()
    if exact := [code for code in codes if code.casefold() == wanted]:
        return exact[0]
    asked = meaning_of(lang)
    alike = [code for code in codes if asked and _read(code).language == asked.language]
    found = [code for code in alike if asked and _read(code).script == asked.script]
    if not asked or not found:
        raise DataError(_refusal(lang, asked, alike, codes))
    if len(found) > 1:
        found = _best(asked.region, found) or found
    if len(found) > 1:
        raise DataError(f"language '{lang}' can be {' or '.join(found)} of the target model. Name one of them.")
    narrower = "-".join(part for part in (asked.region, asked.variant) if part)
    if narrower and (asked.variant or asked.region != _read(found[0]).region):
        _say(f"language '{lang}' is read and written as {found[0]}; the model does not tell {narrower} apart.")
    return found[0]


@cache
def _read(code: str) -> Meaning:
    """What one of a tokenizer's codes means."""
    language, _, label = code.partition("_")
    meaning = meaning_of(MBART.get(code, code)) or Meaning(language, "", "", "")
    return meaning._replace(region="" if label in NO_REGION else label) if code in MBART else meaning


def _best(region: str, codes: Sequence[str]) -> list[str]:
    """Those of several codes of one language and script that are of that region; else mBART's own, or one of none."""
    same = [code for code in codes if region and _read(code).region == region]
    return same or [code for code in codes if code in MBART] or [code for code in codes if not _read(code).region]


def _refusal(lang: str, asked: Meaning | None, alike: Sequence[str], codes: Sequence[str]) -> str:
    said = f"language '{lang}' is not one of the target model's {len(codes)} languages."
    if asked is None:
        said = f"language '{lang}' is no language code (uk, ukr, uk_UA and ukr_Cyrl are)."
    elif alike:
        other = " and ".join(f"{code} in {_read(code).script}" for code in alike)
        said = f"language '{lang}' is written in {asked.script} script, but the target model reads {other}."
    near = _nearest(lang, asked, alike, codes)
    new = f"{asked.language}_{asked.script}" if asked else "da_DK"
    said += f" Nearest: {', '.join(near)}." if near else " None of them is near."
    add = f" Or add it: polygraft add-language --language {new}={near[0]}." if asked and near else ""
    return f"{said}{add} All: {', '.join(codes)}."


def _nearest(lang: str, asked: Meaning | None, alike: Sequence[str], codes: Sequence[str]) -> list[str]:
    if asked is None:
        return difflib.get_close_matches(lang[:2].lower(), codes, n=4, cutoff=0.2)
    relatives = [code for code in codes if code == RELATIVES.get(asked.language)]
    tag = "-".join(part for part in asked[:2] if part)
    far = {code: tag_distance(tag, "-".join(part for part in _read(code)[:2] if part)) for code in codes}
    close = sorted((code for code in codes if far[code] < NEAR), key=far.__getitem__)
    return list(dict.fromkeys([*alike, *relatives, *close]))[:3]


@cache
def _say(message: str) -> None:
    """Say something once."""
    logger.warning(message)

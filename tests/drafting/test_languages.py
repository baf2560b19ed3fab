"""Which language texts are in, and where a new one starts in the target."""

from __future__ import annotations

import pytest

from polygraft.data.languages import MBART, match_code
from polygraft.data.reading import read_rows
from polygraft.drafting.languages import KIN, guess, new_language, same_language
from polygraft.errors import DataError
from polygraft.models.families import CODES_CC25

CODES = list(MBART)


@pytest.mark.parametrize("language", ["uk", "de", "fr", "pl", "ko"])
def test_bundled_texts_are_told(language):
    texts = [row["text"] for row in read_rows(f"polygraft/sample/{language}/test.parquet", ["text"])]
    found = guess(texts)
    assert found.language == language and found.sure


def test_mixed_texts_are_not_sure():
    texts = [
        row["text"]
        for language in ("uk", "de")
        for row in read_rows(f"polygraft/sample/{language}/test.parquet", ["text"])[:100]
    ]
    found = guess(texts)
    assert not found.sure and {found.language, found.other} == {"uk", "de"}
    assert "most of the others like" in str(found)


def test_no_texts_are_no_language():
    assert guess([]).language is None and not guess([]).sure


NEW = {  # code, relative, a word of the reason
    "be": ("be_BY", "uk_UA", "both Slavic, both in Cyrl"), "da": ("da_DK", "sv_SE", "both Germanic"),
    "no": ("no_NO", "sv_SE", "Germanic"), "nb": ("no_NO", "sv_SE", "Germanic"), "bg": ("bg_BG", "mk_MK", "Slavic"),
    "sr": ("sr_RS", "mk_MK", "both in Cyrl"), "sr_Latn": ("sr_Latn", "hr_HR", "both in Latn"),
    "hu": ("hu_HU", "fi_FI", "both Uralic"), "ca": ("ca_ES", "es_XX", "Romance"), "pa": ("pa_IN", "hi_IN", "Indo-"),
    "kn": ("kn_IN", "te_IN", "both Dravidian"), "uz": ("uz_UZ", "tr_TR", "both in Latn"),
    "am": ("am_ET", "ar_AR", "Semitic"), "yi": ("yi_Hebr", "de_DE", "Germanic"),
    "zh-Hant": ("zh_Hant", "zh_CN", "only in Hans script"), "uk-Latn": ("uk_Latn", "uk_UA", "only in Cyrl script"),
    "cy": ("cy_GB", "en_XX", "shares its script"), "el": ("el_GR", "en_XX", "relative of el or shares its script"),
    "hy": ("hy_AM", "en_XX", "none of the target's"), "bel_Cyrl": ("be_BY", "uk_UA", "Slavic"),
}  # fmt: skip


@pytest.mark.parametrize("language", NEW)
def test_new_languages(language):
    code, relative, why = NEW[language]
    found = new_language(language, CODES)
    assert found is not None
    assert (found.code, found.relative) == (code, relative)
    assert why in found.why
    assert match_code(language, [*CODES, code]) == code  # as the recipe has it, it is found


@pytest.mark.parametrize("language", ["uk", "ukr_Cyrl", "pt-BR", "zh"])
def test_languages_of_the_target_need_no_new_code(language):
    assert new_language(language, CODES) is None


def test_what_is_no_language_is_refused():
    with pytest.raises(DataError, match="'klingon' is no language code"):
        new_language("klingon", CODES)


CC25 = {"uk": "ru_RU", "pl": "cs_CZ", "fa": "ar_AR", "pt": "es_XX", "he": "ar_AR", "id": "en_XX", "mr": "hi_IN"}


@pytest.mark.parametrize("language", CC25)
def test_relatives_of_a_target_with_fewer_languages(language):
    found = new_language(language, CODES_CC25)
    assert found is not None and found.relative == CC25[language]


def test_a_code_that_a_user_added_is_a_relative_too():
    found = new_language("no", [*CODES, "da_DK"])
    assert found is not None and found.relative == "da_DK"


def test_kin_are_of_languages_that_some_mbart_lacks_and_are_codes():
    lacking = {code.partition("_")[0] for code in MBART} - {code.partition("_")[0] for code in CODES_CC25}
    alone = {"ka", "km", "mn"}  # of families of which mBART has no other language
    assert lacking - KIN.keys() == alone
    assert not KIN.keys() & {code.partition("_")[0] for code in CODES_CC25}
    assert {code for _, kin in KIN.values() for code in kin.split()} - MBART.keys() == {"da_DK", "lo_LA"}


def test_the_same_language():
    assert same_language("uk", "ukr_Cyrl") and same_language("sr", "sr-Latn") and not same_language("uk", "ru")


def test_short_outputs_are_in_the_inputs_language_where_they_can_be():
    """Names of programs alone look like anything."""
    names = ["Apache Kafka client", "Simple editor", "Emacs mode", "KDE game", "MPEG codec", "Linux kernel modules"] * 5
    alone, english = guess(names), guess(names, "en")
    assert not alone.sure and english.sure and english.language == "en"
    assert guess(names, "uk") == alone  # what is not Ukrainian does not become it

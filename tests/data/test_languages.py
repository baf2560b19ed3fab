"""Which code of mBART's every way of writing a language means, or which is the nearest; one table as specification."""

import logging

import pytest
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.data import languages
from polygraft.data.languages import MBART, language_codes, match_code, to_code
from polygraft.errors import DataError

# ISO 639-1 (with its withdrawn codes), 639-2 of both kinds, 639-3, NLLB's and FLORES-200's.
WRITTEN = {
    "ar_AR": "ar ara arb arb_Arab", "cs_CZ": "cs ces cze ces_Latn", "de_DE": "de deu ger deu_Latn",
    "en_XX": "en eng eng_Latn en-XX EN", "es_XX": "es spa spa_Latn", "et_EE": "et est ekk est_Latn",
    "fi_FI": "fi fin fin_Latn", "fr_XX": "fr fra fre fra_Latn", "gu_IN": "gu guj guj_Gujr", "hi_IN": "hi hin hin_Deva",
    "it_IT": "it ita ita_Latn", "ja_XX": "ja jpn jpn_Jpan", "kk_KZ": "kk kaz kaz_Cyrl", "ko_KR": "ko kor kor_Hang",
    "lt_LT": "lt lit lit_Latn", "lv_LV": "lv lav lvs lvs_Latn", "my_MM": "my mya bur mya_Mymr",
    "ne_NP": "ne nep npi npi_Deva", "nl_XX": "nl nld dut nld_Latn", "ro_RO": "ro ron rum mo ron_Latn",
    "ru_RU": "ru rus rus_Cyrl", "si_LK": "si sin sin_Sinh", "tr_TR": "tr tur tur_Latn", "vi_VN": "vi vie vie_Latn",
    "zh_CN": "zh zho chi cmn zho_Hans zh-Hans zh-Hans-CN zh-CN", "af_ZA": "af afr afr_Latn",
    "az_AZ": "az aze azj azj_Latn", "bn_IN": "bn ben ben_Beng", "fa_IR": "fa fas per pes pes_Arab",
    "he_IL": "he heb iw heb_Hebr", "hr_HR": "hr hrv hrv_Latn", "id_ID": "id ind in ind_Latn",
    "ka_GE": "ka kat geo kat_Geor",
    "km_KH": "km khm khm_Khmr", "mk_MK": "mk mkd mac mkd_Cyrl", "ml_IN": "ml mal mal_Mlym",
    "mn_MN": "mn mon khk khk_Cyrl", "mr_IN": "mr mar mar_Deva", "pl_PL": "pl pol pol_Latn",
    "ps_AF": "ps pus pbt pbu pbt_Arab", "pt_XX": "pt por por_Latn", "sv_SE": "sv swe swe_Latn",
    "sw_KE": "sw swa swh swh_Latn", "ta_IN": "ta tam tam_Taml", "te_IN": "te tel tel_Telu", "th_TH": "th tha tha_Thai",
    "tl_XX": "tl tgl fil tgl_Latn", "uk_UA": "uk ukr ukr_Cyrl uk-UA UK_ua", "ur_PK": "ur urd urd_Arab",
    "xh_ZA": "xh xho xho_Latn", "gl_ES": "gl glg glg_Latn", "sl_SI": "sl slv slv_Latn",
}  # fmt: skip
# What mBART does not tell apart: taken, and said.
NARROWER = {
    "pt-BR": ("pt_XX", "BR"), "en_GB": ("en_XX", "GB"), "de-AT": ("de_DE", "AT"), "zh-SG": ("zh_CN", "SG"),
    "es-419": ("es_XX", "419"), "de-1996": ("de_DE", "1996"), "swc": ("sw_KE", "CD"), "prs_Arab": ("fa_IR", "AF"),
    "ar-EG": ("ar_AR", "EG"), "en-x-old": ("en_XX", "x-old"), "ro-MD": ("ro_RO", "MD"),
}  # fmt: skip
# Another script than mBART has read, or another language: refused, with the nearest code.
REFUSED = {
    "zh-Hant": "zh_CN", "zho_Hant": "zh_CN", "zh-TW": "zh_CN", "zh_HK": "zh_CN", "yue": "zh_CN", "yue_Hant": "zh_CN",
    "uk-Latn": "uk_UA", "hi-Latn": "hi_IN", "ja-Latn": "ja_XX", "kk-Arab": "kk_KZ", "az-Cyrl": "az_AZ",
    "mn-Mong": "mn_MN", "azb_Arab": "az_AZ", "ary_Arab": "ar_AR", "sr": "hr_HR", "sr-Latn": "hr_HR", "sh": "hr_HR",
    "bos_Latn": "hr_HR", "no": "sv_SE", "nb": "sv_SE", "nn": "sv_SE", "nob_Latn": "sv_SE", "da": "sv_SE",
    "bg": "mk_MK", "sk": "cs_CZ", "zul_Latn": "xh_ZA", "zsm_Latn": "id_ID", "ca": "es_XX",
}  # fmt: skip


def test_the_table_has_mbarts_codes():
    assert list(MBART) == FAIRSEQ_LANGUAGE_CODES
    assert {code.split("_")[0] for code in MBART} == {tag.split("-")[0].replace("fil", "tl") for tag in MBART.values()}


@pytest.mark.parametrize("code", FAIRSEQ_LANGUAGE_CODES)
def test_written(code, caplog):
    assert {match_code(name, FAIRSEQ_LANGUAGE_CODES) for name in [code, *WRITTEN[code].split()]} == {code}
    assert not caplog.text


@pytest.mark.parametrize("name", NARROWER)
def test_what_is_generalised_is_said_once(name, caplog):
    languages._say.cache_clear()
    code, lost = NARROWER[name]
    with caplog.at_level(logging.WARNING):
        assert match_code(name, FAIRSEQ_LANGUAGE_CODES) == match_code(name, FAIRSEQ_LANGUAGE_CODES) == code
    assert [record.message for record in caplog.records] == [
        f"language '{name}' is read and written as {code}; the model does not tell {lost} apart."
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_nearest(name):
    with pytest.raises(
        DataError, match=rf"'{name}'.* Nearest: {REFUSED[name]}\b.* --language \w+={REFUSED[name]}\. All: "
    ):
        match_code(name, FAIRSEQ_LANGUAGE_CODES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zh-Hant", "is written in Hant script, but the target model reads zh_CN in Hans"),
        ("el", "is not one of the target model's 52 languages. None of them is near."),
        ("English", "is no language code"), ("", "is no language code"), ("und", "is no language code"),
        ("en_US.UTF-8", "is no language code"),
    ],
)  # fmt: skip
def test_reasons(name, reason):
    with pytest.raises(DataError, match=reason):
        match_code(name, FAIRSEQ_LANGUAGE_CODES)


@pytest.mark.parametrize(
    ("name", "codes", "code"),
    [
        ("be", "be_BY", "be_BY"), ("bel_Cyrl", "be_BY", "be_BY"), ("be-BY", "be_Cyrl", "be_Cyrl"),
        ("sr", "sr_Latn sr_Cyrl", "sr_Cyrl"), ("srp_Latn", "sr_Latn sr_RS", "sr_Latn"),
        ("sr", "sr_Latn sr_RS", "sr_RS"),
        ("nb", "no_NO", "no_NO"), ("no", "nb_NO", "nb_NO"), ("nn", "nb_NO nn_NO", "nn_NO"),
        ("zh-Hant", "zh_CN zh_TW", "zh_TW"), ("zh-HK", "zh_CN zh_Hant", "zh_Hant"), ("uzn_Latn", "uz_UZ", "uz_UZ"),
        ("pt-BR", "pt_XX pt_BR", "pt_BR"), ("pt", "pt_XX pt_BR", "pt_XX"), ("xx", "xx_XX", "xx_XX"),
        ("sr", "sr_Latn", DataError), ("be-Latn", "be_BY", DataError), ("pt", "pt_PT pt_BR", DataError),
        ("nn", "nb_NO", DataError),
    ],
)  # fmt: skip
def test_added_codes(name, codes, code):
    if code is DataError:
        with pytest.raises(DataError):
            match_code(name, codes.split())
    else:
        assert match_code(name, codes.split()) == code


def test_codes_of_a_tokenizer(mbart_tokenizer):
    assert language_codes(mbart_tokenizer) == [*FAIRSEQ_LANGUAGE_CODES, "da_DK"]
    assert to_code("dan_Latn", mbart_tokenizer) == "da_DK"

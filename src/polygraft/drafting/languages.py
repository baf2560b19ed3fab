"""Which language texts are in, and what the target makes of it: a code of its own, or one to be added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from langcodes import Language

from polygraft.checks.language import SAMPLE_CHARACTERS, Sample
from polygraft.data.identification import identify, other_languages
from polygraft.data.languages import Meaning, match_code, meaning_of
from polygraft.data.reading import filled_rows
from polygraft.data.sources import Names
from polygraft.errors import DataError

SURE = 0.75  # share of texts that look like one language: with less of them, the user has to say which

GERMANIC, ROMANCE, SLAVIC, TURKIC = "Germanic", "Romance", "Slavic", "Turkic"
INDIC, IRANIAN, DRAVIDIAN, URALIC = "Indo-Aryan", "Iranian", "Dravidian", "Uralic"
AUSTRONESIAN, SEMITIC, BANTU, TAI = "Austronesian", "Semitic", "Bantu", "Tai"
KIN = {
    "af": (GERMANIC, "nl_XX de_DE"), "am": (SEMITIC, "ar_AR he_IL"), "as": (INDIC, "bn_IN hi_IN"),
    "ast": (ROMANCE, "es_XX gl_ES"), "az": (TURKIC, "tr_TR kk_KZ"), "be": (SLAVIC, "uk_UA ru_RU"),
    "bg": (SLAVIC, "mk_MK ru_RU"), "bho": (INDIC, "hi_IN ne_NP"), "bn": (INDIC, "hi_IN ne_NP"),
    "bs": (SLAVIC, "hr_HR sl_SI cs_CZ"), "ca": (ROMANCE, "es_XX fr_XX"), "ckb": (IRANIAN, "fa_IR ps_AF"),
    "crh": (TURKIC, "tr_TR az_AZ"), "cv": (TURKIC, "kk_KZ tr_TR"), "da": (GERMANIC, "sv_SE de_DE"),
    "fa": (IRANIAN, "ps_AF"), "fo": (GERMANIC, "da_DK sv_SE de_DE"), "fy": (GERMANIC, "nl_XX de_DE"),
    "gl": (ROMANCE, "pt_XX es_XX"), "gom": (INDIC, "mr_IN hi_IN"), "he": (SEMITIC, "ar_AR"),
    "hr": (SLAVIC, "sl_SI cs_CZ"), "hsb": (SLAVIC, "pl_PL cs_CZ"), "hu": (URALIC, "fi_FI et_EE"),
    "id": (AUSTRONESIAN, "tl_XX"), "is": (GERMANIC, "da_DK sv_SE de_DE"), "jv": (AUSTRONESIAN, "id_ID tl_XX"),
    "kn": (DRAVIDIAN, "te_IN ta_IN"), "ku": (IRANIAN, "fa_IR ps_AF"), "ky": (TURKIC, "kk_KZ tr_TR"),
    "la": (ROMANCE, "it_IT es_XX"), "lb": (GERMANIC, "de_DE nl_XX"), "lo": (TAI, "th_TH"),
    "mg": (AUSTRONESIAN, "id_ID tl_XX"), "mi": (AUSTRONESIAN, "id_ID tl_XX"), "mk": (SLAVIC, "ru_RU cs_CZ"),
    "ml": (DRAVIDIAN, "ta_IN te_IN"), "mr": (INDIC, "hi_IN gu_IN"), "ms": (AUSTRONESIAN, "id_ID tl_XX"),
    "mt": (SEMITIC, "ar_AR he_IL"), "nds": (GERMANIC, "de_DE nl_XX"), "nn": (GERMANIC, "da_DK sv_SE de_DE"),
    "no": (GERMANIC, "da_DK sv_SE de_DE"), "nso": (BANTU, "xh_ZA sw_KE"), "oc": (ROMANCE, "fr_XX es_XX"),
    "or": (INDIC, "bn_IN hi_IN"), "os": (IRANIAN, "fa_IR ps_AF"), "pa": (INDIC, "hi_IN gu_IN"),
    "pl": (SLAVIC, "cs_CZ ru_RU"), "ps": (IRANIAN, "fa_IR"), "pt": (ROMANCE, "es_XX it_IT"),
    "rw": (BANTU, "sw_KE xh_ZA"), "sa": (INDIC, "hi_IN mr_IN"), "sc": (ROMANCE, "it_IT es_XX"),
    "scn": (ROMANCE, "it_IT es_XX"), "sd": (INDIC, "ur_PK gu_IN hi_IN"), "sk": (SLAVIC, "cs_CZ pl_PL"),
    "sl": (SLAVIC, "hr_HR cs_CZ"), "sn": (BANTU, "xh_ZA sw_KE"), "sr": (SLAVIC, "mk_MK hr_HR ru_RU"),
    "st": (BANTU, "xh_ZA sw_KE"), "su": (AUSTRONESIAN, "id_ID tl_XX"), "sv": (GERMANIC, "da_DK de_DE en_XX"),
    "sw": (BANTU, "xh_ZA"), "szl": (SLAVIC, "pl_PL cs_CZ"), "ta": (DRAVIDIAN, "ml_IN te_IN"),
    "te": (DRAVIDIAN, "ta_IN ml_IN"), "tg": (IRANIAN, "fa_IR ps_AF"), "th": (TAI, "lo_LA"),
    "ti": (SEMITIC, "ar_AR he_IL"), "tk": (TURKIC, "tr_TR az_AZ"), "tl": (AUSTRONESIAN, "id_ID"),
    "tn": (BANTU, "xh_ZA sw_KE"), "tt": (TURKIC, "kk_KZ tr_TR"), "ug": (TURKIC, "kk_KZ tr_TR"),
    "uk": (SLAVIC, "ru_RU"), "ur": (INDIC, "hi_IN ne_NP"), "uz": (TURKIC, "tr_TR kk_KZ"), "xh": (BANTU, "sw_KE"),
    "yi": (GERMANIC, "de_DE nl_XX"), "zu": (BANTU, "xh_ZA sw_KE"),
}  # fmt: skip
"""Languages that an mBART may have no code for: their family, and codes of that family, the nearest first."""
LAST_RESORT = "en_XX"


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What texts look like: `share` of them are in `language`, most of the others in `other`; None where nothing is."""

    language: str | None
    share: float
    other: str | None
    texts: int

    @property
    def sure(self) -> bool:
        return self.language is not None and self.share >= SURE

    def __str__(self) -> str:
        if self.language is None:
            return "no language that is told from its texts"
        mixed = "" if self.other is None else f", most of the others like '{self.other}'"
        return f"{self.share:.0%} of {self.texts} texts look like '{self.language}'{mixed}"


@dataclass(frozen=True, kw_only=True)
class NewLanguage:
    """A language that the target has no code for: a code to add, the known one to start from, and why that one."""

    code: str
    relative: str
    why: str


def samples(names: Names, columns: Sequence[str]) -> list[list[str]]:
    """Return a sample of each column's texts, spread over the files.

    Raises:
        DataError: files that cannot be read, or no row in which all columns are filled.
    """
    kept = [Sample() for _ in columns]
    for row in filled_rows(names, columns, columns):
        for column, sample in zip(columns, kept, strict=True):
            sample.add(" ".join(row[column].split())[: SAMPLE_CHARACTERS[1]])
    return [sample.texts for sample in kept]


def guess(texts: Sequence[str], like: str | None = None) -> Guess:
    """Return the language that most texts look like; short ones count only where there are no others.

    Where that is not sure, but the texts can as well be in the language `like`, it is that: short outputs of inputs in
    that language.
    """
    long = [text for text in texts if len(text) >= SAMPLE_CHARACTERS[0]] or list(texts)
    found = Counter(filter(None, identify(long)))
    first, second = [*found.most_common(2), (None, 0), (None, 0)][:2]
    seen = Guess(language=first[0], share=first[1] / max(1, len(long)), other=second[0], texts=len(long))
    if like and long and not seen.sure:
        alike = Guess(
            language=like, share=other_languages(long, like).count(None) / len(long), other=None, texts=len(long)
        )
        return alike if alike.sure else seen
    return seen


def same_language(one: str, other: str) -> bool:
    """Whether two codes mean one language, in whichever script or region."""
    first, second = meaning_of(one), meaning_of(other)
    return first is not None and second is not None and first.language == second.language


def new_language(lang: str, codes: Sequence[str]) -> NewLanguage | None:
    """Return how a language can be added to a target with these codes; None where it has one for it.

    Raises:
        DataError: no language code.
    """
    asked = meaning_of(lang)
    if asked is None:
        raise DataError(f"language '{lang}' is no language code (uk, ukr, uk_UA and ukr_Cyrl are).")
    try:
        match_code(lang, codes)
        return None
    except DataError:
        relative, why = _relative(asked, codes)
        return NewLanguage(code=_new_code(asked), relative=relative, why=why)


def _new_code(asked: Meaning) -> str:
    """A code as mBART's look: be_BY, and where the script is not the usual one, sr_Latn."""
    usual = Language.get(asked.language).maximize()
    region = asked.region or usual.territory or ""
    plain = usual.script in (asked.script, None) and len(region) == 2
    return f"{asked.language}_{region if plain else asked.script}"


def _relative(asked: Meaning, codes: Sequence[str]) -> tuple[str, str]:
    """The known language whose row a new one starts from: of its family, if it can be in its script; and why."""

    def script_of(code: str) -> str:
        meaning = meaning_of(code)
        return meaning.script if meaning else ""

    name = asked.language
    alike = [code for code in codes if (known := meaning_of(code)) and known.language == name]
    if alike:
        return alike[0], f"the target has {name} only in {script_of(alike[0])} script"
    family, kin = KIN.get(name, ("", ""))
    near = [code for code in kin.split() if code in codes]
    if near:
        best = next((code for code in near if script_of(code) == asked.script), near[0])
        both = f"both {family}" + (f", both in {asked.script} script" if script_of(best) == asked.script else "")
        return best, f"of the target's languages the nearest to {name}: {both}"
    written = [code for code in codes if script_of(code) == asked.script]
    shared = next((code for code in (LAST_RESORT, *written) if code in written), None)
    if shared:
        return shared, f"none of the target's languages is a relative of {name}; this one shares its script"
    best = LAST_RESORT if LAST_RESORT in codes else codes[0]
    return best, f"none of the target's languages is a relative of {name} or shares its script"

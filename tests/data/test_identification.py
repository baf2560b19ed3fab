"""Languages of texts: what is plain to people, and what bundled summaries, written by people, come to."""

from __future__ import annotations

import pytest

from polygraft.data.identification import XLMR, identify, known, model_code, other_languages, other_scripts, ranked
from polygraft.data.languages import MBART
from polygraft.data.reading import read_rows

TEXTS = {
    "de": "Werkzeug zum Umwandeln von Bildern in andere Formate",
    "fr": "outil pour convertir des images vers d'autres formats",
    "ko": "이미지를 다른 형식으로 변환하는 도구",
    "pl": "narzędzie do konwersji obrazów na inne formaty",
    "uk": "засіб перетворення зображень на інші формати",
    "da": "værktøj til at konvertere billeder til andre formater",
    "": "2048 (1.0) …",
}


def test_what_is_plain():
    assert identify(list(TEXTS.values())) == list(TEXTS)
    others = other_languages(list(TEXTS.values()), "da_DK")
    assert others == [None if lang in ("da", "") else lang for lang in TEXTS]


def test_probabilities_are_those_of_the_languages_that_are_asked_for():
    for lang, text in TEXTS.items():
        guesses = dict(ranked(text, "la"))
        assert set(guesses) <= XLMR | {"la"}
        assert (len(guesses) > 20) == bool(lang)
        assert not lang or sum(guesses.values()) == pytest.approx(1, abs=1e-6)  # measured: 5e-8
    assert ranked("a\n b") == ranked("a b")


def test_codes():
    """All of mBART's languages are known, by whatever code; what is not known can only be told by its letters."""
    assert {model_code(code) for code in MBART} <= known()
    assert known() >= XLMR
    assert [model_code(code) for code in ("ukr_Cyrl", "nb_NO", "tl_XX", "nrm", "xx")] == ["uk", "no", "tl", None, None]
    with pytest.raises(ValueError, match="'nrm' cannot be identified"):
        other_languages(["a"], "nrm")
    assert other_scripts(["abc де", "абв", "12"], "mnw") == ["LATIN", "CYRILLIC", None]
    assert other_scripts(["ひらがな", "漢字", "カタカナ", "한글"], "ja") == [None, None, None, "HANGUL"]
    assert other_scripts(["abc"], "xx") is None


@pytest.mark.parametrize(("lang", "least"), [("de", 0.93), ("fr", 0.97), ("ko", 0.97), ("pl", 0.96), ("uk", 0.99)])
def test_summaries_that_people_wrote(lang, least):
    """Accepted: de 94.7%, fr 98.6, ko 98.9, pl 97.0, uk 100; none of another's, but for a Slavic handful."""
    rows = read_rows(f"polygraft/sample/{lang}/train.parquet", ["text", "summary"])
    summaries = [row["summary"] for row in rows]
    assert other_languages(summaries, lang).count(None) >= least * len(rows)
    for other in {"de", "fr", "ko", "pl", "uk"} - {lang}:
        assert other_languages(summaries, other).count(None) <= 0.02 * len(rows)  # measured: at most 1.4%
    assert identify([row["text"] for row in rows[:50]]).count(lang) >= 49

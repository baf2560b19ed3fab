"""`polygraft score` and `compare` beside sacreBLEU's command, scipy, and the verdict of a run of polygraft's own."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from scipy import stats

import polygraft
from polygraft.comparing import compare, page, score
from polygraft.data.reading import read_rows
from polygraft.errors import DataError, RecipeError
from polygraft.scoring import verdict
from polygraft.scoring.metrics import METRICS
from polygraft.settings import OutputScoring, Verdict

ROWS = [
    {"id": row["id"], "reference": row["summary"], "source": row["text"], "lang": lang}
    for lang in ("uk", "pl")
    for row in read_rows(f"polygraft/sample/{lang}/test.parquet", ["text", "summary"])[:40]
]


def worse(text: str, source: str, share: float, seed: int) -> str:
    """A text some of whose words are replaced by others of the source."""
    rng = np.random.default_rng([seed, len(text), sum(map(ord, text))])
    return " ".join(rng.choice(source.split()) if rng.random() < share else word for word in text.split())


def system(share: float, seed: int) -> list[dict]:
    return [{**row, "prediction": worse(row["reference"], row["source"], share, seed)} for row in ROWS]


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def good(tmp_path) -> list[str]:
    """Three seeds of a system."""
    return [write(tmp_path / "good" / f"{seed}.jsonl", system(0.3, seed)) for seed in (1, 2, 3)]


@pytest.fixture
def bad(tmp_path) -> list[str]:
    return [write(tmp_path / "bad" / f"{seed}.jsonl", system(0.6, seed)) for seed in (4, 5, 6)]


def test_scores_are_those_of_sacrebleus_command(good, tmp_path):
    """chrF++ and BLEU to nine decimals; the signatures but for the bootstrap, which the command does not do here."""
    for column, file in (("prediction", tmp_path / "outputs"), ("reference", tmp_path / "references")):
        file.write_text("".join(row[column] + "\n" for row in system(0.3, 1)), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "references"), "-i", str(tmp_path / "outputs")]
    command += ["-m", "bleu", "chrf", "--chrf-word-order", "2", "-w", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = score(good[:1])
    for name, theirs in zip(("bleu", "chrf++"), json.loads(done.stdout), strict=True):
        assert f"{found.scores[name].score:.9f}" == f"{theirs['score']:.9f}"
        assert found.signatures[name].replace("|bs:1000|seed:12345", "") == theirs["signature"]


@pytest.mark.parametrize(
    ("one", "other"), [((0.3, 1), (0.6, 4)), ((0.45, 1), (0.5, 2)), ((0.5, 1), (0.5, 2))], ids=["clear", "near", "none"]
)
def test_the_paired_bootstrap_is_sacrebleus_own(tmp_path, one, other):
    """To the last digit: what `sacrebleu --paired-bs` prints four decimals of."""
    files = [write(tmp_path / f"{name}.jsonl", system(*it)) for name, it in (("a", one), ("b", other))]
    found = compare(files[:1], files[1:])
    systems = [(name, [row["prediction"] for row in system(*it)]) for name, it in (("b", other), ("a", one))]
    references = [[row["reference"] for row in ROWS]]
    theirs = PairedTest(systems, {"bleu": BLEU(), "chrf++": CHRF(word_order=2)}, references, test_type="bs")()[1]
    rows = {row.name: row for row in (found.primary, *found.secondary)}
    for name, results in zip(("bleu", "chrf++"), list(theirs.values())[1:], strict=True):
        assert rows[name].p_paired_bootstrap == results[1].p_value
    assert found.word == "not enough evidence" and "with 1 seed per arm" in found.sentence


def test_several_seeds_have_welchs_part_and_the_documents(good, bad):
    """Where all documents differ alike, only seeds vary: Welch's t-test of scipy on the seeds' means."""
    for files in (good, bad):
        for place, file in enumerate(files):
            rows = list(map(json.loads, Path(file).read_text(encoding="utf-8").splitlines()))
            shift = (files is good) * 0.2 + 0.01 * place**2
            write(Path(file), [{**row, "judge": number / 10 + shift} for number, row in enumerate(rows)])
    found = compare(good, bad, OutputScoring(score_column=["judge"]), metric="judge")
    assert found.word == "helped"
    points = [one.scores["judge"].by_file for one in (found.treatment, found.control)]
    theirs = stats.ttest_ind(*points, equal_var=False)
    ends = theirs.confidence_interval(0.95)
    shown = found.primary.found
    assert (shown.low, shown.high) == pytest.approx((ends.low, ends.high), rel=1e-6)  # measured 1e-13
    assert shown.p_value == pytest.approx(theirs.pvalue, rel=1e-6)


def test_one_seed_each_is_a_paired_t_test_of_documents(good, bad):
    found = compare(good[:1], bad[:1], metric="ROUGE-L")
    values = [METRICS["rougeL"].statistics(rows)[:, 0] for rows in map(documents, (good[0], bad[0]))]
    theirs = stats.ttest_rel(*values)
    ends = theirs.confidence_interval(0.95)
    assert found.primary.name == "rougeL"
    assert (found.primary.found.low, found.primary.found.high) == pytest.approx((ends.low, ends.high))
    assert found.primary.found.p_value == pytest.approx(theirs.pvalue)
    assert found.primary.said == "on these documents: helped"


def documents(file: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(**json.loads(line)) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def test_secondary_scores_are_adjusted_together(good, bad):
    """Each interval ends at 0 where Holm's adjusted p-value is 0.05; neutral scores are left alone."""
    found = compare(good, bad, metric="bleu")
    p_values = {row.name: row.found.p_value for row in found.secondary if not row.neutral}
    adjusted, largest = {}, 0.0
    for open_ones, name in zip(range(len(p_values), 0, -1), sorted(p_values, key=p_values.__getitem__), strict=True):
        largest = max(largest, min(1.0, open_ones * p_values[name]))
        adjusted[name] = largest
    for row in found.secondary:
        if row.neutral:
            assert (row.found.confidence, row.said) == (0.95, "")
        else:
            assert (row.found.word == "not enough evidence") == (adjusted[row.name] >= 0.05)
    assert found.primary.found.confidence == 0.95


def test_a_run_of_polygrafts_own_says_what_its_verdict_says(tmp_path):
    """predictions.jsonl as they are, with their losses."""
    arms = {"good": 0.3, "bad": 0.6}
    for arm, share in arms.items():
        for seed in (1, 2, 3):
            rows = [
                {
                    **row,
                    "lead": row["source"][:20],
                    "loss_nats": 3 * share + seed / 9 + place / 50,
                    "reference_tokens": 4,
                }
                for place, row in enumerate(system(share, seed))
            ]
            write(tmp_path / arm / f"seed-{seed}" / "evaluate" / "predictions.jsonl", rows)
    costs = {arm: {"seconds": 1.0, "flops": 1.0, "tokens": 1.0} for arm in arms}
    settings = Verdict(treatment="good", control="bad", margin=0.01)
    theirs = verdict.judge(tmp_path, settings, list(arms), (1, 2, 3), costs)
    files = [sorted(map(str, (tmp_path / arm).glob("*/evaluate/*.jsonl"))) for arm in arms]
    found = compare(*files, metric="loss_per_token", margin=0.01)
    assert (found.treatment.system, found.control.system) == ("good", "bad")
    shown = found.to_json()["primary"]
    for field in ("word", "effect", "low", "high", "p_value", "documents", "seeds_per_arm", "margin"):
        assert shown[field] == theirs[field], field
    chrf = compare(*files).primary.found
    (expected,) = [one for one in theirs["comparisons"] if one["metric"] == "chrF++"]
    assert (chrf.effect, chrf.standard_error) == (expected["effect"], expected["standard_error"])


WAYS = {
    "rows in another order": lambda rows: rows[::-1],
    "without ids": lambda rows: [{k: v for k, v in row.items() if k != "id"} for row in rows],
    "numbers as ids": lambda rows: [{**row, "id": int(str(i) + "7")} for i, row in enumerate(rows)],
}


@pytest.mark.parametrize("way", WAYS)
def test_documents_are_matched(good, bad, tmp_path, way):
    expected = compare(good[:1], bad[:1]).primary.found.effect
    files = [write(tmp_path / f"{n}.jsonl", WAYS[way](system(*it))) for n, it in (("a", (0.3, 1)), ("b", (0.6, 4)))]
    if way == "rows in another order":
        files[0] = good[0]
    found = compare(files[:1], files[1:])
    assert found.primary.found.effect == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ending", ["txt", "csv", "parquet", "tsv.gz"])
def test_files_of_every_format_with_references_beside(good, tmp_path, ending):
    rows = [{"prediction": row["prediction"], "reference": row["reference"]} for row in system(0.3, 1)]
    for column in ("prediction", "reference"):
        one = pa.table({column: [row[column] for row in rows]})
        path = tmp_path / f"{column}.{ending}"
        if ending == "parquet":
            pq.write_table(one, path)
        else:
            head = [] if ending == "txt" else [column]
            cells = [row[column] if ending == "txt" else '"' + row[column].replace('"', '""') + '"' for row in rows]
            content = "".join(cell + "\n" for cell in [*head, *cells]).encode()
            path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    found = score(
        [str(tmp_path / f"prediction.{ending}")], OutputScoring(references=str(tmp_path / f"reference.{ending}"))
    )
    expected = score(good[:1])
    assert found.scores["chrf++"].score == pytest.approx(expected.scores["chrf++"].score, abs=1e-12)
    assert set(expected.scores) - set(found.scores) == {"copy_rate", "wrong_language"}


def test_columns_of_other_toolkits(good, tmp_path):
    """Nested names, a language for all rows, a judge's numbers, lower being better; of references what is beside."""
    rows = [
        {
            "out": {"text": row["prediction"]},
            "gold": row["reference"],
            "key": row["id"],
            "doc": row["source"],
            "errors": 9,
        }
        for row in system(0.3, 1)
    ]
    file = write(tmp_path / "theirs.jsonl", rows)
    columns = {"prediction_column": "out.text", "reference_column": "gold", "id_column": "key", "source_column": "doc"}
    scores = {"score_column": ["errors"], "lower_is_better": ["errors"], "tokenize": "char"}
    found = polygraft.score(file, settings={**columns, **scores, "lang": "uk"})
    expected = score(good[:1])
    assert found.scores["copy_rate"] == expected.scores["copy_rate"]
    assert found.scores["errors"].score == 9
    assert 30 < found.scores["wrong_language"].score < 60  # half of it is Polish
    assert found.scores["wrong_language"].reference == pytest.approx(50, abs=2)
    assert "tok:char" in found.signatures["bleu"]


def changed(rows: list[dict], place: int, **news) -> list[dict]:
    return [{**row, **news} if number == place else row for number, row in enumerate(rows)]


MISTAKES = {
    "unequal sets": (lambda rows: rows[:-1], "lacks the document '"),
    "another document": (lambda rows: changed(rows, 3, id="new"), "lacks the document '"),
    "an extra one": (lambda rows: [*rows, {**rows[0], "id": "new"}], "line 81: the document 'new' is not in"),
    "an id twice": (lambda rows: changed(rows, 3, id=rows[1]["id"]), "line 4: has the id 'uk-"),
    "an id missing": (lambda rows: changed(rows, 3, id=None), "line 4: has no id, but other rows"),
    "other references": (lambda rows: changed(rows, 3, reference="x"), "line 4: its reference is 'x', but '"),
    "other languages": (lambda rows: changed(rows, 3, lang="de"), "line 4: its lang is 'de', but 'uk'"),
    "no ids here": (WAYS["without ids"], "1.jsonl: has no ids, but "),
    "no references": (lambda rows: [{"id": row["id"], "prediction": "a"} for row in rows], "--references"),
    "no predictions": (
        lambda rows: [{"id": row["id"], "text": "a"} for row in rows],
        "there is no column 'prediction'",
    ),
    "a number": (lambda rows: changed(rows, 3, prediction=7), "line 4: column 'prediction' holds 7, but text"),
    "empty": (lambda rows: [], "holds no rows"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_files_name_their_place(good, tmp_path, mistake):
    change, said = MISTAKES[mistake]
    file = write(tmp_path / "other" / "1.jsonl", change(system(0.6, 4)))
    with pytest.raises(DataError, match=re.escape(said)):
        compare(good, [file])


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({}, {"metric": "bertscore"}, "'bertscore' is no score. Scores: loss_per_token, chrf++, bleu"),
        ({}, {"metric": "loss_per_token"}, "it needs the columns loss_nats and reference_tokens"),
        ({}, {"metric": "length_ratio"}, "has no direction that is good"),
        ({}, {"margin": 0.0}, "margin: 0.0 must be above 0"),
        ({"lower_is_better": ["judge"]}, {}, "'judge' is no column of scores"),
        ({"score_column": ["bleu"]}, {}, "'bleu' is the name of a score"),
        ({"confidence": 95}, {}, "polygraft.compare: settings.confidence = 95: must be less than 1"),
        ({"tokenize": "flores"}, {}, "settings.tokenize = flores: must be 13a or intl or"),
    ],
)
def test_mistakes_in_settings(good, bad, settings, options, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        polygraft.compare(good, bad, settings=settings, **options)


def test_no_torch_and_many_outputs_in_processes(good, bad, monkeypatch):
    code = "import sys; from polygraft import compare; print(compare(*map(eval, sys.argv[1:])).word)"
    code += "; print(sorted({'torch', 'transformers', 'matplotlib', 'nltk'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, str(good), str(bad)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["helped", "[]"]
    alone = compare(good, bad).to_json()
    monkeypatch.setattr("polygraft.comparing.ENOUGH_FOR_PROCESSES", 1)
    assert compare(good, bad).to_json() == alone


def test_the_page_stands_alone_and_says_all(good, bad, tmp_path):
    found = polygraft.compare(good, bad, margin=1.0, html=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert found.sentence.replace("'", "&#39;") in text
    assert all(f">{row.metric.title} <small>" in text for row in (found.primary, *found.secondary))
    assert text.count("<svg") == 3 and "http" not in text.replace("http-equiv", "")
    assert "equivalent within ±1" in text
    page.write(found, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text

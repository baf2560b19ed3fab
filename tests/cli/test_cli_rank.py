"""`polygraft rank`: what it prints, as JSON and for people, and how it exits."""

import json

import pytest
from pydantic import TypeAdapter

from polygraft.ranking.report import RankReport

TEXT = ["--train-file", "polygraft/sample/uk/adapt.parquet", "--train-file", "polygraft/sample/de/adapt.parquet"]
NANO = ["--source", "polygraft/nano-xlmr", "--target", "polygraft/nano-mbart", "--max-samples", "6"]


def test_json_is_the_whole_report(invoke, tmp_path):
    result = invoke("rank", *NANO, "--source", str(tmp_path / "none"), *TEXT, "--lang-column", "lang", "--json")
    assert result.exit_code == 0, result.stderr
    report = TypeAdapter(RankReport).validate_json(result.stdout)
    assert json.loads(result.stdout) == json.loads(json.dumps(report.to_json()))
    assert [one.language for one in report.text] == ["uk", "de"]
    xlmr, none, mbart = report.candidates
    assert "no such folder" in none.refused
    assert (xlmr.licence, xlmr.parameters, mbart.model_type) == ("apache-2.0", 3_411_201, "mbart")
    uk, de = mbart.figures[1:]
    assert (uk.code, uk.code_read, de.code, de.code_read) == ("uk_UA", False, "de_DE", True)
    # it read German and not Ukrainian; its card says 1.89 and 8.29 nats per token
    assert de.never_learned_share < 0.01 < 0.5 < uk.never_learned_share
    assert de.bits_per_character.value < uk.bits_per_character.value / 1.5
    assert de.source_reliance.value > 0.5
    (pair,) = report.pairs
    assert pair.shared_share > 0.99 and pair.csls_precision_at_1 > 0.2 and pair.repairable_share > 0.2
    assert (report.recommendation.source, report.recommendation.target) == (xlmr.name, mbart.name)
    assert "rank: 100%" in result.stderr


def test_the_table_and_the_recommendation(invoke, tmp_path):
    result = invoke("rank", *NANO, "--target", str(tmp_path / "none"), *TEXT, "--lang", "uk", "--lang", "de")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    head = next(line for line in lines if line.startswith("MODEL"))
    row = next(line for line in lines if line.startswith("polygraft/nano-xlmr"))
    assert row.split()[:3] == ["polygraft/nano-xlmr", "source", "all"]
    assert row.endswith("apache-2.0") and len(row) == head.index("licence") + len("apache-2.0")
    assert "3.4 M" in row
    assert sum(line.split()[:1] in (["uk"], ["de"]) for line in lines) == 4
    assert any(line.startswith("  into polygraft/nano-mbart: 100.0% of its tokens shared") for line in lines)
    refused = lines.index(next(line for line in lines if line.endswith("refused")))
    assert "no such folder" in lines[refused + 1]
    assert "has a code for uk (uk_UA), but never read a text in it." in result.stdout
    said = "RECOMMENDATION: Start from polygraft/nano-mbart, with polygraft/nano-xlmr as the source of a transfer."
    assert said in lines
    assert result.stdout.index("NOTES") < result.stdout.index("RECOMMENDATION") < result.stdout.index("But:")


ERRORS = {
    "no candidate": ([*TEXT, "--lang", "uk"], 2, "there is no candidate"),
    "languages do not fit the files": ([*NANO, *TEXT, *["--lang", "uk"] * 3], 2, "3 --lang for 2 --train-file"),
    "no such column": ([*NANO, *TEXT, "--lang-column", "tongue"], 3, "there is no column 'tongue'"),
    "no such file": ([*NANO, "--train-file", "none.txt", "--lang", "uk"], 3, "none.txt: no such file"),
    "nobody left": (["--source", "./none", *TEXT, "--lang", "uk"], 1, "no such folder"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(arguments, code, message, invoke):
    result = invoke("rank", *arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output

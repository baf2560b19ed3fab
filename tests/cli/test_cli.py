"""The command line: what run, check, report and schema print, usage, and that help needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import polygraft

RECIPE = """\
name: demo
source: polygraft/nano-xlmr
text: {{train_file: {folder}/text.txt, lang: uk}}
pairs: {{train_file: {folder}/train.jsonl, test_file: {folder}/test.csv, source_lang: uk}}
adapt: {{budget: {{steps: 100}}}}
transfer: {{}}
finetune: {{budget: {{epochs: 2}}}}
arms:
  plain: {{adapt: null, transfer: null}}
  detour: {{}}
verdict: {{treatment: detour, control: plain}}
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "text.txt").write_text("日本\n韓国\n", encoding="utf-8")
    (tmp_path / "train.jsonl").write_text('{"text": "a", "summary": "b"}\n')
    (tmp_path / "test.csv").write_text("text,summary\na,b\nc,d\n")
    path = tmp_path / "demo.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


RESULT = {
    "verdict": {"word": "helped", "sentence": "The detour helped: [0.03] nats per token less."},
    "report": "outputs/demo/report.html",
    "table": [
        {"arm": "plain", "chrf++": 21.23456, "documents": 20},
        {"arm": "detour", "chrf++": None, "documents": 20},
    ],
}


def test_run_prints_table_then_verdict_then_report(fake, recipe, invoke):
    seen: dict[str, Any] = {}
    fake("pipeline", run=lambda recipe, *, recipe_text, **_: seen.update(recipe=recipe, text=recipe_text) or RESULT)
    result = invoke("run", str(recipe), "--set", "adapt.learning_rate=1e-4", "--output-dir", "no")
    assert result.exit_code == 0, result.output
    assert seen["recipe"].adapt.learning_rate == 1e-4
    assert seen["recipe"].output_dir == "no"
    assert "learning_rate: 0.0001" in seen["text"]  # what is kept with the results is what was run, overrides included
    parts = ["plain", "21.23", "detour", "[0.03] nats per token less", "outputs/demo/report.html"]
    places = [result.stdout.index(part) for part in parts]
    assert places == sorted(places)


def test_run_without_verdict(fake, recipe, invoke):
    fake("pipeline", run=lambda recipe, *, recipe_text, **_: {**RESULT, "verdict": None, "table": []})
    result = invoke("run", str(recipe))
    assert result.exit_code == 0
    assert result.stdout == "Report: outputs/demo/report.html\n"


def test_check_reports_all_data_problems_at_once(recipe, tmp_path, invoke):
    (tmp_path / "text.txt").unlink()
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "test.csv").write_text("")
    result = invoke("check", str(recipe))
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "text.txt: no such file" in result.stderr
    assert "train.jsonl, line 1: there is no column 'summary'" in result.stderr
    assert "test.csv: holds no text" in result.stderr


def test_check_reports_all_recipe_problems_at_once(recipe, invoke):
    result = invoke("check", str(recipe), "--set", "seeds=[1,1]", "--set", "adapt.learning_rat=1")
    assert result.exit_code == 2
    assert "2 problems" in result.stderr
    assert "did you mean `learning_rate`?" in result.stderr


USAGE = {
    "no such verb": (["frobnicate"], "No such command"),
    "no such option": (["schema", "--frob"], "No such option"),
    "nearest option": (
        ["adapt", "--model", "m", "--learning_rate", "1"],
        "--learning-rate",
    ),
    "nearest nested option": (["finetune", "--adapter.lora_alpha", "1"], "--adapter.lora-alpha"),
    "missing option": (["adapt", "--model", "m"], "Missing option"),
    "bad choice": (["adapt", "--model", "m", "--train-file", "t", "--output-dir", "o", "--objective", "cml"], "`mlm`"),
    "no seed": (["adapt", "--model", "m", "--seed", "-1"], "-1 is no whole number from 0 to 4294967295"),
    "too large a seed": (["adapt", "--model", "m", "--seed", str(2**32)], "4294967296 is no whole number"),
    "missing recipe file": (["check", "nowhere.yaml"], "nowhere.yaml: no such recipe file"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_usage_errors_exit_2(arguments, message, invoke):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_report_prints_the_path(fake, tmp_path, invoke):
    fake("report", write=lambda run_dir, text: run_dir / f"report-{text}.html")
    assert invoke("report", str(tmp_path)).stdout == f"{tmp_path / 'report-True.html'}\n"
    assert invoke("report", str(tmp_path), "--no-text").stdout == f"{tmp_path / 'report-False.html'}\n"


def test_schema_is_json_with_meanings(invoke):
    result = invoke("schema")
    schema = json.loads(result.stdout)
    denoising, *_ = schema["properties"]["adapt_target"]["anyOf"][0]["oneOf"]
    assert denoising["properties"]["mask_ratio"]["description"].startswith("Share of tokens removed")


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(polygraft.__file__).parents[1])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=cwd, timeout=120)


@pytest.mark.parametrize("arguments", [["--help"], ["adapt", "--help"]])
def test_help_imports_no_heavy_library(arguments):
    code = (
        "import sys\nfrom polygraft.cli import main\n"
        f"sys.argv = ['polygraft', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'scipy', 'pandas', 'matplotlib', 'yaml', 'ruamel'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10


def test_python_m_polygraft_on_a_missing_recipe_has_no_traceback(tmp_path):
    done = python("-m", "polygraft", "run", "missing.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "polygraft: missing.yaml: no such recipe file\n"

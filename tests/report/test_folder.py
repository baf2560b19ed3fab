"""Run folders that are unfinished or broken: what is missing is said, and nothing crashes."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from polygraft.report import write


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["verdict.json"], "has not reached its verdict yet"),
        (["detour/*/evaluate/*"], "Arm detour, seed 1, is incomplete: evaluate (unfinished)."),
        (["*/*/evaluate/scores.json"], "No arm has been evaluated yet."),
        (["*/*/evaluate/predictions.jsonl"], "No outputs yet"),
        (["*/*/*/metrics.jsonl"], "No training stage has logged a loss yet."),
        (["*/*/transfer/*"], "none has got that far"),
        (["*/*/transfer/plan.json"], "Embedding rows by class"),
        (["recipe.yaml"], "recipe.yaml is missing."),
        (["*/*/*/stage.json"], "finetune (unfinished)"),
        (["*/*/*/*", "verdict.json", "recipe.yaml"], "There is no recipe.yaml."),
    ],
)
def test_missing_files_are_said_plainly(tmp_path, patterns, said, make_run, cut, assert_well_formed):
    root = make_run(tmp_path / "run", [1])
    cut(root, *patterns)
    assert said in assert_well_formed(write(root).read_text(encoding="utf-8")).text


def test_single_arm_run(tmp_path, make_run, assert_well_formed):
    root = tmp_path / "single"
    (make_run(tmp_path / "whole", [1]) / "plain").rename(tmp_path / "main")
    root.mkdir()
    (tmp_path / "main").rename(root / "main")
    recipe = {"name": "single", "pairs": {"train_file": "x.jsonl"}, "finetune": {"budget": {"steps": 5}}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    parsed = assert_well_formed(write(root).read_text(encoding="utf-8"))
    assert "single arm, so there is nothing to compare" in parsed.text and ">no verdict<" not in parsed.text
    assert "What is missing" not in parsed.text


def test_an_empty_folder_and_a_run_not_started(tmp_path, assert_well_formed):
    (tmp_path / "empty").mkdir()
    assert "recipe.yaml is missing." in write(tmp_path / "empty").read_text(encoding="utf-8")
    (tmp_path / "empty" / "recipe.yaml").write_text("name: empty\nseeds: [1, 2]\narms: {a: null, b: {}}\n")
    text = assert_well_formed(write(tmp_path / "empty").read_text(encoding="utf-8")).text
    assert "Arm b, seed 2, is incomplete: finetune (not run), evaluate (not run)." in text


@pytest.mark.parametrize(
    "broken", ["{", "[1, 2]", '"text"', "null", "\xff", '{"systems": [1], "entries": 3, "word": 1}']
)
def test_broken_files_never_crash(tmp_path, broken, make_run, assert_well_formed):
    root = make_run(tmp_path / "run", [1])
    for path in [*root.glob("*/*/*/*"), *root.glob("*.*")]:
        path.write_bytes(broken.encode("latin-1"))
    assert_well_formed(write(root).read_text(encoding="utf-8"))


def test_strange_numbers_never_crash(tmp_path, make_run, change, assert_well_formed, Balance):
    root = make_run(tmp_path / "run", [1])
    for path in root.glob("*/*/*/*"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(r'("(loss|score|low|eval_loss|seconds|tokens)"): [\d.]+', r"\1: NaN", text), encoding="utf-8"
        )
    change(root / "verdict.json", effect=float("nan"), low=float("inf"))
    html = write(root).read_text(encoding="utf-8")
    assert_well_formed(html)
    # The settings say what the file says; nothing that is computed may be NaN.
    assert "nan" not in Balance(html[html.index('id="scores"') : html.index('id="settings"')]).text.lower()


def test_one_broken_line_is_left_out_and_said(tmp_path, make_run):
    root = make_run(tmp_path / "run", [1])
    path = root / "plain" / "seed-1" / "evaluate" / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "half', encoding="utf-8")
    said = "plain/seed-1/evaluate/predictions.jsonl has 1 broken line, left out."
    assert said in write(root).read_text(encoding="utf-8")


def test_a_running_stage_is_said_and_counts_as_unfinished(tmp_path, make_run):
    root = make_run(tmp_path / "run", [1])
    path = root / "detour" / "seed-1" / "finetune" / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["result"], record["seconds"], record["peak_memory_bytes"]
    path.write_text(json.dumps(record | {"status": "running"}), encoding="utf-8")
    assert "Arm detour, seed 1, is incomplete: finetune (running)." in write(root).read_text(encoding="utf-8")

"""Run folders: what is unfinished is said, and what is not as this version writes it is an error that names it."""

from __future__ import annotations

import shutil

import pytest
import yaml

from polygraft.errors import DataError, RecipeError
from polygraft.report import write
from polygraft.report.folder import read_run


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["verdict.json"], "The run has not reached its verdict yet."),
        (["detour/seed-1/evaluate"], "Arm detour, seed 1, is incomplete: evaluate (not run)."),
        (["*/*/evaluate"], "No arm has been evaluated yet."),
        (["*/*/evaluate"], "No outputs yet"),
        (["*/*/*/metrics.jsonl"], "No training stage has logged a loss yet."),
        (["detour/*/transfer"], "none has got that far"),
        (["diagnose.json"], "Verdict: detour against plain"),
        (["plain", "detour", "verdict.json"], "seed 2, is incomplete: finetune (not run), evaluate (not run)."),
    ],
)
def test_what_is_not_there_yet_is_said(copy, gone, said, text_of):
    for pattern in gone:
        found = list(copy.glob(pattern))
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in text_of(copy)


def test_a_running_stage_counts_as_unfinished(copy, change, text_of):
    folder = copy / "detour" / "seed-1"
    shutil.rmtree(folder / "evaluate")
    change(folder / "finetune" / "stage.json", status="running", result={}, peak_memory_bytes=None)
    assert "Arm detour, seed 1, is incomplete: finetune (running), evaluate (not run)." in text_of(copy)


def test_a_single_arm_has_nothing_to_compare(copy, text_of):
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    del recipe["arms"], recipe["verdict"], recipe["adaptation_budget"]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (copy / "plain").rename(copy / "main")
    (copy / "verdict.json").unlink()
    text = text_of(copy)
    assert "single arm, so there is nothing to compare" in text and "What is missing" not in text


def test_the_recipe_says_which_arms_there_are(run, page):
    assert (run / "detour+random" / "seed-1").is_dir()  # a placebo
    assert [arm.name for arm in read_run(run).arms] == ["plain", "detour"]
    assert '<th scope="row">detour+random</th>' in page and 'class="arm c2"' not in page


def test_a_stage_that_an_arm_no_longer_has_is_left_out_and_said(copy, text_of):
    shutil.copytree(copy / "detour" / "seed-1" / "adapt_target", copy / "plain" / "seed-1" / "adapt_target")
    shutil.copytree(copy / "plain", copy / "elsewhere")  # an arm of another recipe
    text = text_of(copy)
    assert "plain/seed-1/adapt_target is not of this recipe; it is left alone and not counted." in text
    assert "elsewhere" not in text
    assert [stage.name for stage in read_run(copy).seed_runs[0].stages.values()] == ["finetune", "evaluate"]


FILES = {
    "stage.json": "detour/seed-1/transfer",
    "metrics.jsonl": "detour/seed-1/finetune",
    "scores.json": "plain/seed-2/evaluate",
    "predictions.jsonl": "plain/seed-1/evaluate",
    "plan.json": "detour/seed-1/transfer",
    "diagnostics.json": "detour/seed-1/transfer",
    "verdict.json": "",
    "diagnose.json": "",
}


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"null", b"\xff", b'{"systems": [1], "word": 1}'])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_as_this_version_writes_it_is_named(copy, name, content):
    path = copy / FILES[name] / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{FILES[name]}/?{name}[:,].* Delete .* and run the recipe again\."):
        write(copy)


@pytest.mark.parametrize("name", ["scores.json", "predictions.jsonl", "plan.json", "diagnostics.json"])
def test_what_a_finished_stage_lacks_is_named(copy, name):
    (copy / FILES[name] / name).unlink()
    with pytest.raises(DataError, match=rf"{FILES[name]}/{name}: .*un the recipe again"):
        write(copy)


def test_the_error_says_which_key_and_which_line(copy, change):
    path = copy / "detour" / "seed-2" / "finetune"
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5}\n')
    lines = len((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    with pytest.raises(
        DataError, match=rf"metrics.jsonl, line {lines}: not as .* \(tokens: Field required\)"
    ) as caught:
        write(copy)
    assert f"Delete {path} and run the recipe again." in str(caught.value)
    shutil.rmtree(path)
    change(copy / "verdict.json", word="perhaps")
    with pytest.raises(DataError, match=r"verdict\.json: not as .*\(word: .*Delete \S*verdict\.json and run"):
        write(copy)


def test_scores_of_another_version_are_named(copy, change):
    path = copy / "plain" / "seed-1" / "evaluate" / "scores.json"
    systems = read_run(copy).seed_runs[0].scores.model_dump()["systems"]
    systems["model"]["all"]["meteor"] = systems["model"]["all"].pop("rouge1")
    change(path, systems=systems)
    with pytest.raises(DataError, match=r"plain/seed-1/evaluate/scores\.json: not as .*\(meteor: no such score\)"):
        write(copy)


def test_what_is_no_run_is_refused(tmp_path, copy):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        write(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no recipe\.yaml: give the folder of a run"):
        write(tmp_path / "empty")
    (copy / "recipe.yaml").write_text("name: demo\nwrong: 1\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        write(copy)

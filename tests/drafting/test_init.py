"""`polygraft init`: from files and two models to a recipe that `polygraft check` passes; what it asks, and refuses."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import polygraft
from polygraft.cli import init as command
from polygraft.data.reading import read_rows
from polygraft.drafting.languages import Guess
from polygraft.recipe.reading import arm_recipes, load_recipe

NANO = ("--source", "polygraft/nano-xlmr", "--target", "polygraft/nano-mbart")


def sample(language: str) -> list[dict[str, Any]]:
    return read_rows(f"polygraft/sample/{language}/train.parquet", ["text", "summary"])


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tiny(tmp_path, write_tiny_models) -> list[str]:
    """The flags of two tiny models."""
    write_tiny_models(tmp_path)
    return ["--source", "../xlmr", "--target", "../mbart"]


@pytest.fixture
def pairs(tmp_path) -> str:
    write_jsonl(tmp_path / "uk.jsonl", [{"document": row["text"], "short": row["summary"]} for row in sample("uk")])
    return "../uk.jsonl"


def test_pairs_and_two_models_are_enough(here, quick, tiny, pairs, invoke):
    done = invoke("init", "--pairs", pairs, *tiny)
    assert done.exit_code == 0, done.output
    assert done.stdout == "recipe.yaml: written. Next: polygraft check recipe.yaml\n"
    assert "input 'document' (uk), output 'short' (uk)" in done.stderr
    recipe = load_recipe("recipe.yaml")
    assert (recipe.pairs.source_lang, recipe.pairs.target_lang, recipe.seeds) == ("uk", "uk", [1, 2, 3])
    arms = arm_recipes(recipe)
    assert {arm: one.transfer and one.transfer.mode for arm, one in arms.items()} == {
        "plain": None,
        "direct": "recentre",
        "detour": "repair",
    }
    assert not any(one.adapt for one in arms.values())  # the unadapted source's rows were best
    splits = {name: read_rows(f"recipe-pairs/{name}.jsonl", ["text", "summary"]) for name in ("train", "test")}
    assert not {row["text"] for row in splits["train"]} & {row["text"] for row in splits["test"]}


def test_every_line_says_why(here, quick, tiny, pairs, invoke):
    done = invoke("init", "--pairs", pairs, "--device-memory", "2GB", *tiny)
    assert done.exit_code == 0, done.output
    lines = (here / "recipe.yaml").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 120
    assert "this machine's speed" in done.stderr  # and another's memory
    assert sum("adapter: {type: lora}" in line for line in lines) == 2  # as memory is short
    for before, line in zip(["", *lines], lines, strict=False):
        assert not line or "# " in line or before.lstrip().startswith("# "), line


def test_nothing_is_overwritten_unasked(here, quick, tiny, pairs, invoke):
    (here / "recipe.yaml").write_text("mine")
    done = invoke("init", "--pairs", pairs, *tiny)
    assert done.exit_code == 2 and "recipe.yaml: is there already" in done.stderr
    (here / "recipe-pairs").mkdir()
    (here / "recipe.yaml").rename(here / "recipe-pairs" / "test.jsonl")
    done = invoke("init", "--pairs", pairs, *tiny)
    assert done.exit_code == 2 and "recipe-pairs: is there already" in done.stderr
    assert (here / "recipe-pairs" / "test.jsonl").read_text() == "mine"
    assert not (here / "recipe.yaml").exists()
    assert invoke("init", "--pairs", pairs, "--overwrite", *tiny).exit_code == 0
    assert load_recipe("recipe.yaml").pairs.test_file == "recipe-pairs/test.jsonl"


def test_files_that_are_named_by_split_are_used_as_they_are(here, quick, tiny, invoke):
    names = [f"polygraft/sample/uk/{split}.parquet" for split in ("train", "validation", "test")]
    flags = [flag for name in names for flag in ("--pairs", name)]
    assert invoke("init", *flags, "--text", "polygraft/sample/uk/adapt.parquet", *tiny).exit_code == 0
    data = load_recipe("recipe.yaml").pairs
    assert [data.train_file, data.validation_file, data.test_file] == names
    assert [path.name for path in here.iterdir()] == ["recipe.yaml"]


def test_a_language_without_a_code_starts_from_a_relative(here, quick, tiny, pairs, invoke):
    done = invoke("init", "--pairs", pairs, "--source-lang", "be", "--target-lang", "be", *tiny)
    assert done.exit_code == 0, done.output
    assert load_recipe("recipe.yaml").add_languages == {"be_BY": "uk_UA"}
    assert "be_BY starts from uk_UA" in done.stderr
    assert "this machine's speed" not in done.stderr
    assert "source_lang: be, as given; but 100% of" in done.stderr  # it is Ukrainian


def test_translations_are_scored_as_translations(here, quick, tiny, pairs, invoke):
    assert invoke("init", "--pairs", pairs, "--source-lang", "uk", "--target-lang", "en", *tiny).exit_code == 0
    recipe = load_recipe("recipe.yaml")
    assert recipe.evaluate.lead_tokens == 0 and recipe.verdict.metrics == ["bleu", "chrf++"]


WRONG = {  # flags, exit code, what is said
    "nothing": ((), 2, ["--pairs: files of", "--source: a masked", "--target: an mBART"]),
    "text alone": (("--text", "polygraft/sample/uk/adapt.parquet", *NANO), 2, ["--pairs: files", "polygraft adapt"]),
    "no such files": (("--pairs", "a.jsonl", "--text", "b.txt", *NANO), 3, ["a.jsonl: no such", "b.txt: no such"]),
    "mixed": (("--pairs", "mixed.jsonl", *NANO), 2, ["--source-lang: 5", "--target-lang: 6", "most of the others"]),
    "one column": (("--pairs", "one.jsonl", *NANO), 3, ["two columns of text", "'text'"]),
    "empty": (("--pairs", "empty.jsonl", *NANO), 3, ["empty.jsonl: holds no text"]),
    "few": (("--pairs", "few.jsonl", *NANO), 3, ["few.jsonl: 5 different inputs are too few", "--test-file"]),
    "swapped": (("--pairs", "few.jsonl", *NANO[2:3], NANO[1], *NANO[:1], NANO[3]), 1,
                ["swapped. Give --source polygraft/nano-xlmr --target polygraft/nano-mbart"]),
    "wrong target": (("--pairs", "few.jsonl", *NANO[:3], NANO[1]), 1, ["nano-xlmr: is a 'xlm-roberta' model"]),
    "no such model": (("--pairs", "few.jsonl", *NANO[:3], "./nowhere"), 1, ["./nowhere: no such folder"]),
    "settings": (("--minutes", "0", "--seeds", "no", "--device-memory", "big"), 2,
                 ["--minutes", "greater than 0", "--seeds", "--device-memory", "such as 16GiB"]),
    "no language": (("--pairs", "uk.jsonl", "--source-lang", "klingon", *NANO), 3, ["'klingon' is no language code"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_at_once(here, invoke, case):
    flags, code, said = WRONG[case]
    uk, de = sample("uk")[:120], sample("de")[:120]
    write_jsonl(here / "uk.jsonl", uk)
    write_jsonl(here / "mixed.jsonl", [*uk, *de])
    write_jsonl(here / "one.jsonl", [{"text": row["text"]} for row in uk])
    write_jsonl(here / "few.jsonl", uk[:5])
    (here / "empty.jsonl").write_text("")
    before = set(here.iterdir())
    done = invoke("init", *flags)
    assert done.exit_code == code, done.output
    for part in said:
        assert part in done.stderr
    assert set(here.iterdir()) == before


def test_questions_on_a_terminal(here, quick, tiny, pairs, invoke, monkeypatch):
    """What no flag says is asked for; an empty answer takes what is offered; a wrong one is asked for again."""
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    answers = ["", pairs, "", "5", "1", "", "", "klingon", "uk", "be"]  # an empty answer for pairs is asked again
    done = invoke("init", *tiny, stdin="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    for asked in ("Labelled pairs", "Plain text", "Minutes", "Seeds", "Column of the input [document]",
                  "Column of the output [short]", "Language of the input (100%", "Language of the output"):  # fmt: skip
        assert asked in done.stderr, asked
    recipe = load_recipe("recipe.yaml")
    assert (recipe.seeds, recipe.pairs.source_lang, recipe.pairs.target_lang) == ([1], "uk", "be")


def test_other_columns_are_looked_at_again(here, quick, tiny, tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    both = zip(sample("uk"), sample("de"), strict=False)
    rows = [{"text": a["text"], "summary": a["summary"], "title": b["text"]} for a, b in both]
    file = write_jsonl(tmp_path / "three.jsonl", rows)
    answers = ["", "5", "1", "", "title", "", ""]  # no text; minutes; seeds; the columns; the languages
    done = invoke("init", "--pairs", file, *tiny, stdin="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert re.search(r"Language of the output \(\d+% of \d+ texts look like 'de'\) \[de\]", done.stderr)
    assert load_recipe("recipe.yaml").pairs.target_lang == "de"


def test_as_a_function(here, quick, tiny, pairs):
    wishes = {"pairs": Path(pairs), "source": tiny[1], "target": tiny[3], "minutes": 5}
    made = polygraft.init(wishes, output=here / "deep" / "mine.yaml")
    assert load_recipe(here / "deep" / "mine.yaml") == made.recipe
    assert made.recipe.name == "mine"
    with pytest.raises(polygraft.RecipeError, match="is there already"):
        polygraft.init(wishes, output=here / "deep" / "mine.yaml")
    with pytest.raises(polygraft.RecipeError, match="did you mean `minutes`"):
        polygraft.init({**wishes, "minuts": 5})


def test_a_guess_in_words():
    assert str(Guess(language="uk", share=0.5, other="ru", texts=8)).startswith("50% of 8 texts look like 'uk', most")
    assert str(Guess(language=None, share=0, other=None, texts=0)) == "no language that is told from its texts"


def _files(folder: Path) -> dict[str, list[str]]:
    """The flags for each kind of file, on bundled texts."""
    uk, de = sample("uk"), sample("de")
    with open(folder / "de.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["article", "highlights"], *([row["text"], row["summary"]] for row in de)])
    for name, rows in (("de", de[: len(uk)]), ("uk", uk)):
        lines = [" ".join(row["text"].split()) for row in rows]
        (folder / f"train.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "text.txt").write_text("\n".join(" ".join(row["text"].split()) for row in uk) + "\n", encoding="utf-8")
    return {
        "csv, German": ["--pairs", "de.csv", "--text", "polygraft/sample/de/adapt.parquet"],
        "parallel, and lines": ["--pairs", "train.{de,uk}", "--text", "text.txt"],
        "little memory": ["--pairs", "polygraft/sample/ko/train.parquet", "--device-memory", "1100MiB"],
    }


KINDS = ("csv, German", "parallel, and lines", "little memory")  # Parquet is in the README, whose commands are run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_check_passes_what_init_writes(here, invoke, kind):
    # in a process of its own, since what this one has in memory counts
    command = [sys.executable, "-m", "polygraft", "init", *_files(here)[kind], *NANO]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked = invoke("check", "recipe.yaml")
    assert checked.exit_code == 0, checked.output
    assert "pairs.test texts are also in recipe-pairs" not in checked.stdout  # no leaks


@pytest.mark.slow
def test_run_goes_the_whole_way(here, tiny, pairs, invoke):
    done = invoke("init", "--pairs", pairs, "--minutes", "0.2", "--seeds", "2", *tiny)
    assert done.exit_code == 0, done.output
    few = [flag for cut in ("finetune.budget={steps: 2}", "adaptation_budget={tokens: 3000}", "evaluate.max_samples=4")
           for flag in ("--set", cut)]  # fmt: skip
    run = invoke("run", "recipe.yaml", *few)
    assert run.exit_code == 0, run.output
    assert "detour" in run.stdout and (here / "outputs/recipe/report.html").is_file()

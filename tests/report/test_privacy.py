"""A page that may leave the house: nothing of the data's text, no names of files, columns, machines or people."""

from __future__ import annotations

import base64
import json
import re
import unicodedata

import pytest

from polygraft.report import write
from polygraft.report.privacy import HIDDEN, without_folders

SECRET = "ksyvorotka"
FIELDS = ("id", "source", "reference", "prediction", "lead")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def planted(copy, change, record_of):
    """A run with an unmistakable word wherever texts, names of people or of files can be."""
    for path in copy.glob("*/*/evaluate/predictions.jsonl"):
        rows = [row | {field: f"{SECRET} {row[field]}" for field in FIELDS} for row in lines(path)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for path in copy.glob("*/*/*/stage.json"):
        record = record_of(path.parent)
        named = {
            f"file:/home/{SECRET}/{SECRET}.jsonl": "0f" * 32, f"file:hub:{SECRET}/rows": f"{SECRET}/rows@{'a' * 40}",
            f"models/{SECRET}": "1f" * 32, f"{SECRET}/seed-1/finetune": "2f" * 32,
            "FacebookAI/xlm-roberta-base": f"FacebookAI/xlm-roberta-base@{'b' * 40}",
        }  # fmt: skip
        part = {
            "text_column": SECRET,
            "lang_column": SECRET,
            "source_lang": "uk",
            "target_lang": SECRET,
            "train_files": 1,
        }
        change(
            path, inputs=record["inputs"] | named, data=[*record["data"], part],
            settings=record["settings"] | {"adapter": {"target_modules": [SECRET]}},
            machine=record["machine"] | {"host": SECRET, "user": SECRET},
        )  # fmt: skip
    diagnosis = json.loads((copy / "diagnose.json").read_text(encoding="utf-8"))
    layers = {"source": f"models/{SECRET}", "target": f"/home/{SECRET}/m", "similarity": [[1.0]], "matched": [0]}
    change(copy / "diagnose.json", layers=(diagnosis["layers"] or {}) | layers)
    recipe = (copy / "recipe.yaml").read_text(encoding="utf-8")
    recipe = re.sub(r"(source|target): /\S+", rf"\1: {SECRET}/model", recipe)
    (copy / "recipe.yaml").write_text(f"{recipe}# for {SECRET}\n", encoding="utf-8")
    return copy


def all_of(html):
    """The page as it is, without its entities and tags, and whatever in it is base64."""
    decoded = [base64.b64decode(found + "=" * (-len(found) % 4)) for found in re.findall(r"[A-Za-z0-9+/]{16,}", html)]
    return [html, re.sub("<[^>]*>", "", html), *(one.decode("utf-8", "replace") for one in decoded)]


def test_what_was_planted_is_not_on_a_page_without_text(planted):
    shown = write(planted).read_text(encoding="utf-8")
    assert shown.count(SECRET) > 100  # the places that are looked at do show it
    path = write(planted, text=False)
    assert path.name == "report-no-text.html"
    assert ">FacebookAI/xlm-roberta-base</th><td>checkpoint, commit bbbbbbbbbbbb<" in path.read_text(encoding="utf-8")
    assert [found for found in all_of(path.read_text(encoding="utf-8")) if SECRET in found.lower()] == []


def test_no_letter_of_the_data_is_on_it_and_no_name_of_a_file(run, page):
    """The data's scripts are others than the page's."""

    def scripts(text):
        return {unicodedata.name(char, "?").split()[0] for char in text if char.isalpha()} - {"LATIN", "GREEK"}

    html = write(run, text=False).read_text(encoding="utf-8")
    assert {"CYRILLIC", "HIRAGANA"} <= scripts(page) and scripts(html) == set()
    for name in ("pairs.jsonl", "text.jsonl", "xlmr", "mbart"):
        assert name in page and not re.search(rf"\b{name}\b", html.replace("xlmr_", "")), name


def test_everything_else_is_the_same(run, page, assert_well_formed):
    html = write(run, text=False).read_text(encoding="utf-8")
    text = assert_well_formed(html).text
    for start, end in (("verdict", "scores"), ("scores", "losses"), ("losses", "transfer"), ("cost", "settings")):
        parts = [one[one.index(f'id="{start}"') : one.index(f'id="{end}"')] for one in (page, html)]
        assert parts[0] == parts[1] or start == "verdict", start
    assert "Left out, as is all that comes from the data: this page was written with --no-text ." in text
    assert "a local checkpoint → a local checkpoint · 2 arms" in text
    for said in ("lr_scheduler_type linear", "poisson_lambda 3.5", "precision fp32", "source_lang uk", "mode repair"):
        assert said in text or said == "precision fp32", said
    assert re.search(r"input 2 file, fingerprint [0-9a-f]{12}", text)
    assert re.search(r"plain/seed-1/finetune checkpoint, fingerprint [0-9a-f]{12}", text)
    assert "The recipe name:" not in text and HIDDEN not in text.partition("Settings")[0]


def test_no_page_names_a_folder_of_this_machine(run, page):
    assert str(run.parent.parent) not in page and str(run.parent.parent.parent.name) not in page
    assert "output_dir: …/outputs" in page and ">pairs.jsonl<" in page


FOLDERS = {
    "/home/me/data/train.txt": "train.txt",
    "~/data/train.txt, /mnt/x/b.txt": "train.txt, b.txt",
    "train_file: '/a b/c d/train.txt'  # /x/y": "train_file: 'train.txt'  # y",
    "[/a/b.txt, C:\\Users\\me\\c.txt]": "[b.txt, c.txt]",
    "outputs/demo/adapt": "outputs/demo/adapt",
    "FacebookAI/xlm-roberta-base": "FacebookAI/xlm-roberta-base",
    "https://example.org/a/b": "https://example.org/a/b",
    "a / b": "a / b",
    "a: /x/y\nb: /z/w": "a: y\nb: w",
}


@pytest.mark.parametrize("text", FOLDERS)
def test_folders_are_left_out_of_paths(text):
    assert without_folders(text) == FOLDERS[text]

"""Recipes as people write them in YAML, and files that are no recipe."""

from __future__ import annotations

import pytest

from polygraft.recipe.reading import load_recipe

NOT_A_RECIPE = {
    "empty": ("", "the file is empty"),
    "only comments": ("# nothing\n", "the file is empty"),
    "a list": ("- 1\n- 2\n", "a recipe is a mapping of keys to values"),
    "tab": ("name: x\n\tsource: y\n", "line 2: source: y: is not YAML: indent with spaces, not with a tab"),
    "colon in value": ("name: x\nsource: a: b\n", "line 2: source: a: b: is not YAML: a second `:` here"),
    "unclosed bracket": ("name: x\nseeds: [1, 2\n", "is not YAML"),
    "python object": (
        "name: !!python/object/apply:os.system ['true']\n",
        "line 1: name: !!python/object/apply:os.system",
    ),
    "two documents": ("name: x\n---\nname: y\n", "a recipe is one document"),
    "refers to itself": ("name: &a [*a]\n", "line 1: name.0: refers to itself"),
    "control character": ("name: x\nsource: a\x01\n", "line 2: U+0001: is a character that YAML forbids"),
    "impossible date": ("name: 2024-13-45\n", "quote it if it is text"),
    "too deep": ("name: " + "[" * 600 + "]" * 600, "nested too deeply"),
}


@pytest.mark.parametrize(("text", "expected"), NOT_A_RECIPE.values(), ids=NOT_A_RECIPE)
def test_files_that_are_no_recipe(tmp_path, text, expected, message_of):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    message = message_of(path)
    assert message.startswith(str(path))
    assert expected in message


def test_unreadable_files(tmp_path, base_recipe, message_of):
    (tmp_path / "other.yaml").write_text(base_recipe)
    assert "no such recipe file; there are other.yaml" in message_of(tmp_path / "missing.yaml")
    assert "this is a folder" in message_of(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nsource: caf\xe9\n")
    assert "line 2: byte 0xe9 is not UTF-8" in message_of(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("1E-4", 1e-4), ("2.5e-4", 2.5e-4), ("'1e-4'", 1e-4), ("1", 1.0)]
)
def test_learning_rates_as_people_write_them(write_recipe, written, value, base_recipe):
    recipe = load_recipe(
        write_recipe(base_recipe.replace("transfer: {}", f"  learning_rate: {written}\ntransfer: {{}}"))
    )
    assert recipe.adapt is not None
    assert recipe.adapt.learning_rate == value


@pytest.mark.parametrize(("written", "value"), [("2e6", 2_000_000), ("2_000_000", 2_000_000), ("2.5e3", 2500)])
def test_token_budgets_as_people_write_them(write_recipe, written, value, base_recipe):
    recipe = load_recipe(write_recipe(base_recipe.replace("{steps: 100}", f"{{tokens: {written}}}")))
    assert recipe.adapt is not None
    assert recipe.adapt.budget.tokens == value


def test_quoted_no_is_norwegian_and_booleans_stay_booleans(write_recipe, base_recipe):
    text = base_recipe.replace("lang: uk", "lang: 'no'") + "adapt_target: {budget: {steps: 1}, permute_sentences: no}\n"
    recipe = load_recipe(write_recipe(text))
    assert recipe.text is not None
    assert recipe.text.lang == "no"
    assert recipe.adapt_target is not None
    assert recipe.adapt_target.permute_sentences is False


def test_byte_order_mark_and_merge_keys(tmp_path, base_recipe):
    path = tmp_path / "r.yaml"
    text = base_recipe.replace("{steps: 100}", "&b {steps: 100}").replace("budget:\n    epochs: 2", "budget: {<<: *b}")
    path.write_text("\ufeff" + text, encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.finetune.budget.steps == 100

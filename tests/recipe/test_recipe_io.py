"""Reading, changing and writing recipes: overrides, arms, plain data, dumps."""

from __future__ import annotations

import pytest

from polygraft.errors import RecipeError
from polygraft.objectives import Denoising
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes, dump_recipe, json_schema, load_recipe, parse_recipe
from polygraft.recipe.yaml import read_yaml
from polygraft.settings import Bottleneck, Budget, Lora
from polygraft.transfers.methods import EmbeddingsTransfer, EncoderTransfer

OVERRIDES = {
    "number": (["adapt.learning_rate=1e-4"], lambda r: r.adapt.learning_rate, 1e-4),
    "stage out": (["arms={}", "verdict=null", "adapt=null"], lambda r: r.adapt, None),
    "list": (["seeds=[1,2,3]"], lambda r: r.seeds, [1, 2, 3]),
    "a section that was not there": (["adapt_target.budget.steps=5"], lambda r: r.adapt_target.budget.steps, 5),
    "another budget unit replaces the first": (["adapt.budget.tokens=2e6"], lambda r: r.adapt.budget.unit, "tokens"),
    "whole section": (["adapt={budget: {minutes: 1}}"], lambda r: r.adapt.budget.minutes, 1),
    "value with an equals sign": (["text.train_file=a=b.txt"], lambda r: r.text.train_file, "a=b.txt"),
    "inside an arm": (["arms.detour.adapt.weight_decay=0.5"], lambda r: r.arms["detour"]["adapt"]["weight_decay"], 0.5),
    "Norwegian": (["text.lang=no"], lambda r: r.text.lang, "no"),
    "an arm out": (["arms.plain=null", "verdict=null"], lambda r: list(r.arms), ["detour"]),
}


@pytest.mark.parametrize(("overrides", "get", "expected"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides(write_recipe, overrides, get, expected, base_recipe, base_arms):
    assert get(load_recipe(write_recipe(base_recipe + base_arms), overrides)) == expected


BAD_OVERRIDES = {
    "misspelt key": ("adapt.learning_rat=1", "--set adapt.learning_rat=1: no such key; did you mean `learning_rate`?"),
    "misspelt section": ("adpt.learning_rate=1", "--set adpt.learning_rate=1: no such key; did you mean `adapt`?"),
    "misspelt arm": ("arms.detuor.adapt=null", "--set arms.detuor.adapt=null: no such key; did you mean `detour`?"),
    "misspelt key in an arm": ("arms.detour.adpt=1", "--set arms.detour.adpt=1: no such key; did you mean `adapt`?"),
    "below a value": ("name.first=x", "--set name.first=x: no such key; this is a value, not a section"),
    "no value": ("adapt.learning_rate=", "--set adapt.learning_rate=: give a value after `=`"),
    "no key": ("=3", "--set =3: write key=value"),
    "no equals sign": ("adapt", "--set adapt: write key=value"),
    "broken value": ("seeds=[1,2", "--set seeds=[1,2: the value is not YAML"),
    "wrong type": ("adapt.learning_rate=fast", "--set adapt.learning_rate=fast: must be a number"),
    "wrong unit": ("adapt.budget.epochs=-1", "--set adapt.budget.epochs=-1: must be greater than 0"),
    "truth for a word": ("text.lang=true", "--set text.lang=true: YAML reads this as true; put the word in quotes"),
    "inside the value": (
        "adapt={budget: {steps: 1}, x: 2}",
        "--set adapt={budget: {steps: 1}, x: 2}: adapt.x = 2: no such key",
    ),
}


@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_bad_overrides(write_recipe, override, expected, base_recipe, base_arms, message_of):
    path = write_recipe(base_recipe + base_arms)
    assert message_of(path, (override,)).startswith(f"{path}: {expected}")


def test_arms_are_merged_key_by_key(write_recipe, base_recipe, base_arms):
    recipe = load_recipe(write_recipe(base_recipe + base_arms))
    arms = arm_recipes(recipe)
    assert list(arms) == ["plain", "detour"]
    plain, detour = arms["plain"], arms["detour"]
    assert plain.adapt is None
    assert plain.transfer is None
    assert plain.finetune == recipe.finetune
    assert detour.adapt is not None
    assert recipe.adapt is not None
    assert detour.adapt == recipe.adapt.model_copy(update={"learning_rate": 1e-3})
    assert all(arm.arms == {} and arm.verdict is None for arm in arms.values())


def test_a_budget_in_an_arm_replaces_the_unit(write_recipe, base_recipe, base_arms):
    recipe = load_recipe(
        write_recipe(base_recipe + base_arms.replace("{learning_rate: 1e-3}", "{budget: {tokens: 500}}"))
    )
    detour = arm_recipes(recipe)["detour"]
    assert detour.adapt is not None
    assert (detour.adapt.budget.unit, detour.adapt.budget.amount) == ("tokens", 500.0)


def test_a_common_budget_is_one_for_all_arms_and_an_arm_may_have_its_own(write_recipe, base_recipe):
    recipe = base_recipe + "adaptation_budget: {flops: 1e9}\nadapt_target: {mask_ratio: 0.3}\n"
    arms = """arms:
  detour: {}
  direct: {adapt: null, transfer: null, adaptation_budget: {tokens: 500}}
  plain: {adapt: null, transfer: null, adapt_target: null}
  own: {adaptation_budget: null, adapt_target: {budget: {epochs: 1}}}
"""
    loaded = load_recipe(write_recipe(recipe + arms), ["adaptation_budget.minutes=3"])
    merged = arm_recipes(loaded)
    totals = [(b.unit, b.amount) if (b := arm.adaptation_budget) else None for arm in merged.values()]
    assert totals == [("minutes", 3), ("tokens", 500), ("minutes", 3), None]
    assert [arm.adapt_target and arm.adapt_target.budget for arm in merged.values()] == [
        None,
        None,
        None,
        Budget(epochs=1),
    ]
    assert parse_recipe(read_yaml(dump_recipe(loaded))[0], "again") == loaded


def test_another_kind_of_adapter_in_an_arm_replaces_it(write_recipe, base_recipe):
    recipe = base_recipe.replace("{steps: 100}", "{steps: 100}\n  adapter: {type: lora, r: 4}")
    arms = """arms:
  same: {adapt: {adapter: {lora_alpha: 8}}}
  other: {adapt: {adapter: {type: bottleneck}}}
  none: {adapt: {adapter: null}}
"""
    merged = arm_recipes(load_recipe(write_recipe(recipe + arms), ["finetune.adapter.type=bottleneck"]))
    assert [arm.adapt.adapter for arm in merged.values()] == [Lora(r=4, lora_alpha=8), Bottleneck(), None]
    assert merged["none"].finetune.adapter == Bottleneck()


def test_another_method_in_an_arm_replaces_the_transfer(write_recipe, base_recipe):
    recipe = base_recipe.replace("transfer: {}", "transfer: {ridge_lambda: 0.5}")
    arms = """arms:
  same: {transfer: {mode: recentre}, adapt: null}
  named: {transfer: {method: embeddings, alpha: 2}}
  other: {transfer: {method: encoder, control: random}, warm_up: {budget: {steps: 5}}}
"""
    merged = arm_recipes(load_recipe(write_recipe(recipe + arms)))
    assert [arm.transfer for arm in merged.values()] == [
        EmbeddingsTransfer(mode="recentre", ridge_lambda=0.5),
        EmbeddingsTransfer(alpha=2, ridge_lambda=0.5),
        EncoderTransfer(control="random"),
    ]
    assert merged["other"].warm_up.learning_rate == 10 * Denoising(budget={"steps": 1}).learning_rate


def test_without_arms_the_recipe_is_its_only_arm(write_recipe, base_recipe):
    recipe = load_recipe(write_recipe(base_recipe))
    assert arm_recipes(recipe) == {"main": recipe}


def test_an_arm_with_nothing_below_it_changes_nothing(write_recipe, base_recipe):
    recipe = load_recipe(write_recipe(base_recipe + "arms:\n  whole:\n  plain: {adapt: null, transfer: null}\n"))
    assert arm_recipes(recipe)["whole"].adapt == recipe.adapt


def test_recipes_built_in_python_are_checked_too(base_data):
    recipe = Recipe.model_validate(base_data | {"arms": {"detour": {"adapt": {"learning_rte": 1}}}})
    with pytest.raises(
        RecipeError, match=r"recipe demo: arms\.detour\.adapt\.learning_rte = 1: no such key; did you mean"
    ):
        arm_recipes(recipe)
    with pytest.raises(RecipeError, match="its result is not used"):
        arm_recipes(Recipe.model_validate(base_data | {"transfer": None}))


def test_parse_recipe_reads_numeric_strings_and_odd_keys(base_data):
    recipe = parse_recipe(base_data | {"finetune": {"budget": {"steps": "3"}, "learning_rate": "1e-4"}}, "here")
    assert (recipe.finetune.learning_rate, recipe.finetune.budget.steps) == (1e-4, 3)
    with pytest.raises(RecipeError, match="here: 1: keys must be words"):
        parse_recipe(base_data | {1: 2}, "here")


def test_dump_and_load_are_inverse(write_recipe, tmp_path, base_recipe, base_arms):
    text = base_recipe.replace("lang: uk", "lang: 'no'").replace("name: demo", "name: '1e4'") + base_arms
    recipe = load_recipe(write_recipe(text), ["seeds=[3, 4]", "finetune.budget.flops=1e15", "output_dir='résultats'"])
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "dumped.yaml")
    assert again == recipe
    assert (again.name, again.finetune.budget.flops, again.output_dir) == ("1e4", 1e15, "résultats")
    assert arm_recipes(again) == arm_recipes(recipe)
    assert "  per_device_train_batch_size: 16\n" in dump_recipe(recipe)  # defaults are written out


def test_lists_of_files(write_recipe, base_recipe, message_of):
    text = base_recipe.replace("train_file: text.txt", "train_file: [a.txt, 'more/*.csv']")
    recipe = load_recipe(write_recipe(text.replace("test_file: test.jsonl", "test_file: [test.jsonl]")))
    assert (recipe.text.train_file, recipe.pairs.test_file) == (("a.txt", "more/*.csv"), "test.jsonl")
    assert load_recipe(write_recipe(dump_recipe(recipe))) == recipe
    parallel = load_recipe(write_recipe(base_recipe.replace("train_file: train.jsonl", "train_file: train.{en,uk}")))
    assert parallel.pairs.train_file == "train.{en,uk}"
    for wrong, said in [("[]", "a list of names"), ("[3]", "a list of names"), ("3", 'put it in quotes: "3"')]:
        found = message_of(write_recipe(base_recipe.replace("train_file: text.txt", f"train_file: {wrong}")))
        assert found.count("text.train_file") == 1
        assert said in found
    kinds = json_schema()["$defs"]["TextData"]["properties"]["train_file"]["anyOf"]
    assert [kind["type"] for kind in kinds] == ["string", "array"]

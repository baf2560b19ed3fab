"""Recipes: what is accepted, what is reported and where, how overrides and arms change a recipe."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from polygraft.errors import RecipeError
from polygraft.recipe import Recipe
from polygraft.recipe_io import arm_recipes, dump_recipe, json_schema, load_recipe, parse_recipe

BASE = """\
name: demo
source: polygraft/nano-xlmr
text:
  train_file: text.txt
  lang: uk
pairs:
  train_file: train.jsonl
  test_file: test.jsonl
adapt:
  budget: {steps: 100}
transfer: {}
finetune:
  budget:
    epochs: 2
"""
ARMS = """\
arms:
  plain: {adapt: null, transfer: null}
  detour:
    adapt: {learning_rate: 1e-3}
verdict: {treatment: detour, control: plain}
"""


@pytest.fixture
def write(tmp_path):
    def _write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return _write


def message_of(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, list(overrides))
    return str(caught.value)


def base_data(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(BASE), **changes}


# What is wrong (old text, new text), and exactly what is said of it. Line numbers count in the changed BASE.
ONE_PROBLEM = {
    "unknown key, nearest": (
        ("lang: uk", "lagn: uk"),
        "line 5: text.lagn = uk: no such key; did you mean `lang`?",
    ),
    "unknown key, another section's": (
        ("adapt:\n", "adapt:\n  epochs: 3\n"),
        "line 10: adapt.epochs = 3: no such key here; valid as `adapt.budget.epochs`",
    ),
    "unknown key, nothing near": (
        ("transfer: {}", "transfer: {zzz: 1}"),
        "line 11: transfer.zzz = 1: no such key; valid here: method, mode, ridge_lambda, alpha, shrinkage_count",
    ),
    "missing section": (
        ("finetune:\n  budget:\n    epochs: 2\n", ""),
        "line 1: finetune: is missing (Stage 3: fine-tuning on the pairs)",
    ),
    "missing key, at the line of its section": (
        ("  budget: {steps: 100}", "  weight_decay: 0.1"),
        "line 9: adapt.budget: is missing (How long to train)",
    ),
    "two budget units": (
        ("{steps: 100}", "{steps: 100, tokens: 5}"),
        "line 10: adapt.budget: give exactly one of epochs, steps, tokens, minutes, flops; got steps and tokens",
    ),
    "no budget unit": (
        ("{steps: 100}", "{}"),
        "line 10: adapt.budget: give exactly one of epochs, steps, tokens, minutes, flops; got none",
    ),
    "budget without a unit": (
        ("{steps: 100}", "100"),
        "line 10: adapt.budget = 100: must be a section with keys of its own: epochs, steps, tokens, minutes, flops",
    ),
    "not a number": (("{steps: 100}", "{steps: many}"), "line 10: adapt.budget.steps = many: must be a whole number"),
    "a fraction of a step": (
        ("steps: 100", "steps: 1e-4"),
        "line 10: adapt.budget.steps = 1e-4: must be a whole number",
    ),
    "truth for a number": (("epochs: 2", "epochs: yes"), "line 14: finetune.budget.epochs = yes: must be a number"),
    "out of range": (("epochs: 2", "epochs: -2"), "line 14: finetune.budget.epochs = -2: must be greater than 0"),
    "infinite": (("epochs: 2", "epochs: .inf"), "line 14: finetune.budget.epochs = .inf: must be a finite number"),
    "choice": (
        ("transfer: {}", "transfer: {mode: repare}"),
        "line 11: transfer.mode = repare: must be repair or recentre or delta; did you mean `repair`?",
    ),
    "Norwegian": (
        ("lang: uk", "lang: no"),
        'line 5: text.lang = no: YAML reads this as false; put the word in quotes: "no"',
    ),
    "number for a word": (("name: demo", "name: 2024"), 'line 1: name = 2024: must be text; put it in quotes: "2024"'),
    "date for a word": (
        ("name: demo", "name: 2024-05-01"),
        'line 1: name = 2024-05-01: must be text; put it in quotes: "2024-05-01"',
    ),
    "name is a path": (
        ("name: demo", "name: ../demo"),
        "line 1: name = ../demo: must be a folder name: letters, digits, `-`, `_` and `.`",
    ),
    "section left empty": (
        ("transfer: {}", "transfer:"),
        "line 11: transfer: is empty; write `null` to leave this section out, `{}` to have its defaults, or fill it in",
    ),
    "duplicate key": (
        ("  lang: uk\n", "  lang: uk\n  lang: fr\n"),
        "line 6: text.lang = fr: the same key is already on line 5; keep one of them",
    ),
    "seeds not a list": (
        ("name: demo", "name: demo\nseeds: 3"),
        "line 2: seeds = 3: must be a list, in brackets, with commas",
    ),
    "duplicate seeds": (
        ("name: demo", "name: demo\nseeds: [1, 2, 1]"),
        "line 2: seeds.2 = 1: the same seed twice would count one run as two",
    ),
    "no seeds": (("name: demo", "name: demo\nseeds: []"), "line 2: seeds = []: give at least one seed"),
    "negative seed": (
        ("name: demo", "name: demo\nseeds: [-1]"),
        "line 2: seeds.0 = -1: must be between 0 and 4294967295",
    ),
    "adapt not followed by transfer": (
        ("transfer: {}\n", ""),
        "line 9: adapt: its result is not used: add `transfer`, or leave `adapt` out",
    ),
    "adapt before recentre": (
        ("transfer: {}", "transfer: {mode: recentre}"),
        "line 9: adapt: its result is not used: transfer mode `recentre` takes nothing from the source",
    ),
    "delta without adapt": (
        ("adapt:\n  budget: {steps: 100}\ntransfer: {}", "transfer: {mode: delta}"),
        "line 9: transfer.mode = delta: needs `adapt`: it moves what adaptation changed in the source",
    ),
    "no test file": (
        ("  test_file: test.jsonl\n", ""),
        "line 6: pairs.test_file: is missing: `evaluate` needs pairs that training never sees",
    ),
    "verdict without arms": (
        ("name: demo", "name: demo\nverdict: {treatment: main, control: direct}"),
        "line 2: verdict.control = direct: no such arm; arms: main",
    ),
}


@pytest.mark.parametrize(("change", "expected"), ONE_PROBLEM.values(), ids=ONE_PROBLEM)
def test_one_problem_is_located_and_explained(write, change, expected):
    assert change[0] in BASE
    path = write(BASE.replace(change[0], change[1], 1))
    assert message_of(path).startswith(f"{path}: {expected}")


ARM_PROBLEMS = {
    "misspelt key in an arm": (
        ("learning_rate: 1e-3", "learning_rte: 1e-3"),
        ["line 18: arms.detour.adapt.learning_rte = 1e-3: no such key; did you mean `learning_rate`?"],
    ),
    "arm leaves the transfer out": (
        ("adapt: {learning_rate: 1e-3}", "transfer: null"),
        ["line 17: arms.detour.adapt: its result is not used: add `transfer`, or leave `adapt` out"],
    ),
    "arm takes the source away": (
        ("adapt: {learning_rate: 1e-3}", "source: null"),
        [
            "line 17: arms.detour.adapt: needs `source`, the masked language model that it trains",
            "line 17: arms.detour.transfer.mode = repair: needs `source`, the model to transfer from",
        ],
    ),
    "arm adds a stage without its budget": (
        ("adapt: {learning_rate: 1e-3}", "adapt_target: {mask_ratio: 0.3}"),
        ["line 18: arms.detour.adapt_target.budget: is missing (How long to train)"],
    ),
    "arm changes what all share": (
        ("adapt: {learning_rate: 1e-3}", "seeds: [4]"),
        ["line 18: arms.detour.seeds = [4]: is the same in all arms: set it at the top of the recipe"],
    ),
    "arm is no section": (
        ("\n    adapt: {learning_rate: 1e-3}", " 3"),
        ["line 17: arms.detour = 3: must be a section with keys of its own: name, output_dir, seeds"],
    ),
    "arm names": (
        ("  plain: {", "  ../up: {}\n  Plain: {}\n  plain: {"),
        [
            "line 16: arms.../up: an arm's name must be a folder name: letters, digits, `-` and `_`",
            "line 18: arms.plain: differs from arm `Plain` in capitals only; some disks take them for one folder",
        ],
    ),
    "verdict's arm misspelt": (
        ("treatment: detour", "treatment: detuor"),
        ["line 19: verdict.treatment = detuor: no such arm; did you mean `detour`?"],
    ),
    "verdict of an arm against itself": (
        ("control: plain", "control: detour"),
        ["line 19: verdict.control = detour: must be another arm than the treatment"],
    ),
    "what all arms inherit is said once, where it is written": (
        ("  test_file: test.jsonl\n", ""),
        ["line 6: pairs.test_file: is missing: `evaluate` needs pairs that training never sees"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), ARM_PROBLEMS.values(), ids=ARM_PROBLEMS)
def test_problems_of_arms_are_located_in_the_arm(write, change, expected):
    assert change[0] in BASE + ARMS
    message = message_of(write((BASE + ARMS).replace(change[0], change[1], 1)))
    lines = message.split(": ", 1)[1].splitlines() if len(expected) == 1 else message.splitlines()[1:]
    assert len(lines) >= len(expected)
    for line in expected:
        assert any(found.strip().startswith(line) for found in lines), message


def test_a_mistake_of_the_base_is_not_repeated_for_every_arm(write):
    message = message_of(write((BASE + ARMS).replace("epochs: 2", "epochs: -2")))
    assert message.count("must be greater than 0") == 1
    assert "arms" not in message


def test_all_problems_are_listed_at_once_in_the_order_of_the_file(write):
    text = BASE.replace("name: demo", "name: a b").replace("lang: uk", "lagn: uk").replace("epochs: 2", "epochs: -2")
    message = message_of(write(text), ("adapt.learning_rate=fast", "nonsense"))
    first, *rest = message.splitlines()
    assert first.endswith("r.yaml: 5 problems")
    starts = ["line 1: name", "line 5: text.lagn", "line 14: finetune.budget.epochs"]
    assert [line.strip().startswith(start) for line, start in zip(rest, starts, strict=False)] == [True] * 3
    assert "  --set adapt.learning_rate=fast: must be a number" in rest
    assert any(line.startswith("  --set nonsense: write key=value") for line in rest)


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
    "two documents": (BASE + "---\nname: y\n", "a recipe is one document"),
    "refers to itself": ("name: &a [*a]\n", "line 1: name.0: refers to itself"),
    "control character": ("name: x\nsource: a\x01\n", "line 2: U+0001: is a character that YAML forbids"),
    "impossible date": ("name: 2024-13-45\n", "quote it if it is text"),
    "too deep": ("name: " + "[" * 600 + "]" * 600, "nested too deeply"),
}


@pytest.mark.parametrize(("text", "expected"), NOT_A_RECIPE.values(), ids=NOT_A_RECIPE)
def test_files_that_are_no_recipe(tmp_path, text, expected):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    message = message_of(path)
    assert message.startswith(str(path))
    assert expected in message


def test_unreadable_files(tmp_path):
    (tmp_path / "other.yaml").write_text(BASE)
    assert "no such recipe file; there are other.yaml" in message_of(tmp_path / "missing.yaml")
    assert "this is a folder" in message_of(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nsource: caf\xe9\n")
    assert "line 2: byte 0xe9 is not UTF-8" in message_of(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("1E-4", 1e-4), ("2.5e-4", 2.5e-4), ("'1e-4'", 1e-4), ("1", 1.0)]
)
def test_learning_rates_as_people_write_them(write, written, value):
    recipe = load_recipe(write(BASE.replace("transfer: {}", f"  learning_rate: {written}\ntransfer: {{}}")))
    assert recipe.adapt is not None
    assert recipe.adapt.learning_rate == value


@pytest.mark.parametrize(("written", "value"), [("2e6", 2_000_000), ("2_000_000", 2_000_000), ("2.5e3", 2500)])
def test_token_budgets_as_people_write_them(write, written, value):
    recipe = load_recipe(write(BASE.replace("{steps: 100}", f"{{tokens: {written}}}")))
    assert recipe.adapt is not None
    assert recipe.adapt.budget.tokens == value


def test_quoted_no_is_norwegian_and_booleans_stay_booleans(write):
    text = BASE.replace("lang: uk", "lang: 'no'") + "adapt_target: {budget: {steps: 1}, permute_sentences: no}\n"
    recipe = load_recipe(write(text))
    assert recipe.text is not None
    assert recipe.text.lang == "no"
    assert recipe.adapt_target is not None
    assert recipe.adapt_target.permute_sentences is False


def test_byte_order_mark_and_merge_keys(tmp_path):
    path = tmp_path / "r.yaml"
    text = BASE.replace("{steps: 100}", "&b {steps: 100}").replace("budget:\n    epochs: 2", "budget: {<<: *b}")
    path.write_text("\ufeff" + text, encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.finetune.budget.steps == 100


OVERRIDES = {
    "number": (["adapt.learning_rate=1e-4"], lambda r: r.adapt.learning_rate, 1e-4),
    "stage out": (["arms={}", "verdict=null", "adapt=null"], lambda r: r.adapt, None),
    "list": (["seeds=[1,2,3]"], lambda r: r.seeds, [1, 2, 3]),
    "a section that was not there": (["adapt_target.budget.steps=5"], lambda r: r.adapt_target.budget.steps, 5),
    "another budget unit replaces the first": (["adapt.budget.tokens=2e6"], lambda r: r.adapt.budget.unit, "tokens"),
    "whole section": (["adapt={budget: {minutes: 1}}"], lambda r: r.adapt.budget.minutes, 1),
    "later wins": (["name=a", "name=b"], lambda r: r.name, "b"),
    "value with an equals sign": (["text.train_file=a=b.txt"], lambda r: r.text.train_file, "a=b.txt"),
    "inside an arm": (["arms.detour.adapt.weight_decay=0.5"], lambda r: r.arms["detour"]["adapt"]["weight_decay"], 0.5),
    "an arm out": (["arms.plain=null", "verdict=null"], lambda r: list(r.arms), ["detour"]),
}


@pytest.mark.parametrize(("overrides", "get", "expected"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides(write, overrides, get, expected):
    assert get(load_recipe(write(BASE + ARMS), overrides)) == expected


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
    "Norwegian": ("text.lang=no", '--set text.lang=no: YAML reads this as false; put the word in quotes: "false"'),
    "inside the value": (
        "adapt={budget: {steps: 1}, x: 2}",
        "--set adapt={budget: {steps: 1}, x: 2}: adapt.x = 2: no such key",
    ),
}


@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_bad_overrides(write, override, expected):
    path = write(BASE + ARMS)
    assert message_of(path, (override,)).startswith(f"{path}: {expected}")


def test_arms_are_merged_key_by_key(write):
    recipe = load_recipe(write(BASE + ARMS))
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


def test_a_budget_in_an_arm_replaces_the_unit(write):
    recipe = load_recipe(write(BASE + ARMS.replace("{learning_rate: 1e-3}", "{budget: {tokens: 500}}")))
    detour = arm_recipes(recipe)["detour"]
    assert detour.adapt is not None
    assert (detour.adapt.budget.unit, detour.adapt.budget.amount) == ("tokens", 500.0)


def test_without_arms_the_recipe_is_its_only_arm(write):
    recipe = load_recipe(write(BASE))
    assert arm_recipes(recipe) == {"main": recipe}


def test_an_arm_with_nothing_below_it_changes_nothing(write):
    recipe = load_recipe(write(BASE + "arms:\n  whole:\n  plain: {adapt: null, transfer: null}\n"))
    assert arm_recipes(recipe)["whole"].adapt == recipe.adapt


def test_recipes_built_in_python_are_checked_too():
    recipe = Recipe.model_validate(base_data(arms={"detour": {"adapt": {"learning_rte": 1}}}))
    with pytest.raises(
        RecipeError, match=r"recipe demo: arms\.detour\.adapt\.learning_rte = 1: no such key; did you mean"
    ):
        arm_recipes(recipe)
    with pytest.raises(RecipeError, match="its result is not used"):
        arm_recipes(Recipe.model_validate(base_data(transfer=None)))


MISSING_NEEDS = {
    "adapt without source or text": (
        {"source": None, "text": None, "transfer": {"mode": "recentre"}},
        ["adapt: needs `source`", "adapt: needs `text`", "adapt: its result is not used"],
    ),
    "repair without source": ({"source": None, "adapt": None}, ["transfer.mode = repair: needs `source`"]),
    "delta without source": (
        {"source": None, "adapt": None, "transfer": {"mode": "delta"}},
        ["transfer.mode = delta: needs `source`", "transfer.mode = delta: needs `adapt`"],
    ),
    "adapt_target without text": (
        {"text": None, "adapt": None, "adapt_target": {"budget": {"steps": 1}}},
        ["adapt_target: needs `text`"],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), MISSING_NEEDS.values(), ids=MISSING_NEEDS)
def test_stages_need_their_inputs(changes, expected):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(base_data(**changes), "here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert all(part in message for part in expected)
    assert message.count("needs") + message.count("not used") == len(expected)


def test_recentre_needs_no_source():
    data = base_data(adapt=None, transfer={"mode": "recentre"})
    del data["source"]
    assert parse_recipe(data, "here").source is None


def test_parse_recipe_reads_numeric_strings_and_odd_keys():
    recipe = parse_recipe(base_data(finetune={"budget": {"steps": "3"}, "learning_rate": "1e-4"}), "here")
    assert (recipe.finetune.learning_rate, recipe.finetune.budget.steps) == (1e-4, 3)
    with pytest.raises(RecipeError, match="here: 1: keys must be words"):
        parse_recipe({**base_data(), 1: 2}, "here")  # type: ignore[dict-item]


def test_dump_and_load_are_inverse(write, tmp_path):
    text = BASE.replace("lang: uk", "lang: 'no'").replace("name: demo", "name: '1e4'") + ARMS
    recipe = load_recipe(write(text), ["seeds=[3, 4]", "finetune.budget.flops=1e15", "output_dir='résultats'"])
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "dumped.yaml")
    assert again == recipe
    assert (again.name, again.finetune.budget.flops, again.output_dir) == ("1e4", 1e15, "résultats")
    assert arm_recipes(again) == arm_recipes(recipe)
    assert (
        yaml.safe_load(dump_recipe(recipe))["finetune"]["per_device_train_batch_size"] == 16
    )  # defaults are written out


def test_schema_has_every_field_with_its_docstring():
    schema = json.loads(json.dumps(json_schema()))
    sections = [schema, *schema["$defs"].values()]
    assert {
        "Budget",
        "MLM",
        "Denoising",
        "TextData",
        "PairData",
        "Embeddings",
        "Finetune",
        "Evaluate",
        "Verdict",
    } <= set(schema["$defs"])
    for section in sections:
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert len(field.get("description", "")) > 8, f"{section['title']}.{name} has no docstring"
    assert schema["$defs"]["MLM"]["properties"]["learning_rate"]["description"] == "Peak learning rate of AdamW."

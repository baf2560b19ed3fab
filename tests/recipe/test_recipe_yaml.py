"""Recipes as people write them in YAML, and files that are no recipe."""

from __future__ import annotations

import math
import random
import re

import pytest
import yaml

from polygraft.recipe.reading import load_recipe
from polygraft.recipe.yaml import MAX_DEPTH, MAX_VALUES, dump_yaml, read_yaml

# Where YAML 1.1 (PyYAML) and 1.2 differ, or where people expect them to: written, read by 1.1, read by us.
TRAPS = [
    ("no", False, "no"),
    ("No", False, "No"),
    ("yes", True, "yes"),
    ("on", True, "on"),
    ("OFF", False, "OFF"),
    ("y", "y", "y"),
    ("true", True, True),
    ("True", True, True),
    ("FALSE", False, False),
    ("null", None, None),
    ("~", None, None),
    ("", None, None),
    ("NULL", None, None),
    ("None", "None", "None"),
    ("1e-4", "1e-4", 1e-4),
    ("1E-4", "1E-4", 1e-4),
    ("2e6", "2e6", 2e6),
    ("2.5e3", "2.5e3", 2500.0),
    ("1.e+2", 100.0, 100.0),
    ("-1e3", "-1e3", -1000.0),
    ("1e", "1e", "1e"),
    ("010", 8, 10),
    ("0o10", "0o10", 8),
    ("0x10", 16, 16),
    ("08", "08", 8),
    ("1_000", 1000, 1000),
    ("+5", 5, 5),
    ("1:30", 90, "1:30"),
    ("20:30:40", 73840, "20:30:40"),
    (".inf", math.inf, math.inf),
    ("-.INF", -math.inf, -math.inf),
    ("inf", "inf", "inf"),
    ("1.0", 1.0, 1.0),
    ("1.0.0", "1.0.0", "1.0.0"),
    ("'no'", "no", "no"),
    ('"1e-4"', "1e-4", "1e-4"),
    ("a=b", "a=b", "a=b"),
    ("a#b", "a#b", "a#b"),
    ("a:b", "a:b", "a:b"),
    ("[no, 1e-4, 1:30]", [False, "1e-4", 90], ["no", 1e-4, "1:30"]),
    ("{a: no}", {"a": False}, {"a": "no"}),
]


@pytest.mark.parametrize(("written", "by_11", "value"), TRAPS)
def test_yaml_is_1_2(written, by_11, value):
    data, lines, doubts = read_yaml(f"key: {written}\n")
    assert (repr(data), doubts) == (repr({"key": value}), [])  # by repr: 1 is True, and 2e6 is 2000000
    assert repr(yaml.safe_load(f"key: {written}\n")) == repr({"key": by_11})
    assert lines.written(("key",)) == (None if isinstance(value, list | dict) else written.strip("'\""))


# 1.1 reads dates and refuses impossible ones; `=` and `<<` mean something there.
@pytest.mark.parametrize("written", ["2024-05-01", "2024-13-45", "2024-05-01 10:20:30", "=", "<<"])
def test_what_only_yaml_1_1_gives_a_meaning_is_text(written):
    assert read_yaml(f"key: {written}\n")[0] == {"key": written}


def test_what_is_written_is_read_back():
    odd = [
        "日本",
        "😀",
        "a\nb\n",
        " a",
        "a\t",
        "\u2028",
        "\x7f",
        "# a",
        "!a",
        "*",
        "a: b",
        "---",
        "%YAML",
        "x " * 99,
        "=",
        "<<",
        "2024-05-01",
    ]
    texts = [written for written, _, _ in TRAPS] + odd
    numbers = [1e-4, 1e-7, 1e15, 1e16, 1e300, -2.5e-9, 0.1, 5e-324, 0, -3, 10**20, math.inf]
    data = {"texts": texts, "numbers": numbers, "rest": [None, True, False, [], {}, [[1]], {"a": {"no": "yes"}}]}
    data |= dict.fromkeys(texts, 1) | {"twice": [data["rest"]] * 2}
    draw = random.Random(1)
    data["drawn"] = ["".join(draw.choices("01eE_.:+-xonN~ '\"#é", k=draw.randrange(1, 6))) for _ in range(500)]
    written = dump_yaml(data)
    again, _, doubts = read_yaml(written)
    assert (repr(again), doubts) == (repr(data), [])  # in this order too
    assert repr(yaml.safe_load(written)) == repr(data)  # by YAML 1.1, too
    assert "&" not in written.replace("'&'", "")


BOMBS = {
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
    "list": f"a: &a [{'x, ' * 250}]\nb: [{'*a, ' * (MAX_VALUES // 250)}]\n",
}
DEEP = {
    "brackets": "a: " + "[" * 2_000,
    "braces": "a: " + "{a: " * 2_000,
    "indentation": "".join(f"{'  ' * depth}a:\n" for depth in range(MAX_DEPTH + 9)),
    "aliases": "a0: &a0 1\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}}}\n" for n in range(1, MAX_DEPTH + 9)),
}


@pytest.mark.parametrize(
    ("text", "said"), [*((t, "50,000 values") for t in BOMBS.values()), *((t, "too deep") for t in DEEP.values())]
)
def test_bombs_are_refused(text, said):
    data, lines, (doubt,) = read_yaml(text)
    assert (data, lines.line(())) == (None, None)
    assert said in doubt.reason
    assert len(doubt.value) <= 120


MERGED = """\
base: &base {steps: 1, rate: 2}
other: &other
  rate: 3
  extra: {deep: no}
own: {rate: 4, <<: *base}
both:
  <<: [*base, *other]
  steps: 5
"""


def test_merge_keys_and_where_their_values_are_written():
    data, lines, doubts = read_yaml(MERGED)
    by_pyyaml = yaml.safe_load(MERGED)
    by_pyyaml["other"]["extra"]["deep"] = "no"  # the same section in both
    assert (data, doubts) == (by_pyyaml, [])
    paths = {"own": 5, "own.rate": 5, "own.steps": 1, "both": 6, "both.steps": 8, "both.rate": 1, "both.extra.deep": 4}
    assert {path: lines.line(tuple(path.split("."))) for path in paths} == paths
    assert lines.line(("own", "rate", "none")) == 5
    assert lines.written(("both", "extra", "deep")) == "no"
    assert lines.written(("both", "extra")) is None is lines.written(("none",))


def test_all_repeated_keys_are_found_at_once():
    data, _, doubts = read_yaml("a: 1\nb:\n  - {c: 1, c: 2}\na: [3]\nb: {1: x, 0x1: y}\n")
    assert data == {"a": [3], "b": {1: "y"}}
    found = [(".".join(doubt.path), doubt.line, doubt.value) for doubt in doubts]
    assert found == [("b.0.c", 3, "2"), ("a", 4, None), ("b", 5, None), ("b.1", 5, "y")]
    assert [int(re.findall(r"already on line (\d+);", doubt.reason)[0]) for doubt in doubts] == [3, 1, 2, 5]


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
    "refers to itself": ("name: &a [*a]\n", "line 1: name: &a [*a]: refers to itself; remove the `*` alias"),
    "merges itself": ("name: &a {<<: *a}\n", "refers to itself"),
    "merges a number": ("name: {<<: 3}\n", "line 1: name: {<<: 3}: `<<` takes a section"),
    "tag of YAML's own": ("x: 1\nname: !!str 3\n", "line 2: name: !!str 3: uses a YAML tag (`!…`); recipes are plain"),
    "written out tag": ("name: !<tag:x> 3\n", "uses a YAML tag"),
    "another version": ("# x\n%YAML 1.1\n---\nname: no\n", "line 2: %YAML 1.1: leave this line out"),
    "a pattern": ("text: {train_file: *.txt}\n", "`*` starts the name of an anchor, and there is none such; quote"),
    "an e-mail": ("name: @x\n", "line 1: name: @x: is not YAML: no value starts with such a character; quote it"),
    "a template": ("name: {{ name }}\n", "line 1: name: {{ name }}: a key must be a word, not a list or a section"),
    "no number": ("x: 1\nname: -_\n", "line 2: name: -_: cannot be read as a number; quote it if it is text"),
    "too long a number": (f"x: {'1' * 5000}\n", "cannot be read as a number"),
    "control character": ("name: x\nsource: a\x01\n", "line 2: U+0001: is a character that YAML forbids"),
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


@pytest.mark.parametrize("norwegian", ["no", "'no'"])
def test_no_is_norwegian_and_where_only_a_truth_will_do_it_is_one(write_recipe, base_recipe, norwegian):
    text = (
        base_recipe.replace("lang: uk", f"lang: {norwegian}")
        + "adapt_target: {budget: {steps: 1}, permute_sentences: no}\n"
    )
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

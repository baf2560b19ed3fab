"""The text of a recipe: what is written is read back, by readers of YAML 1.1 and 1.2 alike, and lines end in time."""

from __future__ import annotations

import pytest
import yaml as yaml_1_1

from polygraft.drafting.writing import WIDTH, RecipeLine, render, value_text
from polygraft.recipe.yaml import read_yaml

VALUES = [
    "uk", "no", "on", "Yes", "null", "~", "1e3", "0x1f", "1:30", "data/a b.jsonl", "data/train.{en,uk}", "a: b", "#x",
    "*.jsonl", "it's", 'say "x"', "текст.txt", "hf://datasets/a/b:train", "-", "", "back\\slash", "a\tb", "./x",
    "2024-05-01", "polygraft/sample/uk/train.parquet", 1, 3e-5, 0.001, 1.5e12, 2.5e13, 1e-4, 10.0, 0.05, True, None,
    [1, 2, 3],
    ["a.jsonl", "no", "b c.jsonl"], {"flops": 3e17}, {"be_BY": "uk_UA"}, {"type": "lora"}, {"adapt_target": None},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_read_back(value):
    text = f"key: {value_text(value)}\n"
    assert read_yaml(text)[0] == {"key": value}
    if not any(isinstance(part, float) for part in (value, *(value.values() if isinstance(value, dict) else ()))):
        assert yaml_1_1.safe_load(text) == {"key": value}  # to these 3e-5 is text


LINES = [
    RecipeLine(0, "name", "x", "why"),
    None,
    RecipeLine(0, "pairs", None, "a section"),
    RecipeLine(1, "train_file", "f" * 60, "above"),
    RecipeLine(1, "budget", {"epochs": 3.0}, "a reason that is far too long for one line, " * 5),
    RecipeLine(1, "lang", "uk", ""),
]


def test_lines():
    text = render(["head"], LINES)
    assert read_yaml(text)[0] == {"name": "x", "pairs": {"train_file": "f" * 60, "budget": {"epochs": 3}, "lang": "uk"}}
    assert max(map(len, text.splitlines())) <= WIDTH
    first, second, *_ = text.splitlines()
    assert (first, second) == ("# head", f"{'name: x':44}# why")
    assert "  # above\n  train_file: ffff" in text

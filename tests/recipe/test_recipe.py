"""The settings: every field says what it means, and data sections name the columns that they need."""

from __future__ import annotations

import json

import pytest

from polygraft.objectives import OBJECTIVES, WarmUp
from polygraft.recipe import Recipe
from polygraft.recipe.reading import json_schema
from polygraft.settings import Budget, Evaluate, Finetune, Lora, PairData, TextData, Verdict
from polygraft.transfers.methods import METHODS


def sections_in(schema):
    """Every object of a JSON schema that has a title and properties."""
    if isinstance(schema, dict):
        if "title" in schema and "properties" in schema:
            yield schema
        yield from (found for value in schema.values() for found in sections_in(value))
    elif isinstance(schema, list):
        yield from (found for value in schema for found in sections_in(value))


def test_schema_has_every_field_with_its_docstring():
    sections = {section["title"]: section for section in sections_in(json.loads(json.dumps(json_schema())))}
    wanted = (Recipe, Budget, Lora, TextData, PairData, Finetune, Evaluate, Verdict, WarmUp)
    assert {kind.__name__ for kind in (*wanted, *OBJECTIVES.values(), *METHODS.values())} <= set(sections)
    for section in sections.values():
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert len(field.get("description", "")) > 8, f"{section['title']}.{name} has no docstring"
    assert sections["MLM"]["properties"]["learning_rate"]["description"] == "Peak learning rate of AdamW."


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (TextData(train_file="t"), ["text"]),
        (TextData(train_file="t", text_column="body", lang_column="lang"), ["body", "lang"]),
        (PairData(train_file="p"), ["text", "summary"]),
        (PairData(train_file="p", source_lang_column="from", target_lang_column="to"),
         ["text", "summary", "from", "to"]),
        (PairData(train_file="p", summary_column="head", target_lang_column="to"), ["text", "head", "to"]),
    ],
)  # fmt: skip
def test_columns_that_files_must_have(data, columns):
    assert data.columns == columns

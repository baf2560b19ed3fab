"""The settings: every field says what it means, and data sections name the columns that they need."""

from __future__ import annotations

import json

import pytest

from polygraft.recipe.reading import json_schema
from polygraft.settings import PairData, TextData


def test_schema_has_every_field_with_its_docstring():
    schema = json.loads(json.dumps(json_schema()))
    sections = [schema, *schema["$defs"].values()]
    assert {
        "Budget",
        "MLM",
        "DenoisingSection",
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

"""Recipes on the bundled German sample, and files with rows of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from polygraft.data.reading import read_rows
from polygraft.recipe.reading import arm_recipes, parse_recipe

SAMPLE = "polygraft/sample/{}/{}.parquet"


@pytest.fixture(scope="session")
def arms() -> Callable[..., dict[str, Any]]:
    """The arms of a recipe on the German sample data, with some settings changed."""

    def _arms(text: dict[str, Any] | None = None, pairs: dict[str, Any] | None = None, **other: Any) -> dict[str, Any]:
        base = {f"{split}_file": SAMPLE.format("de", split) for split in ("train", "validation", "test")}
        data = {"name": "t", "target": "polygraft/nano-mbart", "finetune": {"budget": {"steps": 1}}}
        data["pairs"] = {**base, "source_lang": "de", **(pairs or {})}
        return arm_recipes(parse_recipe(data | ({"text": text} if text else {}) | other, "test"))

    return _arms


@pytest.fixture(scope="session")
def sample() -> Callable[[str, str], list[dict[str, Any]]]:
    """Rows of the bundled sample of a language."""

    def _sample(lang: str, split: str) -> list[dict[str, Any]]:
        rows = read_rows(SAMPLE.format(lang, split), ["text"] if split == "adapt" else ["text", "summary"])
        return [{key: row[key] for key in ("text", "summary") if key in row} for row in rows]

    return _sample


@pytest.fixture
def write(tmp_path) -> Callable[[str, list[Any]], str]:
    """Writes a file and returns its name: rows as JSON, strings as they are, a line each."""

    def _write(name: str, rows: list[Any]) -> str:
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return str(path)

    return _write

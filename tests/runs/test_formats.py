"""Files of another version: what docs/formats.md says becomes of them."""

from __future__ import annotations

import json

import pytest

from polygraft.data.files import RESULT_FORMAT
from polygraft.errors import DataError, RecipeError
from polygraft.recipe import VERSION
from polygraft.recipe.reading import dump_recipe, parse_recipe
from polygraft.report.files import VerdictFile, read
from polygraft.runs.records import read_record, run_stage
from polygraft.settings import Evaluate


def test_every_record_has_a_number_and_an_older_one_has_none(tmp_path):
    out = tmp_path / "arm" / "seed-1" / "evaluate"
    record = run_stage("evaluate", out, Evaluate(), [], None, lambda: {"value": 1})
    assert record["format"] == RESULT_FORMAT
    old = {key: value for key, value in record.items() if key != "format"}
    (out / "stage.json").write_text(json.dumps(old))
    assert read_record(out) == old


def test_nothing_of_a_newer_version_is_overwritten(tmp_path):
    out = tmp_path / "arm" / "seed-1" / "evaluate"
    record = run_stage("evaluate", out, Evaluate(), [], None, lambda: {"value": 1})
    newer = json.dumps(record | {"format": RESULT_FORMAT + 1})
    (out / "stage.json").write_text(newer)
    said = (
        rf"stage\.json: has format {RESULT_FORMAT + 1}, and this polygraft reads up to {RESULT_FORMAT}\..* install that"
    )
    for settings in (Evaluate(), Evaluate(num_beams=2)):
        with pytest.raises(DataError, match=said):
            run_stage("evaluate", out, settings, [], None, lambda: pytest.fail("ran"))
    assert (out / "stage.json").read_text() == newer


@pytest.mark.parametrize(
    ("found", "said"), [(99, "has format 99"), (None, "not as this version"), ("x", "has format x")]
)
def test_the_report_says_which_format_it_met(tmp_path, found, said):
    (tmp_path / "verdict.json").write_text(json.dumps({"format": found} if found else {}))
    with pytest.raises(DataError, match=rf"verdict\.json: .*{said}"):
        read(tmp_path / "verdict.json", VerdictFile)


def test_a_recipe_may_name_its_version(base_data):
    recipe = parse_recipe(base_data, "test")
    assert parse_recipe(base_data | {"version": VERSION}, "test") == recipe
    assert f"version: {VERSION}" in dump_recipe(recipe)
    with pytest.raises(RecipeError, match=rf"version = 2: is not known: this polygraft reads version {VERSION}"):
        parse_recipe(base_data | {"version": 2}, "test")
    with pytest.raises(RecipeError, match="is the same in all arms"):
        parse_recipe(base_data | {"arms": {"a": {"version": 1}, "b": {}}}, "test")

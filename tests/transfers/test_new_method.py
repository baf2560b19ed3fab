"""A method of transfer is a file and an entry in METHODS: one from a module of a user's own goes the whole way."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from polygraft import checks, diagnosis, pipeline
from polygraft.recipe.reading import dump_recipe, json_schema, parse_recipe
from polygraft.transfers.methods import METHODS

# Source rows are drawn towards the target's: as wide as these are the tiny models' narrower ones, padded with zeros.
MODULE = '''
"""Each row moves a share of the way to the source's row of its token, cut or padded to the target's width."""
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveFloat
from polygraft.models.checkpoints import tied_names
from polygraft.models.matrices import embedding_matrix
from polygraft.transfers.contract import Changes
from polygraft.transfers.methods import Control, Method, Needs, Price
from polygraft.transfers.plan import Entry, Plan, Transform, keep_whole
from polygraft.transfers.rows.values import in_place_of

class Nudge(Transform):
    """What is done, in the method's own words."""
    NUDGE = "nudge"

class NudgeTransfer(Method):
    """Nudges rows towards the source's."""
    method: Literal["nudge"] = "nudge"
    """The transfer method."""
    share: PositiveFloat = 0.5
    """How far."""
    control: Control = "none"
    """A placebo."""
    work: ClassVar[str] = __name__
    explanations: ClassVar = {"nudged_rows": "Rows that were nudged towards the source's."}
    @property
    def needs(self):
        return Needs(source_after=True)
    def price(self, sizes):
        return Price(123 * sizes.matrix_bytes, 1e9)

OWNER = "model.shared.weight"

def plan(inputs):
    tied, known = tied_names(inputs.target), np.flatnonzero(inputs.vocabulary.source_of >= 0)
    rest = np.setdiff1d(np.arange(inputs.vocabulary.target_rows), known)
    entries = [Entry(tensor=OWNER, token_class="nudged", ids=known, transform=Nudge.NUDGE, reason="a share"),
               Entry(tensor=OWNER, token_class="others", ids=rest, reason="not in the source")]
    entries += keep_whole(inputs.target, OWNER, tied)
    return Plan(entries=entries, tied=tied, tensors=inputs.target.state_dict())

def fit(plan, inputs):
    return None

def apply(plan, fitted, inputs):
    matrix, ids = embedding_matrix(inputs.target), torch.from_numpy(plan.entries[0].ids)
    source = embedding_matrix(inputs.source_after)[torch.from_numpy(inputs.vocabulary.source_of)[ids]]
    wide = torch.zeros(len(ids), matrix.shape[1])
    wide[:, : source.shape[1]] = source[:, : matrix.shape[1]]
    change = inputs.settings.share * (wide - matrix[ids])
    matrix[ids] += in_place_of(change, torch.zeros_like(change[0]), inputs.settings.control, inputs.seed)
    return Changes(inputs.target)

def diagnose(plan, fitted, inputs, changes):
    return {"nudged_rows": float(len(plan.entries[0].ids))}
'''


@pytest.fixture
def nudge(tmp_path, monkeypatch):
    """The method, imported from a file outside polygraft and entered in the table, as a user would."""
    file = tmp_path / "nudge_method.py"
    file.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("nudge_method", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "nudge_method", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "nudge", module.NudgeTransfer)


@pytest.fixture
def data(tiny_study):
    arms = {"direct": {"transfer": {"method": "none"}}, "own": {"transfer": {"method": "nudge", "share": 0.25}}}
    return tiny_study | {"name": "own", "adapt_target": tiny_study["finetune"], "arms": arms}


def test_a_method_of_ones_own_goes_the_whole_way(nudge, data, tmp_path, invoke, tiny_mbart):
    recipe = parse_recipe(data, "test")
    assert parse_recipe(json.loads(json.dumps(recipe.model_dump(mode="json", exclude_none=True))), "again") == recipe
    assert "NudgeTransfer" in json.dumps(json_schema())
    estimated = checks.run(recipe).stages
    own, nothing = (next(need for need in estimated[arm] if need.stage == "transfer") for arm in ("own", "direct"))
    assert own.flops == 1e9
    beside = own.memory_bytes - nothing.memory_bytes
    assert beside == pytest.approx(123 * 4 * 48 * tiny_mbart.config.vocab_size, rel=0.1)  # the source comes on top
    folders = ["--source", data["source"], "--target", data["target"]]
    shown = invoke("transfer", "--method", "nudge", *folders, "--output-dir", tmp_path / "x", "--dry-run")
    assert "nudged" in shown.output
    assert "  nudge  " in shown.output
    assert "not in the source" in shown.output
    found = diagnosis.run(recipe)
    assert {state["arm"] for state in found["states"]} == {
        "direct", "own", "own+recentre", "own+random", "own+permuted"
    }  # fmt: skip
    page = pipeline.run(recipe, recipe_text=dump_recipe(recipe))["report"]
    assert "Rows that were nudged towards the source&#39;s." in Path(page).read_text(encoding="utf-8")


def test_its_mistakes_are_told_as_those_of_any(nudge, data):
    data["arms"]["own"]["transfer"] = {"method": "nudge", "shore": 0.25}
    with pytest.raises(
        Exception, match=r"arms\.own\.transfer\.shore = 0\.25: no such key of `nudge`; did you mean `share`"
    ):
        parse_recipe(data, "test")
    data["arms"]["own"] = {"transfer": {"method": "nudge"}}
    with pytest.raises(Exception, match=r"arms\.own\.transfer\.method = nudge: needs `source`"):
        parse_recipe(data | {"source": None}, "test")

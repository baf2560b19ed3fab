"""A plan covers each tensor and each row exactly once, or is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from polygraft.cli.plan import text
from polygraft.errors import TransferError
from polygraft.models.checkpoints import tied_names
from polygraft.transfers.plan import Entry, Plan, check_plan, keep_whole

TENSORS = {"embed": torch.zeros(6, 2), "bias": torch.zeros(3), "head": torch.zeros(6, 2)}


def rows(*ids, tensor="embed", name="text"):
    return Entry(tensor=tensor, token_class=name, ids=np.array(ids, dtype=np.int64), reason="why")


def whole(tensor):
    return Entry(tensor=tensor, reason="why")


def complete():
    return Plan(entries=[rows(0, 1, 5), rows(2, 3, 4), whole("bias")], tied={"head": "embed"}, tensors=TENSORS)


def test_a_complete_plan_passes():
    check_plan(complete(), TENSORS)


@pytest.mark.parametrize(
    ("entries", "tied", "problem"),
    [
        ([rows(0, 1, 5), rows(2, 3), whole("bias")], {"head": "embed"}, r"embed: 1 rows missing \(first: 4\) of 6"),
        (
            [rows(0, 1, 5, 2), rows(2, 3, 4), whole("bias")],
            {"head": "embed"},
            r"embed: 1 rows planned twice",
        ),
        ([rows(*range(7)), whole("bias")], {"head": "embed"}, r"embed: 1 rows outside \(first: 6\)"),
        ([rows(*range(6)), rows(-1), whole("bias")], {"head": "embed"}, r"embed: 1 rows outside \(first: -1\)"),
        ([rows(*range(6)), whole("embed"), whole("bias")], {"head": "embed"}, "embed: planned 2 times"),
        ([rows(*range(6)), whole("bias"), whole("bias")], {"head": "embed"}, "bias: planned 2 times"),
        ([rows(*range(6))], {"head": "embed"}, "bias: not in the plan"),
        ([rows(*range(6)), whole("bias")], {}, "head: not in the plan"),
        (
            [rows(*range(6)), whole("bias"), whole("head")],
            {"head": "embed"},
            "head: planned itself, though tied",
        ),
        ([rows(*range(6)), whole("bias"), whole("ghost")], {"head": "embed"}, "ghost: no such tensor"),
        ([rows(*range(6)), whole("bias")], {"head": "embed", "x": "ghost"}, "x: tied to ghost, which is not in"),
    ],
)
def test_a_broken_plan_is_refused(entries, tied, problem):
    with pytest.raises(TransferError, match=problem):
        check_plan(Plan(entries=entries, tied=tied, tensors=TENSORS), TENSORS)


def test_all_problems_are_named_at_once():
    with pytest.raises(TransferError) as error:
        check_plan(Plan(entries=[rows(0)], tied={}, tensors=TENSORS), TENSORS)
    assert all(name in str(error.value) for name in ("embed: 5 rows missing", "bias: not in", "head: not in"))


def test_json_has_the_rows_as_ranges():
    plan = json.loads(json.dumps(complete().to_json()))
    assert [entry["ids"] for entry in plan["entries"]] == [[[0, 1], [5, 5]], [[2, 4]], None]
    assert [entry["rows"] for entry in plan["entries"]] == [3, 3, None]
    assert plan["tied"] == {"head": "embed"}


def test_table_names_rows_ties_and_warnings():
    table = text(dataclasses.replace(complete(), warnings=["half of it is missing"]).to_json())
    assert "embed is one tensor with head: every change of it reaches these too." in table
    assert "1 other tensors" in table
    assert "Warning: half of it is missing." in table


def test_ties_of_mbart(tiny_mbart):
    tied = tied_names(tiny_mbart)
    shared = "model.shared.weight"
    assert tied == {
        "model.encoder.embed_tokens.weight": shared,
        "model.decoder.embed_tokens.weight": shared,
        "lm_head.weight": shared,
    }
    kept = {entry.tensor for entry in keep_whole(tiny_mbart, shared, tied)}
    assert kept | set(tied) | {shared} == set(tiny_mbart.state_dict())

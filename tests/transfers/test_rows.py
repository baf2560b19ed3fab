"""Rows mended for the methods on hidden states: as `embeddings` does it, lent while states are read."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from polygraft.transfers.methods import DistillTransfer, EmbeddingsTransfer, EncoderTransfer
from polygraft.transfers.plan import check_plan
from polygraft.transfers.rows import embeddings
from polygraft.transfers.rows import mended as rows
from polygraft.transfers.rows.sorting import RowTransform
from polygraft.transfers.states import distill, encoder


@pytest.mark.parametrize("mode", ["repair", "recentre"])
def test_rows_are_those_of_embeddings_and_only_lent(pair, mode):
    inputs = dataclasses.replace(pair.inputs(mode), settings=EncoderTransfer(rows=mode))
    before = pair.target.clone()
    planned = rows.plan(inputs)
    fitted = rows.fit(planned, inputs)
    with rows.mended(planned, fitted, inputs):
        lent = pair.target.clone()
    assert torch.equal(pair.target, before)
    direct = dataclasses.replace(pair.inputs(mode), settings=EmbeddingsTransfer(mode=mode))
    plan = embeddings.plan(direct)
    embeddings.apply(plan, embeddings.fit(plan, direct), direct)
    assert torch.equal(pair.target, lent)
    changed = (pair.target != before).any(1).nonzero().squeeze(1).tolist()
    assert changed == sorted([*pair.dead.tolist(), *pair.dead_codes.tolist()])


@pytest.mark.parametrize("mode", ["repair", "keep"])
def test_every_method_plans_them_once(pair, mode, xlmr_tokenizer, mbart_tokenizer):
    given = dataclasses.replace(
        pair.inputs("repair", before=pair.source_model),
        source_tokenizer=xlmr_tokenizer,
        target_tokenizer=mbart_tokenizer,
    )
    methods = {encoder: EncoderTransfer(rows=mode), distill: DistillTransfer(rows=mode, budget={"steps": 1})}
    for method, settings in methods.items():
        plan = method.plan(dataclasses.replace(given, settings=settings))
        check_plan(plan, plan.tensors)
        mapped = [entry for entry in plan.entries if entry.transform is RowTransform.REPAIR]
        assert [len(entry.ids) for entry in mapped] == ([len(pair.dead)] if mode == "repair" else [])

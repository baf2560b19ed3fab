"""One map for all rows: where it begins, what moves, and its gradient."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from polygraft.data.dataset import texts_of
from polygraft.errors import TransferError
from polygraft.models.vocabulary import token_counts
from polygraft.settings import TextData
from polygraft.stages import transfer
from polygraft.stages.adapt import EVAL_NOISE
from polygraft.transfer.methods import Embeddings, SharedMap
from polygraft.transfer.plan import check_plan
from polygraft.transfer.states import shared_map

BUDGET = {"budget": {"steps": 3}, "per_device_train_batch_size": 4, "eval_steps": 1e6, "ridge_lambda": 0.0}
READERS = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")


def run(folders, out, **settings):
    section = SharedMap.model_validate(BUDGET | settings)
    return transfer.run(section, None, folders.source, folders.target, folders.text, out, seed=1)


def rows_of(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()


def test_at_a_vanishing_rate_it_is_repair_by_the_bit(folders, tmp_path):
    run(folders, tmp_path / "map", learning_rate=1e-30)
    repair = Embeddings(ridge_lambda=0.0)
    transfer.run(repair, None, folders.source, folders.target, folders.text, tmp_path / "repair", seed=1)
    mapped, repaired = rows_of(tmp_path / "map"), rows_of(tmp_path / "repair")
    assert all(torch.equal(tensor, repaired[name]) for name, tensor in mapped.items())


def test_absent_tokens_move_too_and_all_by_one_map(folders, pair, mbart_tokenizer, tmp_path):
    result = run(folders, tmp_path / "map", learning_rate=1e-2)
    repair = Embeddings(ridge_lambda=0.0)
    transfer.run(repair, None, folders.source, folders.target, folders.text, tmp_path / "repair", seed=1)
    after, before = rows_of(tmp_path / "map"), rows_of(tmp_path / "repair")
    name, *aliases = "model.shared.weight", *READERS
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {name, *aliases}
    move = after[name] - before[name]
    kept = np.setdiff1d(np.arange(len(move)), pair.dead)
    assert not move[kept].any()
    counts = token_counts(mbart_tokenizer, texts_of(folders.text, 1)[0], len(move))
    absent = pair.dead[counts[pair.dead] == 0]
    assert len(absent) > 10
    lengths = move[absent].norm(dim=1)
    assert float(lengths.min()) > 1e-4
    # the moves are affine in the source's rows: 33 unknowns, and what is left of 80 rows is rounding
    rows = pair.source[pair.vocabulary.source_of[pair.dead]].double()
    known = torch.nn.functional.pad(rows, (0, 1), value=1.0)
    assert len(known) > 2 * known.shape[1]
    wanted = move[pair.dead].double()
    residual = wanted - known @ torch.linalg.lstsq(known, wanted).solution
    assert float(residual.norm() / wanted.norm()) < 1e-4  # fp32 differences of rows: measured 1.2e-6
    figures = result["diagnostics"]
    assert figures["map_moved.unseen"] == pytest.approx(float(lengths.mean()), rel=1e-4)
    assert figures["mapped_rows.unseen"] == len(absent)
    assert result["flops"] > 0
    assert result["trainable_parameters"] == 33 * 48
    plan = json.loads((tmp_path / "map" / "plan.json").read_text(encoding="utf-8"))
    assert {e["rows"] for e in plan["entries"] if e["transform"] == "repair, map trained"} == {len(pair.dead)}


def test_training_lowers_the_loss(folders, tmp_path):
    result = run(folders, tmp_path / "map", budget={"steps": 30}, learning_rate=3e-2)
    assert result["train_loss"] < 0.99 * result["eval_loss_first"]


@pytest.fixture
def given(pair, sentences, xlmr_tokenizer, mbart_tokenizer, tmp_path):
    settings = SharedMap.model_validate(BUDGET)
    return replace(
        pair.inputs("repair"), settings=settings, texts=sentences, languages=["en"] * len(sentences),
        source_tokenizer=xlmr_tokenizer, target_tokenizer=mbart_tokenizer, out_dir=tmp_path,
    )  # fmt: skip


def test_gradient_of_the_map_is_that_of_the_rows_times_the_sources(pair, given):
    """With G the gradient of the tied matrix: rho/sqrt(b) X^T G[ids] for M, rho/sqrt(b) sum G[ids] for c."""
    model, ids = pair.target_model, torch.from_numpy(pair.dead)
    source = pair.source[torch.from_numpy(pair.vocabulary.source_of)[ids]]
    row_map = shared_map.RowMap(ids, source, pair.target[np.setdiff1d(pair.vocabulary.ordinary, pair.dead)])
    with torch.no_grad():
        row_map.weight.normal_(std=0.1)
        row_map.bias.normal_(std=0.1)
    training, _ = shared_map.documents(given)
    objective = shared_map._objective(given, EVAL_NOISE)
    batch = objective.collate([training[index] for index in range(4)])
    model.requires_grad_(False)
    model.add_module(shared_map.ATTRIBUTE, row_map)
    loss = objective.loss(model, **batch)
    loss.backward()
    before = pair.target.clone()
    del model.shared_map
    with torch.no_grad():
        pair.target.copy_(row_map(before))
    model.requires_grad_(True)
    plain = shared_map.Denoising.loss(objective, model, **batch)
    plain.backward()
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    rows = model.model.shared.weight.grad[ids]
    x = source - source.mean(0)
    x = x / x.norm(dim=1).median()
    scale = float(rows.abs().max())
    torch.testing.assert_close(row_map.weight.grad, row_map.unit * x.T @ rows, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(row_map.bias.grad, row_map.unit * rows.sum(0), rtol=0, atol=1e-5 * scale)


def test_an_interrupted_training_goes_on(folders, tmp_path, monkeypatch):
    whole = run(folders, tmp_path / "whole", budget={"steps": 4}, learning_rate=1e-2)
    trainer = shared_map.train

    class Stop(Exception):
        pass

    def stopping(*arguments, **keywords):
        trainer(*arguments, **keywords)
        raise Stop  # before the rows are written: its last checkpoint is that of step 3

    monkeypatch.setattr(shared_map, "train", stopping)
    with pytest.raises(Stop):
        run(folders, tmp_path / "parts", budget={"steps": 4}, learning_rate=1e-2)
    monkeypatch.setattr(shared_map, "train", trainer)
    assert list((tmp_path / "parts" / "checkpoints").glob("checkpoint-3"))
    again = run(folders, tmp_path / "parts", budget={"steps": 4}, learning_rate=1e-2)
    first, second = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert again["eval_loss"] == whole["eval_loss"]


def test_the_plan_covers_the_target_and_a_healthy_one_is_refused(pair, given):
    plan = shared_map.plan(given)
    check_plan(plan, plan.tensors)
    pair.target[pair.dead] = torch.randn(len(pair.dead), 48, generator=torch.Generator().manual_seed(2))
    pair.target[[1, *pair.dead_codes]] = torch.randn(1 + len(pair.dead_codes), 48)
    with pytest.raises(TransferError, match="there is none to map"):
        shared_map.plan(given)


def test_one_document_is_too_little(folders, tmp_path):
    (tmp_path / "one.txt").write_text("The library reads files.\n", encoding="utf-8")
    text = TextData(train_file=str(tmp_path / "one.txt"), validation_file=str(tmp_path / "one.txt"), lang="en")
    with pytest.raises(TransferError, match="one document"):
        transfer.run(SharedMap.model_validate(BUDGET), None, folders.source, folders.target, text, tmp_path / "map")

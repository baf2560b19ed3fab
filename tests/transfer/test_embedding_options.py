"""Beside the three modes: replacing rows, rotations, controls, the output bias, and an output of its own."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSeq2SeqLM

from polygraft.errors import CheckpointError, TransferError
from polygraft.models import adapters, checkpoints, graft
from polygraft.models.checkpoints import tied_names
from polygraft.models.trimming import restore, trim
from polygraft.objectives import Denoising
from polygraft.settings import Finetune, PairData
from polygraft.stages import adapt, finetune, transfer, vocabulary
from polygraft.transfer.methods import EmbeddingsTransfer
from polygraft.transfer.plan import check_plan
from polygraft.transfer.rows import embeddings

OUTPUT, SHARED = "lm_head.weight", "model.shared.weight"


def carry_out(inputs):
    plan = embeddings.plan(inputs)
    check_plan(plan, inputs.target.state_dict())
    fitted = embeddings.fit(plan, inputs)
    return plan, fitted, embeddings.apply(plan, fitted, inputs)


def heal(pair):
    """Give the target the exact image of the source in every row of text, and noise in the others."""
    ordinary = pair.vocabulary.ordinary
    pair.target[ordinary] = pair.truth[pair.vocabulary.source_of[ordinary]]
    pair.target[[1, *pair.dead_codes]] = torch.randn(1 + len(pair.dead_codes), 48, generator=torch.manual_seed(2))


def test_replace_recovers_an_exact_image_and_its_error_follows_the_noise(pair):
    heal(pair)
    clean, ordinary = pair.target.clone(), pair.vocabulary.ordinary
    errors = []
    for noise in (0.0, 0.01, 0.1):
        generator = torch.Generator().manual_seed(9)
        pair.target[ordinary] = clean[ordinary] + noise * torch.randn(len(ordinary), 48, generator=generator)
        plan, _, changes = carry_out(pair.inputs("replace", norm_scale=1.0))
        errors.append(float((pair.target[ordinary] - clean[ordinary]).abs().max()))
    assert errors[0] < 1e-4  # measured 7e-7
    assert errors[2] / errors[1] == pytest.approx(10, rel=0.15)
    assert np.array_equal(changes.ids, ordinary)
    assert any("a control" in warning for warning in plan.warnings)


@pytest.mark.parametrize("mode", ["repair", "delta"])
def test_procrustes_recovers_a_rotation(pair, mode):
    """32 into 48 dimensions: semi-orthogonal, times 1.7."""
    rotation = 1.7 * torch.linalg.qr(pair.weight.T).Q.T
    trained = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)
    pair.target[trained] = (pair.source[pair.vocabulary.source_of[trained]] @ rotation + 0.3) / 48**0.5
    inputs = pair.inputs(mode, before=copy.deepcopy(pair.source_model), estimator="procrustes")
    _, fitted, _ = carry_out(inputs)
    torch.testing.assert_close(fitted.map.weight.float(), rotation, atol=1e-4, rtol=0)  # measured 1.5e-7
    torch.testing.assert_close(fitted.map.intercept.float(), torch.full((48,), 0.3), atol=1e-4, rtol=0)
    assert fitted.figures["heldout_r2"] > 1 - 1e-8


def repaired(pair, **how):
    """Return the rows that `repair` writes, and its plan; the target is then as it was."""
    before = pair.target.clone()
    plan, _, _ = carry_out(pair.inputs("repair", **how))
    written = pair.target[pair.dead].clone()
    pair.target.copy_(before)
    return written, plan


def test_permuted_rows_are_the_mapped_ones_of_other_tokens(pair):
    (real, _), (permuted, plan) = repaired(pair), repaired(pair, control="permuted")
    origin = torch.cdist(permuted, real).argmin(1)
    assert sorted(origin.tolist()) == list(range(len(real)))
    assert not (origin == torch.arange(len(real))).any()
    torch.testing.assert_close(permuted, real[origin], atol=1e-6, rtol=0)
    entry = next(entry for entry in plan.entries if entry.token_class == "text tokens, mapped")
    assert (entry.transform, entry.origin) == ("repair, permuted", "source, other tokens")


def test_random_rows_have_the_mean_and_the_lengths_of_the_mapped_ones(pair):
    (real, _), (drawn, plan) = repaired(pair), repaired(pair, control="random")
    mean = real.mean(0)
    torch.testing.assert_close((drawn - mean).norm(dim=1), (real - mean).norm(dim=1), rtol=1e-5, atol=0)
    spread = (real - mean).norm(dim=1).square().mean().sqrt()
    assert float((drawn.mean(0) - mean).norm()) < 2 * float(spread) / len(real) ** 0.5  # the mean of random directions
    assert float(torch.cosine_similarity(drawn - mean, real - mean, dim=1).mean().abs()) < 0.1
    entry = next(entry for entry in plan.entries if entry.token_class == "text tokens, mapped")
    assert (entry.transform, entry.origin) == ("repair, random", "random numbers")


@pytest.mark.parametrize("control", ["random", "permuted"])
def test_controls_of_delta_have_the_lengths_of_its_changes(pair, control):
    old, before = copy.deepcopy(pair.source_model), pair.target.clone()
    pair.source += torch.randn(pair.source.shape, generator=torch.Generator().manual_seed(4))
    changes = {}
    for which in ("none", control):
        pair.target.copy_(before)
        plan, _, done = carry_out(pair.inputs("delta", before=old, control=which))
        changes[which] = pair.target[done.ids] - before[done.ids]
    lengths = [change.norm(dim=1) for change in changes.values()]
    if control == "permuted":
        lengths = [length.sort().values for length in lengths]
    torch.testing.assert_close(*lengths, rtol=1e-4, atol=1e-6)
    assert float(torch.cosine_similarity(*changes.values(), dim=1).mean()) < 0.5
    assert plan.entries[0].origin.startswith("target + ")


@pytest.mark.parametrize("control", ["random", "permuted"])
def test_controls_follow_the_seed(pair, control):
    before, found = pair.target.clone(), []
    for seed in (1, 1, 2):
        pair.target.copy_(before)
        inputs = pair.inputs("repair", control=control)
        carry_out(copy.copy(inputs).__class__(**{**vars(inputs), "seed": seed}))
        found.append(pair.target.clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert EmbeddingsTransfer(control=control).random
    assert not EmbeddingsTransfer().random


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "recentre", "control": "random"}, "takes nothing from it: leave `control` out"),
        ({"mode": "delta", "final_logits_bias": True}, "mode: delta has none"),
        ({"final_logits_bias": True, "control": "permuted"}, "leave one of the two out"),
        ({"final_logits_bias": True, "input_only": True}, "input_only leaves the output as it is"),
    ],
)
def test_meaningless_combinations_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        EmbeddingsTransfer(**settings)


def logits(model):
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        return model(input_ids=ids, decoder_input_ids=ids).logits


@pytest.mark.parametrize("mode", ["repair", "replace"])
def test_the_output_bias_changes_logits_by_exactly_the_sources(folders, pair, mode):
    """In XLM-R's terms: lm_head.bias of the token, less its mean over the rows that both models learned."""
    pair.source_model.lm_head.bias.data = torch.randn(len(pair.source), generator=torch.Generator().manual_seed(3))
    pair.source_model.save_pretrained(folders.source)
    outs = {}
    for with_bias in (False, True):
        settings = EmbeddingsTransfer(mode=mode, final_logits_bias=with_bias)
        outs[with_bias] = folders.out.with_name(f"out-{with_bias}")
        transfer.run(settings, None, folders.source, folders.target, folders.text, outs[with_bias])
    plain, biased = (AutoModelForSeq2SeqLM.from_pretrained(out).eval() for out in outs.values())
    bias, source_of = pair.source_model.lm_head.bias.detach(), pair.vocabulary.source_of
    ordinary = pair.vocabulary.ordinary
    written = pair.dead if mode == "repair" else ordinary
    expected = torch.zeros(len(pair.target))
    expected[written] = bias[source_of[written]] - bias[source_of[np.setdiff1d(ordinary, pair.dead)]].mean()
    torch.testing.assert_close(logits(biased) - logits(plain), expected.expand(1, 36, -1), atol=1e-5, rtol=0)
    entries = json.loads((outs[True] / "plan.json").read_text(encoding="utf-8"))["entries"]
    assert {e["tensor"] for e in entries if e["transform"] == "output bias"} == {"final_logits_bias"}
    with pytest.raises(TransferError, match="output bias"):
        graft.assert_graftable(biased)


@pytest.fixture
def untied(folders, pair):
    transfer.run(EmbeddingsTransfer(input_only=True), None, folders.source, folders.target, folders.text, folders.out)
    return folders.out


def test_input_only_changes_what_is_read_and_not_what_is_written(untied, folders, pair):
    plain = AutoModelForSeq2SeqLM.from_pretrained(untied).eval()  # transformers alone
    ours = checkpoints.load_seq2seq(str(untied)).eval()
    transfer.run(
        EmbeddingsTransfer(), None, folders.source, folders.target, folders.text, folders.out.with_name("tied")
    )
    tied = AutoModelForSeq2SeqLM.from_pretrained(folders.out.with_name("tied")).state_dict()
    for model in (plain, ours):
        state = model.state_dict()
        assert torch.equal(state[OUTPUT], pair.target)
        for name in (SHARED, "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
            assert torch.equal(state[name], tied[SHARED])
    assert torch.equal(logits(plain), logits(ours))
    assert not torch.equal(pair.target[pair.dead], tied[SHARED][pair.dead])
    assert set(tied_names(ours).values()) == {SHARED}
    assert OUTPUT not in tied_names(ours)
    plan = json.loads((untied / "plan.json").read_text(encoding="utf-8"))
    entry = next(entry for entry in plan["entries"] if entry["tensor"] == OUTPUT)
    assert (entry["transform"], entry["origin"]) == ("keep", "target")
    assert OUTPUT not in plan["tied"]


def test_later_stages_hold_an_untied_model(untied, folders, mbart_tokenizer, tmp_path):
    model = checkpoints.load_seq2seq(str(untied))
    for trainable, wanted in (("embeddings", True), ("no_embeddings", False)):
        adapters.prepare(model, Finetune(budget={"steps": 1}, trainable=trainable))
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert ({OUTPUT, SHARED} <= trained) == wanted
    model.requires_grad_(True)
    moved = copy.deepcopy(model.state_dict())
    tokenizer = trim(model, mbart_tokenizer, ["The library reads files."])
    with torch.no_grad():
        model.lm_head.weight += 1.0
        model.model.shared.weight += 2.0
    full = restore(model, tokenizer, checkpoints.load_seq2seq(str(untied)), mbart_tokenizer)
    checkpoints.save(full, mbart_tokenizer, tmp_path / "trained")
    again = checkpoints.load_seq2seq(str(tmp_path / "trained")).state_dict()
    for name, step in ((OUTPUT, 1.0), (SHARED, 2.0), ("model.decoder.embed_tokens.weight", 2.0)):
        difference = again[name] - moved[name]
        assert set(difference.sum(1).div(48).round(decimals=3).tolist()) == {0.0, step}


def test_what_needs_a_tied_model_refuses_an_untied_one(untied, folders, tmp_path):
    with pytest.raises(TransferError, match=r"two tensors.* before input_only"):
        transfer.run(EmbeddingsTransfer(mode="recentre"), None, None, str(untied), None, tmp_path / "again")
    with pytest.raises(TransferError, match="tensor of its own"):
        graft.assert_graftable(checkpoints.load_seq2seq(str(untied)))
    with pytest.raises(CheckpointError, match="Add them before the transfer"):
        vocabulary.run_add_languages({"be_BY": "uk_UA"}, str(untied), tmp_path / "added")


@pytest.mark.parametrize("trim_vocabulary", [False, True])
def test_an_untied_model_is_trained_from_its_checkpoints(untied, folders, tmp_path, trim_vocabulary):
    """Both stages that follow; fine-tuning loads its best checkpoint again."""
    how = {"budget": {"steps": 2}, "learning_rate": 1e-3, "trim_vocabulary": trim_vocabulary}
    adapt.run(Denoising(**how), str(untied), folders.text, 1, tmp_path / "adapted")
    rows = [{"id": str(i), "text": f"The library reads {i} files.", "summary": "It reads files."} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = PairData(train_file=str(tmp_path / "pairs.jsonl"), source_lang="en")
    finetune.run(Finetune(**how), str(tmp_path / "adapted"), pairs, 1, tmp_path / "tuned")
    state = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tuned").state_dict()
    before = AutoModelForSeq2SeqLM.from_pretrained(untied).state_dict()
    for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
        assert torch.equal(state[name], state[SHARED])  # trained together
    assert not torch.equal(state[SHARED], before[SHARED])
    assert not torch.equal(state[OUTPUT], before[OUTPUT])
    assert not torch.equal(state[OUTPUT], state[SHARED])

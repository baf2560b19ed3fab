"""Gradient checkpointing: the same losses and gradients, bit by bit and with dropout; less kept; the same charge."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from polygraft.checks.counting import LiveBytes
from polygraft.checks.memory import make_batch, make_model
from polygraft.models import adapters, graft
from polygraft.models.recomputed import PassFlops, Recomputed, recomputing
from polygraft.objectives import CLM, MLM, Denoising
from polygraft.objectives.noise import Noise
from polygraft.objectives.seq2seq import Seq2Seq
from polygraft.objectives.task import BatchShape
from polygraft.settings import Bottleneck, Finetune, Lora, PairData, TextData
from polygraft.stages import adapt, finetune, transfer
from polygraft.training.dropout import FastDropout
from polygraft.transfers.methods import DistillTransfer

TASKS = ("mlm", "mlm of a target", "denoising", "clm", "seq2seq", "graft")
WEIGHTS = {
    "full": (None, "all"), "lora": (Lora(r=4, lora_dropout=0.1), "all"),
    "bottleneck": (Bottleneck(bottleneck_size=8, normalize=True), "all"), "no_embeddings": (None, "no_embeddings"),
}  # fmt: skip


def with_dropout(model, share=0.1):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, share)
    return model.train()


@pytest.fixture
def case(tiny_xlmr, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences):
    """A model, its loss and a batch with padding, by task."""

    def _case(task):
        code = mbart_tokenizer.convert_tokens_to_ids("uk_UA")
        tokenizer = xlmr_tokenizer if task == "mlm" else mbart_tokenizer
        ids = [
            np.array(one[:40], dtype=np.int32) for one in tokenizer(sentences, add_special_tokens=False)["input_ids"]
        ]
        if task in ("seq2seq", "graft"):
            objective = Seq2Seq(tokenizer, label_smoothing_factor=0.1)
            wrapped = [objective.layout.wrap(one.tolist(), code) for one in ids]
            batch = objective.collate([{"input_ids": one, "labels": one[:9]} for one in wrapped])
        else:
            kind = {"denoising": Denoising, "clm": CLM}.get(task, MLM)
            objective = kind().make(tokenizer, Noise(1), task != "mlm")
            batch = objective.collate([{"input_ids": one, "language": code} for one in ids])
        model = tiny_xlmr if task == "mlm" else tiny_mbart
        if task == "graft":
            tiny_xlmr.resize_token_embeddings(len(mbart_tokenizer))
            model = graft.assemble(
                tiny_xlmr.roberta, tiny_mbart, graft.graft_config(tiny_xlmr.config, tiny_mbart.config, 64)
            )
            graft.set_bridge(model, torch.randn(32, 48), torch.zeros(48))
        return model, objective, batch

    return _case


def passed(model, objective, batch, wanted, bf16=False):
    """Loss, gradients and the counted operations of one pass as a training step makes it."""
    torch.manual_seed(3)
    model.zero_grad()
    with recomputing(model, wanted), FastDropout(), PassFlops() as flops:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = objective.loss(model, **batch)
        loss.backward()
    drawn = torch.rand(1)  # what comes next draws the same numbers, too
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return (loss.detach(), drawn), gradients, flops


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("how", WEIGHTS)
def test_losses_and_gradients_are_the_same_bits(case, task, how):
    model, objective, batch = case(task)
    adapters.prepare(model, *WEIGHTS[how])
    with_dropout(model)
    plain, gradients, flops = passed(model, objective, batch, False)
    again, recomputed, more = passed(model, objective, batch, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert gradients.keys() == recomputed.keys() != set()
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)
    assert any(bool(gradient.any()) for gradient in gradients.values())
    assert more.once == flops.once == flops.get_total_flops()  # what a budget is charged
    assert flops.again == 0 < more.again
    other, _, _ = passed(with_dropout(model, 0.2), objective, batch, False)
    assert other[0] != plain[0]  # dropout was on
    assert not any(isinstance(vars(module).get("forward"), Recomputed) for module in model.modules())


def test_in_bf16_too(case):
    model, objective, batch = case("denoising")
    with_dropout(model)
    plain, recomputed = (passed(model, objective, batch, wanted, bf16=True) for wanted in (False, True))
    assert torch.equal(plain[0][0], recomputed[0][0])
    assert all(torch.equal(plain[1][name], recomputed[1][name]) for name in plain[1])


def test_a_layers_activations_are_not_kept(tiny_xlmr):
    """Between forward and backward pass a layer keeps its input: 32 floats a token, not the 700 of its parts."""
    tiny_xlmr.config.num_hidden_layers = 8
    model = make_model(tiny_xlmr.config).train()
    batch = make_batch(BatchShape(8, 60, None, 16))
    live = {}
    for wanted in (False, True):
        with recomputing(model, wanted), LiveBytes(model.parameters()) as counted:
            loss = MLM().loss_of(False)(model, **batch)
            live[wanted] = counted.live
            loss.backward()
    assert live[True] < 0.15 * live[False]  # measured: 0.09


def test_of_a_copy_the_copys_layers_run(tiny_xlmr):
    with recomputing(tiny_xlmr, True):
        copied = copy.deepcopy(tiny_xlmr)
    assert copied.roberta.encoder.layer[0].forward.forward.__self__ is copied.roberta.encoder.layer[0]


@pytest.fixture
def files(tmp_path, sentences):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": s, "summary": s[:20]}) + "\n" for s in sentences), encoding="utf-8")
    return path


HOW = {"budget": {"steps": 5}, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "precision": "fp32",
       "eval_steps": 2}  # fmt: skip


@pytest.mark.parametrize("stage", ["mlm", "finetune", "distill"])
def test_stages_end_with_the_same_weights_and_the_same_bill(stage, files, tiny_xlmr, tiny_mbart, xlmr_tokenizer,
                                                          mbart_tokenizer, tmp_path):  # fmt: skip
    """With a trimmed vocabulary; the source's adaptation is a copy with noise."""
    after = copy.deepcopy(tiny_xlmr)
    for parameter in after.roberta.encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    models = {"source": tiny_xlmr, "after": after, "target": tiny_mbart}
    for name, model in models.items():
        if name == "target":
            model.config.dropout = model.config.attention_dropout = 0.1
        else:
            model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
        model.save_pretrained(tmp_path / name)
        (mbart_tokenizer if name == "target" else xlmr_tokenizer).save_pretrained(tmp_path / name)
    paths = {name: str(tmp_path / name) for name in models}
    text = TextData(train_file=str(files), lang="uk")

    def run(wanted):
        out = tmp_path / f"out-{wanted}"
        out.mkdir()
        how = HOW | {"gradient_checkpointing": wanted}
        if stage == "distill":
            settings = DistillTransfer.model_validate(how | {"rows": "keep", "calibration_tokens": 200})
            result = transfer.run(settings, *paths.values(), text, out, seed=1)
        elif stage == "mlm":
            result = adapt.run(MLM(**how, trim_vocabulary=True), paths["source"], text, 1, out)
        else:
            pairs = PairData(train_file=str(files), source_lang="uk")
            settings = Finetune(**how, trim_vocabulary=True, label_smoothing_factor=0.1)
            result = finetune.run(settings, paths["target"], pairs, 1, out)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curve = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
        return result, curve, (out / "model.safetensors").read_bytes()

    plain, again = run(False), run(True)
    assert plain[1] == again[1] and len(plain[1]) >= 8  # losses, tokens, operations
    assert plain[2] == again[2]
    assert plain[0]["flops"] == again[0]["flops"] > 0

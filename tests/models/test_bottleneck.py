"""Bottleneck adapters: what they compute, and that nothing of the base changes by their being there."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BertConfig, BertForMaskedLM

from polygraft.errors import CheckpointError
from polygraft.models import bottleneck, checkpoints
from polygraft.settings import Bottleneck

SMALL = Bottleneck(bottleneck_size=4)


@pytest.fixture(params=["xlmr", "mbart", "bert"])
def model(request, tiny_xlmr, tiny_mbart):
    bert = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    return {"xlmr": lambda: tiny_xlmr, "mbart": lambda: tiny_mbart, "bert": lambda: BertForMaskedLM(bert).eval()}[
        request.param
    ]()


def batch(model):
    ids = torch.randint(4, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    return (
        {"input_ids": ids, "decoder_input_ids": ids.flip(1)} if model.config.is_encoder_decoder else {"input_ids": ids}
    )


def logits(model, **more):
    return model(**batch(model), **more).logits


def fill(model, name, seed=0):
    """Give an adapter values that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in bottleneck.adapters(model)[name].values():
        for parameter in adapter.parameters():
            parameter.data.normal_(std=0.3, generator=generator)


@torch.no_grad()
def test_new_adapter_changes_not_a_bit_and_the_base_keeps_its_names(model):
    before, state = logits(model), copy.deepcopy(model.state_dict())
    bottleneck.attach(model, SMALL, "mlm")
    assert torch.equal(logits(model), before)
    layers = 4 if model.config.is_encoder_decoder else 2
    assert len(bottleneck.adapters(model)["mlm"]) == layers
    assert bottleneck.base_state(model).keys() == state.keys()
    fresh = type(model)(model.config)
    fresh.load_state_dict(bottleneck.base_state(model))
    assert torch.equal(logits(fresh.eval()), before)
    fill(model, "mlm")
    assert float((logits(model) - before).abs().max()) > 1e-3


@torch.no_grad()
def test_output_of_every_layer_is_that_of_the_formula(tiny_xlmr, tiny_mbart):
    """Independent reference: the layers called by hand, one after the other, h + U max(0, D h + d) between them."""
    for model, stack in ((tiny_xlmr, tiny_xlmr.roberta.encoder.layer), (tiny_mbart, tiny_mbart.model.encoder.layers)):
        ids = batch(model)["input_ids"]
        start = model.base_model.get_encoder() if model.config.is_encoder_decoder else model.roberta
        hidden = start(ids, output_hidden_states=True).hidden_states[0]
        bottleneck.attach(model, SMALL, "a")
        fill(model, "a")
        by_hand = list(bottleneck.adapters(model)["a"].values())[: len(stack)]
        bottleneck.activate(model, [])
        for layer, adapter in zip(stack, by_hand, strict=True):
            hidden = layer(hidden, None)
            down, up, bias = adapter.down.weight, adapter.up.weight, adapter.down.bias
            hidden = hidden + (hidden @ down.T + bias).clamp_min(0) @ up.T
        if model.config.is_encoder_decoder:
            hidden = start.layer_norm(hidden)
        bottleneck.activate(model, ["a"])
        found = start(ids).last_hidden_state
        assert float((found - hidden).abs().max()) < 1e-5  # measured: 1e-6


@torch.no_grad()
def test_a_normalized_adapter_acts_as_between_layer_norms(tiny_mbart):
    """Independent reference: torch's layer_norm; and what scales the input scales the output."""
    bottleneck.attach(tiny_mbart, Bottleneck(bottleneck_size=4, normalize=True), "a")
    fill(tiny_mbart, "a")
    adapter = next(iter(bottleneck.adapters(tiny_mbart)["a"].values()))
    hidden = 3 + 5 * torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(1))
    found = (adapter(hidden) - hidden) / hidden.std(-1, correction=0, keepdim=True)
    expected = adapter.change(torch.nn.functional.layer_norm(hidden, (48,)))
    assert float((found - expected).abs().max()) < 1e-4  # measured: 2e-5
    assert float((adapter(100 * hidden) - 100 * adapter(hidden)).abs().max()) < 0.01  # measured: 0.001, of 2,000


@torch.no_grad()
def test_other_sizes_and_single_layers(tiny_mbart, tmp_path):
    before = logits(tiny_mbart)
    sizes = {"model.encoder.layers.1": 3, "model.decoder.layers.0": 5}
    bottleneck.attach(tiny_mbart, SMALL, "a", sizes)
    bottleneck.attach(tiny_mbart, SMALL, "b")
    fill(tiny_mbart, "a")
    bottleneck.save(tiny_mbart, tmp_path)
    again = copy.deepcopy(tiny_mbart)
    for host in bottleneck.hosts(again).values():
        del host.bottlenecks, host.active_bottlenecks
        host._forward_hooks.clear()
    assert torch.equal(logits(again), before)
    twin = copy.deepcopy(again)
    bottleneck.load(again, tmp_path)
    bottleneck.carry(tiny_mbart, twin)
    for model in (again, twin):
        found = bottleneck.adapters(model)
        assert {path: adapter.down.out_features for path, adapter in found["a"].items()} == sizes
        assert len(found["b"]) == 4
        assert torch.equal(logits(model), logits(tiny_mbart))
    bottleneck.activate(tiny_mbart, ["b"])
    assert torch.equal(logits(tiny_mbart), before)


@torch.no_grad()
def test_stacked_in_order_and_switched(model):
    plain = logits(model)
    for seed, name in enumerate(("mlm", "seq2seq")):
        bottleneck.attach(model, SMALL, name)
        fill(model, name, seed)
    both = logits(model)
    seen = {}
    for names in ([], ["mlm"], ["seq2seq"], ["seq2seq", "mlm"], ["mlm", "seq2seq"]):
        bottleneck.activate(model, names)
        seen[tuple(names)] = logits(model)
    assert torch.equal(seen[()], plain)
    assert torch.equal(seen["mlm", "seq2seq"], both)
    assert all(not torch.equal(a, b) for i, a in enumerate(seen.values()) for b in list(seen.values())[:i])
    with pytest.raises(CheckpointError, match=r"no adapter 'xx'; it has mlm, seq2seq"):
        bottleneck.activate(model, ["xx"])
    with pytest.raises(CheckpointError, match="an adapter 'mlm' already"):
        bottleneck.attach(model, SMALL, "mlm")


@torch.no_grad()
def test_saved_beside_a_plain_checkpoint(tiny_xlmr, xlmr_tokenizer, tiny_mbart, mbart_tokenizer, tmp_path):
    kinds = {
        "xlmr": (tiny_xlmr, xlmr_tokenizer, AutoModelForMaskedLM, checkpoints.load_masked_lm),
        "mbart": (tiny_mbart, mbart_tokenizer, AutoModelForSeq2SeqLM, checkpoints.load_seq2seq),
    }
    for name, (model, tokenizer, plain, load) in kinds.items():
        base = logits(model)
        bottleneck.attach(model, SMALL, "mlm")
        bottleneck.attach(model, Bottleneck(bottleneck_size=3, non_linearity="gelu"), "seq2seq")
        fill(model, "mlm", 1)
        fill(model, "seq2seq", 2)
        checkpoints.save(model, tokenizer, tmp_path / name)
        assert sorted(p.name for p in (tmp_path / name / "adapter").iterdir()) == [
            "adapter_config.json", "adapter_model.safetensors",
        ]  # fmt: skip
        again = load(str(tmp_path / name)).eval()
        assert list(bottleneck.adapters(again)) == ["mlm", "seq2seq"]
        assert torch.equal(logits(again), logits(model))
        assert torch.equal(logits(plain.from_pretrained(tmp_path / name).eval()), base)


def test_adapters_of_another_model_are_refused(tiny_xlmr, tiny_mbart, tmp_path):
    bottleneck.attach(tiny_xlmr, SMALL, "mlm")
    bottleneck.save(tiny_xlmr, tmp_path)
    with pytest.raises(CheckpointError, match=r"'mlm' is not one of this model, which has no roberta.encoder.layer.0"):
        bottleneck.load(tiny_mbart, tmp_path)
    narrow = copy.deepcopy(tiny_xlmr.config)
    narrow.hidden_size = 16
    with pytest.raises(CheckpointError, match=r"down.weight is \(4, 32\), not \(4, 16\)"):
        bottleneck.load(type(tiny_xlmr)(narrow), tmp_path)
    assert bottleneck.saved_settings(tmp_path / "nothing") == {}


def test_deep_copies_checkpointing_compiling_and_autocast(model):
    bottleneck.attach(model, SMALL, "mlm")
    fill(model, "mlm")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = logits(model)
        fill(twin, "mlm", seed=7)
        assert torch.equal(logits(model), before)  # the copy has adapters of its own
        assert not torch.equal(logits(twin), before)

    def gradients(how):
        model.zero_grad()
        logits(model, **how).square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if ".bottlenecks." in n}

    model.train()
    how = {"use_cache": False} if model.config.is_encoder_decoder else {}
    torch.manual_seed(0)
    plain = gradients(how)
    model.gradient_checkpointing_enable()
    torch.manual_seed(0)
    again = gradients(how)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(float(g.abs().max()) > 0 for g in plain.values())
    model.gradient_checkpointing_disable()
    model.disable_input_require_grads()  # which transformers 5.6 leaves on, and torch 2.8 cannot compile
    model.eval()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert float((logits(compiled, **how) - before).abs().max()) < 1e-5  # measured: 0
        with torch.autocast("cpu", torch.bfloat16):
            assert float((logits(model) - before).abs().max()) < 0.05 * float(before.abs().max())  # measured: 0.01

"""Counting without allocating: against sums by hand, the published sizes, and a pass on real tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, ModernBertConfig

from polygraft.checks.counting import LiveBytes, repeated_layers, shortened
from polygraft.checks.memory import loss_of, make_batch, make_model, measure_pass, parameters_of
from polygraft.data.dataset import TextDataset
from polygraft.measure.losses import mbart_task
from polygraft.models import adapters
from polygraft.models.recomputed import recomputing
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.objectives.task import BatchShape
from polygraft.settings import Budget, Training

PUBLISHED = Path(__file__).parent.parent / "fixtures/published"


def test_live_bytes_by_hand():
    with LiveBytes() as counted:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a + 1  # 8,000
        c = b.view(10, 100)  # a view: nothing new
        del a  # 4,000
        d = torch.cat([c, c])  # 12,000
        assert counted.live == 12_000
        del b  # c still holds its storage
        assert counted.live == 12_000
        del c
        assert counted.live == 8_000
        del d
    assert (counted.live, counted.peak) == (0, 12_000)


# Published sizes: model cards and papers give 278M, 560M, 611M (cc25: 611M), 118M; to the last digit by counting once
# from weights of that shape.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("xlm-roberta-base", 278_295_186), ("xlm-roberta-large", 560_142_482), ("mbart-large-50", 610_879_488),
     ("mbart-large-cc25", 610_851_840)],
)  # fmt: skip
def test_published_sizes(name, parameters):
    assert parameters_of(AutoConfig.from_pretrained(PUBLISHED / f"{name}.json")) == parameters


@pytest.fixture(params=["mlm", "denoising"])
def case(request, tiny_xlmr, tiny_mbart):
    """Deeper than what is run on fake tensors, where one layer stands for several."""
    if request.param == "mlm":
        tiny_xlmr.config.num_hidden_layers = 6
        return tiny_xlmr.config, BatchShape(4, 24, None, 15)
    tiny_mbart.config.encoder_layers, tiny_mbart.config.decoder_layers = 5, 6
    return tiny_mbart.config, BatchShape(4, 24, 20, 80)


def test_fake_pass_costs_what_a_real_one_does(case):
    config, shape = case
    counted = measure_pass(config, shape, "fp32")
    model, batch = make_model(config).train(), make_batch(shape)
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    with LiveBytes(model.parameters()) as live:
        loss_of(config)(model, **batch).backward()
    with FlopCounterMode(display=False) as flops:
        loss_of(config)(model, **batch).backward()
    assert counted.training_bytes == live.peak
    assert counted.flops == flops.get_total_flops()
    with LiveBytes(model.parameters()) as live, torch.no_grad():
        loss_of(config)(model.eval(), **make_batch(shape.scaled(2)))
    assert counted.evaluation_bytes == pytest.approx(live.peak, rel=0.05)  # fake kernels differ without gradients
    more = measure_pass(config, shape, "fp32", accumulated=4)
    assert more.training_bytes > counted.training_bytes


def test_made_up_batch_has_what_the_objectives_make(xlmr_tokenizer, mbart_tokenizer):
    documents = TextDataset(
        [(torch.arange(10, 28, dtype=torch.int32).numpy(), mbart_tokenizer.lang_code_to_id["uk_UA"])] * 3
    )
    for objective, target in (
        (MaskedLM(xlmr_tokenizer, 0.15, Noise(0)), None),
        (mbart_task(mbart_tokenizer), 20),
    ):
        real = objective.collate([documents[i] for i in range(3)])
        made = make_batch(BatchShape(3, 20, target, len(real["label_positions"])))
        assert set(made) == set(real) - {"masked"}
        assert {key: made[key].dtype for key in made} == {key: real[key].dtype for key in made}
        assert made["labels"].shape == real["labels"].shape


def test_what_a_layer_stands_for(case):
    """Of a deep model three layers of an encoder are run, two of each stack of an mBART; a stranger's are all run."""
    config, _ = case
    short = shortened(config)
    with torch.device("meta"):
        found = [times for _, times in repeated_layers(make_model(short), config)]
    if config.is_encoder_decoder:
        assert (short.encoder_layers, short.decoder_layers, found) == (2, 2, [4, 5])
    else:
        assert (short.num_hidden_layers, found) == (3, [4])
    stranger = ModernBertConfig(num_hidden_layers=7)
    assert shortened(stranger) is stranger


@pytest.mark.parametrize("how", [
    {"adapter": {"type": "lora", "r": 4}}, {"adapter": {"type": "bottleneck", "bottleneck_size": 8}},
    {"trainable": "no_embeddings"}, {"trainable": "embeddings"},
])  # fmt: skip
def test_frozen_weights_cost_no_gradients(how, case):
    config, shape = case
    settings = Training(budget=Budget(steps=1), **how)
    counted, full = measure_pass(config, shape, "fp32", settings=settings), measure_pass(config, shape, "fp32")
    model, batch = make_model(config).train(), make_batch(shape)
    adapters.prepare(model, settings.adapter, settings.trainable)
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    with LiveBytes(model.parameters()) as live, FlopCounterMode(display=False) as flops:
        loss_of(config)(model, **batch).backward()
    assert counted.training_bytes == pytest.approx(live.peak, rel=0.05)  # measured: within 3%
    assert counted.flops == flops.get_total_flops()
    assert counted.trained < full.trained == full.parameters


@pytest.mark.parametrize("how", [{}, {"adapter": {"type": "lora", "r": 4}}, {"adapter": {"type": "bottleneck"}}])
def test_gradient_checkpointing_is_counted_as_it_runs(how, case):
    """The same bytes and operations as on real tensors: those of a second computation apart."""
    config, shape = case
    settings = Training(budget=Budget(steps=1), gradient_checkpointing=True, **how)
    counted = measure_pass(config, shape, "fp32", settings=settings)
    plain = measure_pass(config, shape, "fp32", settings=settings.model_copy(update={"gradient_checkpointing": False}))
    model, batch = make_model(config).train(), make_batch(shape)
    adapters.prepare(model, settings.adapter, settings.trainable)
    with recomputing(model, True):
        with LiveBytes(model.parameters()) as live:
            loss_of(config)(model, **batch).backward()
        with FlopCounterMode(display=False) as flops:
            loss_of(config)(model, **batch).backward()
    assert counted.training_bytes == pytest.approx(live.peak, rel=0.05)
    assert counted.flops + counted.flops_again == flops.get_total_flops()
    assert counted.flops == plain.flops and plain.flops_again == 0
    assert counted.training_bytes < plain.training_bytes


def test_fp16_takes_what_bf16_does(case):
    config, shape = case
    fp32, bf16, fp16 = (measure_pass(config, shape, arithmetic) for arithmetic in ("fp32", "bf16", "fp16"))
    assert fp16 == bf16 != fp32

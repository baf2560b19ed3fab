"""The chunked cross-entropy against torch's own, in value and in every gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from polygraft.objectives import linear_loss
from polygraft.objectives.linear_loss import linear_cross_entropy

LABELS, WIDTH, CLASSES = 50, 16, 300


def make(frozen: bool = False, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(LABELS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(CLASSES, WIDTH, generator=generator).to(dtype).requires_grad_(not frozen)
    bias = torch.randn(CLASSES, generator=generator).to(dtype).requires_grad_(not frozen)
    return (hidden, weight, bias), torch.randint(CLASSES, (LABELS,), generator=generator)


def gradients(loss, parameters):
    return torch.autograd.grad(loss * 0.5, [p for p in parameters if p.requires_grad])


@pytest.mark.parametrize("rows", [1, 7, LABELS, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_cross_entropy_in_float64(monkeypatch, rows, smoothing):
    monkeypatch.setattr(linear_loss, "CHUNK_LOGITS", rows * CLASSES)
    parameters, labels = make()
    exact, _ = make(dtype=torch.float64)
    exact = [p.detach().double().requires_grad_() for p in parameters]
    expected = F.cross_entropy(F.linear(*exact), labels, reduction="sum", label_smoothing=smoothing)
    ours = linear_cross_entropy(*parameters, labels, smoothing)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)
    for mine, reference in zip(gradients(ours, parameters), gradients(expected, exact), strict=True):
        assert float((mine - reference).abs().max()) < 5e-6  # measured: 1e-6 of values up to 4


def test_equals_torchs_own_chunked_loss(monkeypatch):
    monkeypatch.setattr(linear_loss, "CHUNK_LOGITS", 7 * CLASSES)
    (hidden, weight, bias), labels = make()
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=7)
        expected = F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, reduction="sum", options=options)
    else:  # torch before 2.13: the plain one
        expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")
    ours = linear_cross_entropy(hidden, weight, bias, labels)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)
    for mine, reference in zip(*(gradients(loss, (hidden, weight, bias)) for loss in (ours, expected)), strict=True):
        assert float((mine - reference).abs().max()) < 5e-6


@pytest.mark.parametrize("rows", [7, LABELS])
def test_follows_autocast(monkeypatch, rows):
    """bf16 products: as far from the exact gradients as the plain way is, not further."""
    monkeypatch.setattr(linear_loss, "CHUNK_LOGITS", rows * CLASSES)
    parameters, labels = make()
    exact = gradients(F.cross_entropy(F.linear(*parameters), labels, reduction="sum"), parameters)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.cross_entropy(F.linear(*parameters).float(), labels, reduction="sum")
        ours = linear_cross_entropy(*parameters, labels)
    assert ours.dtype == torch.float32
    assert float(ours) == pytest.approx(float(plain), rel=1e-3)
    for mine, theirs, reference in zip(gradients(ours, parameters), gradients(plain, parameters), exact, strict=True):
        assert mine.dtype == torch.float32
        error, plain_error = (float((g - reference).norm() / reference.norm()) for g in (mine, theirs))
        assert 0 < error < 1.2 * plain_error


def test_what_is_frozen_costs_nothing_and_gets_no_gradient():
    flops = {}
    for frozen in (False, True):
        (hidden, weight, bias), labels = make(frozen)
        with FlopCounterMode(display=False) as counter:
            linear_cross_entropy(hidden, weight, bias, labels).backward()
        flops[frozen] = counter.get_total_flops()
        assert hidden.grad is not None
        assert (weight.grad is None) == (bias.grad is None) == frozen
    one_product = 2 * LABELS * WIDTH * CLASSES
    assert flops == {False: 3 * one_product, True: 2 * one_product}


def test_without_gradients_only_the_loss_is_computed():
    (hidden, weight, bias), labels = make()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, bias, labels)
    assert counter.get_total_flops() == 2 * LABELS * WIDTH * CLASSES
    assert float(loss) == pytest.approx(float(F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")))

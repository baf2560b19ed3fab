"""Fast dropout: the statistics of torch's own, and its gradient."""

import pytest
import torch
import torch.nn.functional as F

from polygraft.training.dropout import FastDropout

SIZE = 1_000_000


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_with_its_probability_and_keeps_the_mean(p):
    torch.manual_seed(0)
    with FastDropout():
        out = F.dropout(torch.ones(SIZE), p, training=True)
    dropped = int((out == 0).sum())
    assert abs(dropped - SIZE * p) < 4.5 * (SIZE * p * (1 - p)) ** 0.5
    assert float(out.max()) == pytest.approx(1 / (1 - p))
    kept = (out != 0).double()
    for lag in (1, 2, 3, 4, 1000):  # four masks come out of one draw: neighbours are independent all the same
        correlation = float(((kept[lag:] - (1 - p)) * (kept[:-lag] - (1 - p))).mean()) / (p * (1 - p))
        assert abs(correlation) < 4.5 / SIZE**0.5


def test_is_a_function_of_torchs_seed_and_passes_gradients_where_it_passes_values():
    x = torch.randn(1000, requires_grad=True)
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        with FastDropout():
            outs.append(F.dropout(x, 0.25, training=True))
    assert torch.equal(*outs)
    (gradient,) = torch.autograd.grad(outs[0].sum(), x)
    assert torch.equal(gradient, (outs[0] != 0) / 0.75)


def test_serves_modules_and_leaves_evaluation_alone():
    x = torch.randn(1000)
    with FastDropout():
        assert F.dropout(x, 0.5, training=False) is x
        assert torch.nn.Dropout(0.5).eval()(x) is x
        dropped = torch.nn.Dropout(0.5)(x)
    assert 350 < int((dropped == 0).sum()) < 650
    assert torch.equal(dropped[dropped != 0], 2 * x[dropped != 0])

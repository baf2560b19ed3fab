"""What placebos are drawn from."""

from __future__ import annotations

import pytest
import torch

from polygraft.transfers import controls


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_a_cycle_leaves_nothing_in_its_place(count):
    for seed in range(20):
        found = controls.cycle(count, generator(seed))
        assert sorted(found.tolist()) == list(range(count))
        assert count < 2 or (found != torch.arange(count)).all()
        seen, place = set(), 0
        while count and place not in seen:
            seen.add(place)
            place = int(found[place])
        assert len(seen) == count


def test_rotations_are_orthogonal_and_uniform():
    turn = controls.rotation(20, generator())
    torch.testing.assert_close(turn @ turn.T, torch.eye(20, dtype=torch.float64), atol=1e-12, rtol=0)  # measured 1e-15
    first = torch.stack([controls.rotation(3, generator(seed))[0, 0] for seed in range(400)])
    assert abs(float(first.mean())) < 0.12  # 0 and 1/3 on a sphere; standard errors 0.03 and 0.015
    assert abs(float(first.square().mean()) - 1 / 3) < 0.06


def test_noise_has_the_norm_and_nothing_else():
    model = torch.randn(30, 40, generator=generator(5))
    noise = controls.noise_like(model, generator())
    assert noise.norm() == pytest.approx(float(model.norm()))
    assert abs(float((noise * model).sum() / model.norm() ** 2)) < 0.1  # standard error 0.03
    assert not controls.noise_like(torch.zeros(3), generator()).any()
    assert not controls.sized_like(torch.zeros(3), torch.ones(3)).any()

"""The ridge map against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polygraft.transfers import linear_map
from polygraft.transfers.linear_map import csls_precision, mean_pairwise_cosine, moments_of, r_squared


def problem(count=300, a=12, b=17, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(count + 5, a, generator=generator) * torch.linspace(0.2, 3, a) + 0.7
    weight, intercept = torch.randn(a, b, generator=generator), torch.randn(b, generator=generator)
    target = torch.zeros(count + 9, b)
    source_ids = np.random.default_rng(seed).permutation(count + 5)[:count]
    target_ids = np.random.default_rng(seed + 1).permutation(count + 9)[:count]
    values = source[source_ids] @ weight + intercept
    target[target_ids] = values + noise * torch.randn(count, b, generator=generator)
    return source, source_ids, target, target_ids, weight, intercept


@pytest.mark.parametrize(("a", "b"), [(12, 17), (17, 12), (8, 8)])
def test_recovers_an_exact_map_between_other_widths(a, b):
    source, source_ids, target, target_ids, weight, intercept = problem(a=a, b=b)
    found = moments_of(source, source_ids, target, target_ids, np.ones(300)).solve(0.0)
    torch.testing.assert_close(found.weight.float(), weight, atol=1e-5, rtol=0)  # measured 4e-7
    torch.testing.assert_close(found.intercept.float(), intercept, atol=1e-5, rtol=0)
    unseen = torch.randn(4, a)
    torch.testing.assert_close(found(unseen).float(), unseen @ weight + intercept, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ridge", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [300, 9])  # 9 rows for 12 unknowns: only the ridge, or the shortest solution, decides
def test_equals_least_squares_on_the_augmented_system(ridge, weighted, count, monkeypatch):
    monkeypatch.setattr(linear_map, "BLOCK_ROWS", 64)  # several blocks
    source, source_ids, target, target_ids, _, _ = problem(count=count, noise=0.5)
    weights = np.random.default_rng(3).uniform(0.1, 4, count) if weighted else np.ones(count)
    found = moments_of(source, source_ids, target, target_ids, weights).solve(ridge)
    # ridge as data: sqrt(penalty) * I appended to the rows, centred and scaled by the root of their weights
    x, y = source[source_ids].double().numpy(), target[target_ids].double().numpy()
    mean_x, mean_y = np.average(x, axis=0, weights=weights), np.average(y, axis=0, weights=weights)
    root = np.sqrt(weights)[:, None]
    penalty = ridge * (root * (x - mean_x)).var(axis=0, mean=np.zeros((1, 12))).sum() * count / 12
    top, bottom = np.vstack([root * (x - mean_x), np.sqrt(penalty) * np.eye(12)]), np.zeros((12, 17))
    expected = np.linalg.lstsq(top, np.vstack([root * (y - mean_y), bottom]), rcond=1e-12)[0]
    np.testing.assert_allclose(found.weight.numpy(), expected, atol=1e-8)
    np.testing.assert_allclose(found.intercept.numpy(), mean_y - mean_x @ expected, atol=1e-8)


def test_error_follows_the_noise():
    errors = []
    for noise in (0.01, 0.1, 1.0):
        source, source_ids, target, target_ids, weight, _ = problem(count=2000, noise=noise)
        found = moments_of(source, source_ids, target, target_ids, np.ones(2000)).solve(0.0)
        errors.append(float((found.weight - weight).norm()))
    assert errors[1] / errors[0] == pytest.approx(10, rel=0.02)
    assert errors[2] / errors[1] == pytest.approx(10, rel=0.02)


def test_a_heavy_row_pulls_the_map():
    source, source_ids, target, target_ids, _, _ = problem(noise=1.0)
    weights = np.ones(300)
    weights[7] = 1e6
    found = moments_of(source, source_ids, target, target_ids, weights).solve(0.0)
    mapped = found(source[source_ids[7]][None])[0]
    torch.testing.assert_close(mapped.float(), target[target_ids[7]], atol=1e-3, rtol=0)


def test_r_squared():
    true = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    assert r_squared(true, true) == 1.0
    assert r_squared(true.mean(0).expand(50, 3), true) == pytest.approx(0.0, abs=1e-6)
    assert r_squared(2 * true.mean(0) - true, true) == pytest.approx(-3.0, abs=1e-5)  # mirrored: twice the deviation


def test_csls_equals_its_definition_and_discounts_hubs():
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(30, 8, generator=generator)
    assert csls_precision(true, true) == 1.0
    predicted = true + 1.2 * torch.randn(30, 8, generator=generator)
    p, t = (m - m.mean(0) for m in (predicted, true))
    cosine = [[float(u @ v / (u.norm() * v.norm())) for v in t] for u in p]
    hits = 0
    for i in range(30):
        near_i = np.mean(sorted(cosine[i])[-10:])
        scores = [2 * cosine[i][j] - near_i - np.mean(sorted(row[j] for row in cosine)[-10:]) for j in range(30)]
        hits += int(np.argmax(scores) == i)
    assert 0 < hits < 30
    assert csls_precision(predicted, true) == pytest.approx(hits / 30)


def test_mean_pairwise_cosine_equals_all_pairs():
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(3)) + 0.5
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    pairs = [float(unit[i] @ unit[j]) for i in range(20) for j in range(i)]
    assert mean_pairwise_cosine(rows) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(mean_pairwise_cosine(rows[:1]))


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_low_rank_is_the_best_of_its_rank(ridge):
    """Against the textbook: least squares on rows augmented by the penalty, their fitted values cut by an SVD."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(400, width, generator=generator, dtype=torch.float64) + 0.5 for width in (12, 9))
    y[:, :5] += x[:, :5]
    moments = linear_map.Moments(12, 9)
    moments.add(x[:150], y[:150])
    moments.add(x[150:], y[150:])
    down, up = moments.low_rank(ridge, 3)
    assert down.shape == (3, 12) and up.shape == (9, 3)
    penalty = np.sqrt(ridge * np.square(x.numpy()).sum() / 12) * np.eye(12)
    top, bottom = np.vstack([x, penalty]), np.vstack([y, np.zeros((12, 9))])
    fitted = top @ np.linalg.lstsq(top, bottom, rcond=None)[0]
    left, values, right = np.linalg.svd(fitted)
    best = left[:, :3] * values[:3] @ right[:3]
    np.testing.assert_allclose(top @ (up @ down).T.numpy(), best, atol=1e-12 * np.abs(best).max() * 100)
    wholly = moments.explained(linear_map.LinearMap.through_origin((up @ down).T))
    missed = y - x @ (up @ down).T
    assert wholly == pytest.approx(1 - float(missed.square().sum() / y.square().sum()), abs=1e-12)
    full = moments.low_rank(ridge, 20)
    assert full[0].shape == (9, 12)
    np.testing.assert_allclose((top @ (full[1] @ full[0]).T.numpy()), fitted, atol=1e-10)

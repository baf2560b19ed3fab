"""The three modes on a tiny pair with a known truth: which rows are dead, and the exact map between the spaces."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from polygraft.cli.plan import text
from polygraft.errors import TransferError
from polygraft.transfers.plan import check_plan
from polygraft.transfers.rows import embeddings

SHARED = "model.shared.weight"


def carry_out(inputs):
    plan = embeddings.plan(inputs)
    check_plan(plan, inputs.target.state_dict())
    fitted = embeddings.fit(plan, inputs)
    changes = embeddings.apply(plan, fitted, inputs)
    return plan, fitted, changes, embeddings.diagnose(plan, fitted, inputs, changes)


def unchanged(before, after, changed):
    kept = np.setdiff1d(np.arange(len(before)), changed)
    return torch.equal(before[kept], after[kept])


def test_repair_recovers_the_map_and_the_rows(pair):
    before = pair.target.clone()
    plan, fitted, _, figures = carry_out(pair.inputs("repair"))
    torch.testing.assert_close(fitted.map.weight.float(), pair.weight, atol=1e-4, rtol=0)
    assert figures["heldout_r2"] > 1 - 1e-8
    assert figures["csls_precision_at_1"] == 1.0
    assert np.array_equal(plan.sets.dead, pair.dead)
    # around the mean of the trained rows, at 0.8 of their median distance, and otherwise a shifted and scaled truth
    trained = before[np.setdiff1d(pair.vocabulary.ordinary, pair.dead)]
    truth = pair.truth[pair.vocabulary.source_of[pair.dead]]
    offsets = truth - truth.mean(0)
    distance = (trained - trained.mean(0)).norm(dim=1).median()
    expected = trained.mean(0) + 0.8 * offsets * distance / offsets.norm(dim=1).median()
    torch.testing.assert_close(pair.target[pair.dead], expected, atol=1e-4, rtol=0)
    assert unchanged(before, pair.target, np.concatenate([pair.dead, pair.dead_codes]))


def test_repair_follows_the_noise(pair):
    clean = pair.target.clone()
    errors = []
    for noise in (0.01, 0.1):
        pair.target.copy_(clean)
        trained = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)
        generator = torch.Generator().manual_seed(9)
        pair.target[trained] += noise * torch.randn(len(trained), 48, generator=generator)
        _, fitted, _, _ = carry_out(pair.inputs("repair"))
        errors.append(float((fitted.map.weight - pair.weight).norm()))
    assert errors[1] / errors[0] == pytest.approx(10, rel=0.02)


def test_rows_that_the_source_never_learned_are_recentred(pair):
    lost = pair.vocabulary.source_of[pair.dead[:40]]
    generator = torch.Generator().manual_seed(6)
    drift = 2 * torch.randn(32, generator=generator)
    pair.source[lost] = drift + 0.02 * torch.randn(40, 32, generator=generator)
    pair.source[1] = drift
    plan = embeddings.plan(pair.inputs("repair"))
    by_transform = {entry.transform: entry.ids for entry in plan.entries}
    assert np.array_equal(by_transform["recentre"], pair.dead[:40])
    assert np.array_equal(by_transform["repair"], pair.dead[40:])
    assert not np.isin(pair.dead, plan.sets.fit).any()


@pytest.mark.parametrize("norm_scale", [1.0, 0.5])
def test_recentre_needs_no_source_and_removes_the_drift(pair, norm_scale):
    before = pair.target.clone()
    plan, fitted, changes, figures = carry_out(pair.inputs("recentre", norm_scale=norm_scale))
    assert fitted is None
    assert figures["mean_pairwise_cosine.dead_before"] > 0.99
    trained = before[np.setdiff1d(pair.vocabulary.ordinary, pair.dead)]
    after = pair.target[pair.dead]
    offsets, distances = after - trained.mean(0), (trained - trained.mean(0)).norm(dim=1)
    assert float(offsets.norm(dim=1).median()) == pytest.approx(norm_scale * float(distances.median()), rel=1e-4)
    # nothing transferred: what is left is each row's own noise, scaled
    own = before[pair.dead] - before[np.concatenate([pair.dead, pair.dead_codes])].mean(0)
    assert float(torch.cosine_similarity(offsets, own, dim=1).min()) > 0.9999
    assert unchanged(before, pair.target, changes.ids)
    assert np.array_equal(changes.ids, np.sort(np.concatenate([pair.dead, pair.dead_codes])))
    assert torch.equal(changes.before, before[changes.ids])
    assert sum(plan.row_counts().values()) == len(before)


def test_dead_language_codes_become_languages(pair):
    before = pair.target.clone()
    carry_out(pair.inputs("recentre"))
    known = before[np.setdiff1d(pair.vocabulary.language_code, pair.dead_codes)]
    after = pair.target[pair.dead_codes]
    spread = (known - known.mean(0)).norm(dim=1).median()
    assert float((after - known.mean(0)).norm(dim=1).median()) == pytest.approx(float(spread), rel=1e-4)
    assert len(torch.unique(after, dim=0)) == len(after)  # distinct, so that training can tell them apart


def test_codes_that_strayed_from_the_ball_are_still_unknown(pair):
    """As in nano mBART: codes named in texts as locales lie 2 to 5 radii from the drift, known languages 20 or more."""
    generator = torch.Generator().manual_seed(7)
    stray = pair.dead_codes[:3]
    pair.target[stray] += 0.1 * torch.randn(3, 48, generator=generator)
    before = pair.target.clone()
    plan, _, _, _ = carry_out(pair.inputs("recentre"))
    assert np.array_equal(plan.sets.dead_codes, pair.dead_codes)
    known = before[np.setdiff1d(pair.vocabulary.language_code, pair.dead_codes)]
    distances = (pair.target[pair.dead_codes] - known.mean(0)).norm(dim=1)
    torch.testing.assert_close(distances, distances.median().expand(len(distances)), rtol=1e-4, atol=0)


def test_without_known_languages_codes_are_placed_among_tokens(pair):
    generator = torch.Generator().manual_seed(8)
    alive = np.setdiff1d(pair.vocabulary.language_code, pair.dead_codes)
    pair.target[alive] = pair.target[1] + 0.02 * torch.randn(len(alive), 48, generator=generator)
    plan = embeddings.plan(pair.inputs("recentre"))
    entry = next(entry for entry in plan.entries if entry.token_class == "language codes, recentred")
    assert entry.transform == "recentre"
    assert np.array_equal(entry.ids, pair.vocabulary.language_code)


def test_delta_from_an_unchanged_source_changes_no_bit(pair):
    before = {name: tensor.clone() for name, tensor in pair.target_model.state_dict().items()}
    carry_out(pair.inputs("delta", before=copy.deepcopy(pair.source_model)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.target_model.state_dict().items())


@pytest.mark.parametrize(("alpha", "k"), [(1.0, 5.0), (0.5, 0.0)])
def test_delta_moves_rows_of_the_text_by_the_mapped_change(pair, alpha, k):
    source_before, before = copy.deepcopy(pair.source_model), pair.target.clone()
    ordinary = pair.vocabulary.ordinary
    seen = ordinary[pair.counts[ordinary] > 0]
    change = torch.randn(len(seen), 32, generator=torch.Generator().manual_seed(4))
    decay = torch.full((32,), 0.3)  # what moves every row alike must not be transferred
    pair.source[pair.vocabulary.source_of[ordinary]] += decay
    pair.source[pair.vocabulary.source_of[seen]] += change
    inputs = pair.inputs("delta", before=source_before, alpha=alpha, shrinkage_count=k)
    plan, _, changes, figures = carry_out(inputs)
    count = torch.from_numpy(pair.counts[seen])[:, None]
    expected = before[seen] + alpha * count / (count + k) * (change @ pair.weight) / 48**0.5
    torch.testing.assert_close(pair.target[seen], expected.float(), atol=1e-4, rtol=0)
    assert unchanged(before, pair.target, seen)
    assert np.array_equal(changes.ids, seen)
    assert figures["text_share_changed"] == 1.0
    assert any("never learned" in warning for warning in plan.warnings)


def test_a_healthy_target_is_left_alone(pair):
    dead = np.concatenate([pair.dead, pair.dead_codes, [1]])
    pair.target[dead] = torch.randn(len(dead), 48, generator=torch.Generator().manual_seed(2))
    before = pair.target.clone()
    plan, fitted, changes, figures = carry_out(pair.inputs("repair"))
    assert fitted is None
    assert figures["dead_rows"] == figures["changed_rows"] == len(changes.ids) == 0
    assert torch.equal(before, pair.target)
    assert any("no row that was never learned" in warning for warning in plan.warnings)


def test_unscaled_embeddings(pair):
    pair.target_model.config.scale_embedding = False
    _, fitted, _, _ = carry_out(pair.inputs("repair"))
    torch.testing.assert_close(fitted.map.weight.float(), pair.weight / 48**0.5, atol=1e-4, rtol=0)


def test_diagnostics_count_scripts(pair):
    _, _, _, figures = carry_out(pair.inputs("repair"))
    scripts = {name.partition(".")[2]: n for name, n in figures.items() if name.startswith("dead_rows.")}
    assert sum(scripts.values()) == figures["dead_rows"] == len(pair.dead)
    assert scripts["LATIN"] > 10
    assert scripts["CYRILLIC"] > 10
    assert figures["dead_language_codes"] == len(pair.dead_codes)
    assert figures["text_share_dead"] == pytest.approx(pair.counts[pair.dead].sum() / pair.counts.sum())
    json.dumps(figures, allow_nan=False)


def test_rows_that_are_frequent_in_the_text_weigh_more(pair):
    generator = torch.Generator().manual_seed(9)
    trained = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)
    pair.target[trained] += 0.3 * torch.randn(len(trained), 48, generator=generator)
    favoured = trained[::3]
    residuals = []
    for count in (0, 10**15):
        pair.counts[:] = 0
        pair.counts[favoured] = count
        inputs = pair.inputs("repair")
        fitted = embeddings.fit(embeddings.plan(inputs), inputs)
        mapped = fitted.map(pair.source[pair.vocabulary.source_of[favoured]]) / 48**0.5
        residuals.append(float((mapped - pair.target[favoured]).norm()))
    assert residuals[1] < 0.97 * residuals[0]


def test_too_few_common_rows_are_refused(pair):
    generator = torch.Generator().manual_seed(3)
    alive = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)[40:]
    pair.target[alive] = pair.target[1] + 0.02 * torch.randn(len(alive), 48, generator=generator)
    inputs = pair.inputs("repair")
    with pytest.raises(TransferError, match="only 40 tokens have rows that both models learned"):
        embeddings.fit(embeddings.plan(inputs), inputs)


def test_untied_target_is_refused(pair):
    pair.target_model.lm_head.weight = torch.nn.Parameter(pair.target.clone())
    with pytest.raises(TransferError, match="two tensors"):
        embeddings.plan(pair.inputs("recentre"))


def test_plan_of_the_pair_reads_well(pair):
    table = text(embeddings.plan(pair.inputs("repair")).to_json())
    for words in ("text tokens, mapped", "language codes, recentred", "special tokens", "<pad>", "other tensors"):
        assert words in table

"""Controls of method embeddings: what is written in place of what the source knows."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from pydantic import ValidationError

from polygraft.transfers.methods import EmbeddingsTransfer
from polygraft.transfers.plan import check_plan
from polygraft.transfers.rows import embeddings

OUTPUT, SHARED = "lm_head.weight", "model.shared.weight"


def carry_out(inputs):
    plan = embeddings.plan(inputs)
    check_plan(plan, inputs.target.state_dict())
    fitted = embeddings.fit(plan, inputs)
    return plan, fitted, embeddings.apply(plan, fitted, inputs)


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
    assert (entry.done, entry.origin) == ("repair, permuted", "source, other tokens")


def test_random_rows_have_the_mean_and_the_lengths_of_the_mapped_ones(pair):
    (real, _), (drawn, plan) = repaired(pair), repaired(pair, control="random")
    mean = real.mean(0)
    torch.testing.assert_close((drawn - mean).norm(dim=1), (real - mean).norm(dim=1), rtol=1e-5, atol=0)
    spread = (real - mean).norm(dim=1).square().mean().sqrt()
    assert float((drawn.mean(0) - mean).norm()) < 2 * float(spread) / len(real) ** 0.5  # the mean of random directions
    assert float(torch.cosine_similarity(drawn - mean, real - mean, dim=1).mean().abs()) < 0.1
    entry = next(entry for entry in plan.entries if entry.token_class == "text tokens, mapped")
    assert (entry.done, entry.origin) == ("repair, random", "random numbers")


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
        carry_out(dataclasses.replace(inputs, seed=seed))
        found.append(pair.target.clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert EmbeddingsTransfer(control=control).draws
    assert not EmbeddingsTransfer().draws


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "recentre", "control": "random"}, "takes nothing from it: leave `control` out"),
        ({"mode": "replace"}, "Input should be 'repair', 'recentre' or 'delta'"),
    ],
)
def test_meaningless_combinations_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        EmbeddingsTransfer(**settings)

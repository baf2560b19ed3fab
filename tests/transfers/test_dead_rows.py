"""The detector of never-learned rows, on matrices whose dead rows are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polygraft.models.checkpoints import load_masked_lm, load_seq2seq, load_tokenizer
from polygraft.transfers.rows.dead_rows import find_dead_rows

INITIAL = 0.02  # standard deviation of initial noise


def trained_rows(count, width, seed=0):
    """Rows like those of a trained tied matrix: a falling spectrum, and the drift the stronger the rarer the token."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(width, generator=generator) * 1.0 / width**0.5
    spectrum = 0.5 / torch.arange(1, width + 1) ** 0.5
    rows = torch.randn(count, width, generator=generator) * spectrum * 0.4
    rareness = torch.rand(count, 1, generator=generator)
    return rows + 0.85 * rareness * drift + INITIAL * torch.randn(count, width, generator=generator), drift


def planted(count, dead, width, pad=True, seed=0):
    rows, drift = trained_rows(count, width, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    ids = np.sort(np.random.default_rng(seed).choice(np.arange(1, count), dead, replace=False))
    rows[torch.from_numpy(ids)] = drift + INITIAL * torch.randn(dead, width, generator=generator)
    rows[0] = drift if pad else 0.0
    return rows, ids


@pytest.mark.parametrize("anchor", ["pad", "zero pad", "wrong row"])
@pytest.mark.parametrize(
    ("count", "dead", "width"), [(3000, 1400, 64), (3000, 90, 128), (3000, 2800, 64), (400, 150, 48)]
)
def test_finds_exactly_the_planted_rows(count, dead, width, anchor):
    rows, ids = planted(count, dead, width, pad=anchor == "pad")
    wrong = int(np.setdiff1d(np.arange(1, count), ids)[0])
    found = find_dead_rows(rows, np.arange(1, count), [wrong if anchor == "wrong row" else 0])
    assert np.array_equal(found.ids, ids)
    assert found.ids.dtype == np.int64
    # radius of a Gaussian ball INITIAL * sqrt(width); spread 1 is the Gaussian's; measured 0.991 to 0.998 and 0.998
    # to 1.097
    assert found.figures["radius"] == pytest.approx(INITIAL * width**0.5, rel=0.03)
    assert found.figures["spread"] == pytest.approx(1.0, abs=0.12)
    assert found.figures["isotropy"] > 0.9


def test_fp16_storage_changes_nothing():
    rows, ids = planted(2000, 500, 64)
    assert np.array_equal(find_dead_rows(rows.half(), np.arange(1, 2000), [0]).ids, ids)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [48, 256])
def test_finds_none_where_all_rows_were_trained(width, seed):
    rows, drift = trained_rows(2000, width, seed)
    rows[0] = drift
    found = find_dead_rows(rows, np.arange(1, 2000), [0])
    assert len(found.ids) == 0
    assert "around row 0" in found.reason


def test_a_tight_cluster_with_structure_is_no_noise():
    """Rows at one distance from a common vector that differ in three dimensions only have been learned."""
    generator = torch.Generator().manual_seed(1)
    offsets = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator), dim=1)
    rows = torch.ones(500, 64)
    rows[:, :3] += offsets
    found = find_dead_rows(rows, np.arange(500), [0])
    assert len(found.ids) == 0
    assert "differ by more than noise (isotropy 0.05)" in found.reason


def test_pad_away_from_the_centre_speaks_against_a_ball():
    rows, ids = planted(2000, 500, 64)
    assert np.array_equal(find_dead_rows(rows, np.arange(1, 2000), pad=0).ids, ids)
    rows[0, 0] += INITIAL * 64**0.5  # by one radius
    found = find_dead_rows(rows, np.arange(1, 2000), pad=0)
    assert len(found.ids) == 0
    assert "<pad> is not at the centre of the 500 rows (1.0" in found.reason
    rows[0] = 0  # no proof, but nothing against it
    assert np.array_equal(find_dead_rows(rows, np.arange(1, 2000), pad=0).ids, ids)


def test_finds_none_in_fresh_random_weights():
    fresh = INITIAL * torch.randn(2000, 64, generator=torch.Generator().manual_seed(1))
    found = find_dead_rows(fresh, np.arange(2000), [1])
    assert len(found.ids) == 0
    assert "share too little drift" in found.reason


def test_only_candidates_are_returned():
    rows, ids = planted(2000, 500, 64)
    candidates = np.arange(1, 1000)
    assert np.array_equal(find_dead_rows(rows, candidates, [0]).ids, ids[ids < 1000])


def test_scale_of_the_model_does_not_matter():
    rows, ids = planted(2000, 500, 64)
    for factor in (1e-3, 50.0):
        assert np.array_equal(find_dead_rows(rows * factor, np.arange(1, 2000), [0]).ids, ids)


def test_few_rows_are_no_ball():
    rows, _ = planted(2000, 6, 64)
    assert len(find_dead_rows(rows, np.arange(1, 2000), [0]).ids) == 0
    assert len(find_dead_rows(rows, np.arange(1, 5), [0]).ids) == 0


def test_a_whole_trained_matrix_is_no_ball():
    """Nano XLM-R, all of whose rows were learned, has a strong common drift: its rows once passed for never-seen."""
    matrix = load_masked_lm("polygraft/nano-xlmr").get_input_embeddings().weight
    found = find_dead_rows(matrix, np.arange(4, len(matrix) - 1), pad=1)
    assert len(found.ids) == 0, found.reason


def test_rows_that_the_nano_target_never_read():
    """It read seven languages. (A few more codes occur in Debian's texts, as names of locales.)"""
    matrix = load_seq2seq("polygraft/nano-mbart").get_input_embeddings().weight
    tokenizer = load_tokenizer("polygraft/nano-mbart")
    found = set(find_dead_rows(matrix, np.arange(4, len(matrix)), pad=1).ids.tolist())
    read = ["en_XX", "it_IT", "da_DK", "fr_XX", "de_DE", "pt_XX", "ja_XX", "▁the", "▁und", "▁fichiers"]
    unread = ["uk_UA", "pl_PL", "es_XX", "cs_CZ", "ar_AR", "▁пакунок", "▁бібліотека"]
    assert not found & set(tokenizer.convert_tokens_to_ids(read))
    assert found >= set(tokenizer.convert_tokens_to_ids(unread))

"""Masking statistics, and the masked-positions-only loss against Hugging Face's own."""

import numpy as np
import pytest
import torch

from polygraft.data.layout import IGNORED
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise

PROBABILITY = 0.15


@pytest.fixture
def rows(xlmr_tokenizer):
    torch.manual_seed(0)
    ordinary = torch.randint(4, len(xlmr_tokenizer) - 1, (400, 60))
    return [
        {"input_ids": row[: 20 + i % 41].numpy().astype(np.int32), "language": -1} for i, row in enumerate(ordinary)
    ]


def within(observed: int, trials: int, p: float) -> bool:
    """Whether a binomial count lies within 4.5 standard deviations: one false alarm in 150,000."""
    return abs(observed - trials * p) < 4.5 * (trials * p * (1 - p)) ** 0.5


def test_shares_of_masking(xlmr_tokenizer, rows):
    torch.manual_seed(3)
    batch = MaskedLM(xlmr_tokenizer, PROBABILITY, Noise(3)).collate(rows)
    ids, labels = batch["input_ids"], batch["labels"]
    real = sum(len(row["input_ids"]) for row in rows)
    chosen = labels != IGNORED
    n = int(chosen.sum())
    assert torch.equal(batch["label_positions"], chosen.flatten().nonzero()[:, 0])
    masked = int((ids[chosen] == xlmr_tokenizer.mask_token_id).sum())
    kept = int((ids[chosen] == labels[chosen]).sum())
    assert within(n, real, PROBABILITY)
    assert within(masked, n, 0.8)
    # A random substitute is the same token once in a vocabulary; the tolerance covers that.
    assert within(kept, n, 0.1)
    assert within(n - masked - kept, n, 0.1)


@pytest.mark.parametrize("tokens", [1, 2, 4, 10, 20, 50, 500])
def test_share_of_masking_in_small_batches(xlmr_tokenizer, tokens):
    """One token where none was drawn, so 1 - (1 - p)^n batches out of one have none beyond their due."""
    objective = MaskedLM(xlmr_tokenizer, PROBABILITY, Noise(2))
    batches, row = 4000, [{"input_ids": np.arange(10, 10 + tokens, dtype=np.int32) % 200 + 4}]
    counts = np.array([len(objective.collate(row)["label_positions"]) for _ in range(batches)])
    assert counts.min() == 1 or tokens > 20
    none = (1 - PROBABILITY) ** tokens
    expected = PROBABILITY + none / tokens
    deviation = (PROBABILITY * (1 - PROBABILITY) / (tokens * batches)) ** 0.5
    assert abs(counts.mean() / tokens - expected) < 4.5 * deviation
    if tokens >= 50:
        assert abs(expected - PROBABILITY) < 0.005


def test_every_token_may_be_the_one_that_is_chosen(xlmr_tokenizer):
    objective = MaskedLM(xlmr_tokenizer, 1e-9, Noise(2))
    row = [{"input_ids": np.array([100, 101, 102], dtype=np.int32)}, {"input_ids": np.array([103], dtype=np.int32)}]
    labels = [objective.collate(row)["labels"] for _ in range(400)]
    chosen = torch.cat([label[label != IGNORED] for label in labels])
    assert len(chosen) == 400
    assert all(within(int((chosen == token).sum()), 400, 0.25) for token in (100, 101, 102, 103))


def test_only_real_tokens_are_chosen_or_inserted(xlmr_tokenizer, rows):
    objective = MaskedLM(xlmr_tokenizer, 0.9, Noise(1))
    batch = objective.collate(rows)
    specials = torch.tensor(xlmr_tokenizer.all_special_ids)
    chosen = batch["labels"] != IGNORED
    assert not torch.isin(batch["labels"][chosen], specials).any()
    assert not chosen[batch["attention_mask"] == 0].any()
    substitutes = batch["input_ids"][chosen & (batch["input_ids"] != xlmr_tokenizer.mask_token_id)]
    assert not torch.isin(substitutes, specials).any()
    assert (batch["input_ids"][:, 0] == xlmr_tokenizer.cls_token_id).all()
    ends = batch["attention_mask"].sum(1) - 1
    assert (batch["input_ids"].gather(1, ends[:, None]) == xlmr_tokenizer.sep_token_id).all()


def test_masks_are_dynamic_in_training_and_fixed_in_evaluation(xlmr_tokenizer, rows):
    training, evaluation = (
        MaskedLM(xlmr_tokenizer, PROBABILITY, Noise(3)),
        MaskedLM(xlmr_tokenizer, PROBABILITY, Noise(1, fixed=True)),
    )
    assert not torch.equal(training.collate(rows)["labels"], training.collate(rows)["labels"])
    assert torch.equal(evaluation.collate(rows)["labels"], evaluation.collate(rows)["labels"])


def test_a_batch_without_a_chosen_token_still_has_labels(xlmr_tokenizer):
    rows = [{"input_ids": np.array([7], np.int32), "language": -1}]
    batch = MaskedLM(xlmr_tokenizer, 1e-9, Noise(1)).collate(rows)
    assert batch["labels"].tolist() == [[IGNORED, 7, IGNORED]]


def test_loss_and_gradients_equal_the_full_models(xlmr_tokenizer, tiny_xlmr, rows):
    """Independent reference: XLMRobertaForMaskedLM's own loss. Measured on 10 draws: at most 1e-6 and 6e-8."""
    batch = MaskedLM(xlmr_tokenizer, PROBABILITY, Noise(1, fixed=True)).collate(rows[:16])
    full = tiny_xlmr(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    reference = torch.autograd.grad(full, list(tiny_xlmr.parameters()))
    ours = MaskedLM.loss(tiny_xlmr, **batch) / (batch["labels"] != IGNORED).sum()
    gradients = torch.autograd.grad(ours, list(tiny_xlmr.parameters()))
    assert float(ours) == pytest.approx(float(full), abs=2e-6)
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, reference, strict=True)) < 1e-6

"""mBART's noise: what is removed, what stands for it, and where the language codes go."""

import numpy as np
import pytest
import torch

from polygraft.data.layout import IGNORED
from polygraft.objectives.denoising import SpanDenoising
from polygraft.objectives.noise import Noise

TOKENS = 60


@pytest.fixture
def rows(mbart_tokenizer):
    language = mbart_tokenizer.convert_tokens_to_ids("uk_UA")
    random = np.random.default_rng(0)
    return [{"input_ids": random.integers(4, 100, TOKENS).astype(np.int32), "language": language} for _ in range(300)]


def noise(tokenizer, **changes):
    changes = {"noise": Noise(changes.pop("seed", 0)), **changes}
    return SpanDenoising(tokenizer, **{"mask_ratio": 0.35, "poisson_lambda": 3.5, "permute_sentences": True, **changes})


def test_layout_of_source_and_labels(mbart_tokenizer, rows):
    batch = noise(mbart_tokenizer).collate(rows)
    language, eos = rows[0]["language"], mbart_tokenizer.eos_token_id
    assert (batch["input_ids"][:, 0] == language).all()
    assert (batch["labels"][:, 0] == language).all()
    assert (batch["decoder_input_ids"][:, :2] == torch.tensor([eos, language])).all()
    assert batch["labels"][0].tolist() == [language, *rows[0]["input_ids"].tolist(), eos]


def test_share_and_length_of_spans(mbart_tokenizer, rows):
    objective = noise(mbart_tokenizer, seed=1)
    generator = np.random.default_rng(5)
    drawn = [objective.spans(TOKENS, generator) for _ in range(2000)]
    assert {int(lengths.sum()) for _, lengths in drawn} == {round(0.35 * TOKENS)}
    # All but the last span of a document are plain Poisson draws; the last is cut to the wanted share.
    lengths = np.concatenate([lengths for _, lengths in drawn])
    assert lengths.mean() == pytest.approx(3.5, rel=0.15)
    assert (lengths == 0).any(), "Poisson spans of length 0 insert a mask"
    for starts, sizes in drawn:
        assert (starts[1:] > (starts + sizes)[:-1]).all(), "spans must not touch: each mask stands for one"
        assert starts[-1] + sizes[-1] <= TOKENS


def test_without_permutation_the_rest_is_in_order(mbart_tokenizer, rows):
    objective = noise(mbart_tokenizer, permute_sentences=False)
    generator = np.random.default_rng(2)
    for row in rows[:50]:
        noisy, missing = objective.corrupt(row["input_ids"], generator)
        kept = [token for token in noisy if token != objective.mask]
        assert kept == row["input_ids"][~missing].tolist()


def test_permutation_moves_whole_sentences(mbart_tokenizer, sentences):
    ids = np.array(mbart_tokenizer(" ".join(sentences[:4]), add_special_tokens=False)["input_ids"], np.int32)
    objective = noise(mbart_tokenizer)
    order = objective.shuffled(ids, np.random.default_rng(1))
    assert sorted(order) == list(range(len(ids)))
    assert order.tolist() != sorted(order), "eight sentences hardly ever stay in order"
    before = {tuple(s) for s in np.split(ids, np.flatnonzero(objective.ends_sentence_V[ids]) + 1)}
    shuffled = ids[order]
    assert {tuple(s) for s in np.split(shuffled, np.flatnonzero(objective.ends_sentence_V[shuffled]) + 1)} == before


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_very_short_documents(mbart_tokenizer, length):
    row = {"input_ids": np.arange(4, 4 + length, dtype=np.int32), "language": 400}
    for seed in range(20):
        batch = noise(mbart_tokenizer, seed=seed).collate([row])
        assert mbart_tokenizer.mask_token_id in batch["input_ids"][0]
        assert batch["masked"].any()


def test_masked_labels_are_those_the_input_lacks(mbart_tokenizer, rows):
    batch = noise(mbart_tokenizer, permute_sentences=False, seed=4).collate(rows[:5])
    for i, row in enumerate(rows[:5]):
        kept = batch["input_ids"][i][batch["attention_mask"][i] == 1]
        kept = kept[kept != mbart_tokenizer.mask_token_id].tolist()[1:-1]
        missing = batch["masked"][i, 1 : 1 + TOKENS].numpy()
        assert row["input_ids"][~missing].tolist() == kept


def test_loss_equals_hugging_faces_own(mbart_tokenizer, tiny_mbart, rows):
    """Independent reference: MBartForConditionalGeneration's loss, which also shifts the labels by itself."""
    batch = noise(mbart_tokenizer, seed=1).collate(rows[:8])
    labels = batch["labels"]
    full = tiny_mbart(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    objective = noise(mbart_tokenizer)
    ours = objective.loss(tiny_mbart, **batch) / (labels != IGNORED).sum()
    assert float(ours) == pytest.approx(float(full), abs=2e-6)
    sums = objective.eval_sums(tiny_mbart, batch)
    assert float(sums["eval_loss"][0] / sums["eval_loss"][1]) == pytest.approx(float(full), abs=2e-6)
    assert sums["eval_masked_loss"][1] == batch["masked"].sum() < sums["eval_loss"][1]

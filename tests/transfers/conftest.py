"""A tiny pair with a known truth, in memory and in folders."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polygraft.models.matrices import embedding_matrix
from polygraft.models.vocabulary import map_vocabularies, token_counts, tokens_by_id
from polygraft.settings import TextData
from polygraft.transfers.contract import Inputs
from polygraft.transfers.methods import EmbeddingsTransfer


@pytest.fixture
def pair(tiny_xlmr, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences):
    """A pair with s e_B = e_A W + c exactly; every third piece and all but five languages are dead in the target."""
    generator = torch.Generator().manual_seed(5)
    vocabulary = map_vocabularies(mbart_tokenizer, len(mbart_tokenizer), xlmr_tokenizer, len(xlmr_tokenizer))
    source, target = embedding_matrix(tiny_xlmr), embedding_matrix(tiny_mbart)
    source.copy_(torch.randn(source.shape, generator=generator))
    weight, intercept = torch.randn(32, 48, generator=generator), torch.randn(48, generator=generator)
    truth = (source @ weight + intercept) / 48**0.5
    mapped = vocabulary.source_of >= 0
    target[mapped] = truth[vocabulary.source_of[mapped]]
    codes = vocabulary.language_code
    target[codes] = 3.0 + torch.randn(len(codes), 48, generator=generator)
    dead, dead_codes = vocabulary.ordinary[::3], codes[5:]
    drift = torch.randn(48, generator=generator)
    ids = np.concatenate([dead, dead_codes])
    target[ids] = drift + 0.02 * torch.randn(len(ids), 48, generator=generator)
    target[1] = drift
    counts = token_counts(mbart_tokenizer, sentences[:6], len(target))
    tokens = tokens_by_id(mbart_tokenizer, len(target), "target")

    def inputs(mode, before=None, **settings):
        section = EmbeddingsTransfer(mode=mode, ridge_lambda=0.0, **settings)
        after = None if mode == "recentre" else tiny_xlmr
        known = vocabulary if after is not None else map_vocabularies(mbart_tokenizer, len(target))
        return Inputs(
            settings=section, target=tiny_mbart, vocabulary=known, tokens=tokens, counts=counts, source_before=before,
            source_after=after,
        )  # fmt: skip

    return SimpleNamespace(
        inputs=inputs, source=source, target=target, truth=truth, weight=weight, dead=dead, dead_codes=dead_codes,
        vocabulary=vocabulary, counts=counts, source_model=tiny_xlmr, target_model=tiny_mbart,
    )  # fmt: skip


@pytest.fixture
def folders(pair, tmp_path, xlmr_tokenizer, mbart_tokenizer, sentences):
    for name, model, tokenizer in (
        ("source", pair.source_model, xlmr_tokenizer), ("target", pair.target_model, mbart_tokenizer),
    ):  # fmt: skip
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "text.txt").write_text("\n".join(sentences[:6]), encoding="utf-8")
    text = TextData(train_file=str(tmp_path / "text.txt"), lang="en")
    return SimpleNamespace(
        source=str(tmp_path / "source"), target=str(tmp_path / "target"), text=text, out=tmp_path / "out"
    )

"""Stage 1: continued pretraining, of the source by MLM or of the target by denoising."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import set_seed

from polygraft.data.dataset import read_text, text_dataset
from polygraft.models import checkpoints
from polygraft.objectives.denoising import Denoising
from polygraft.objectives.mlm import MaskedLM
from polygraft.recipe import MLM, TextData
from polygraft.recipe import Denoising as DenoisingSettings
from polygraft.training import train

EVAL_SEED = 1  # the same corruption of the validation text in every evaluation, arm and seed


def run(settings: MLM | DenoisingSettings, model: str, text: TextData, seed: int, out_dir: Path) -> dict[str, Any]:
    """Train `model` (hub name, folder or bundled name) on `text` and save it into `out_dir`; see `training.train`."""
    set_seed(seed)
    tokenizer = checkpoints.load_tokenizer(model)
    if isinstance(settings, MLM):
        network = checkpoints.load_masked_lm(model)
        objectives = [MaskedLM(tokenizer, settings.mlm_probability, seed=s) for s in (None, EVAL_SEED)]
    else:
        network = checkpoints.load_seq2seq(model)
        noise = (settings.mask_ratio, settings.poisson_lambda, settings.permute_sentences)
        objectives = [Denoising(tokenizer, *noise, seed=s) for s in (None, EVAL_SEED)]
    length = min(settings.max_length_tokens, checkpoints.max_positions(network))
    coded = isinstance(settings, DenoisingSettings)
    data = tuple(text_dataset(rows, text, tokenizer, length, coded) for rows in read_text(text, seed))
    return train(network, tokenizer, settings, *objectives, data, seed=seed, out_dir=out_dir)

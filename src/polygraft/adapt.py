"""Stage 1: continued pretraining, of the source by MLM or of the target by denoising."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from polygraft.data.dataset import read_text, text_dataset
from polygraft.models import checkpoints
from polygraft.objectives.denoising import Denoising
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.recipe import MLM, TextData
from polygraft.recipe import Denoising as DenoisingSettings
from polygraft.training import Objective, train

EVAL_NOISE = Noise(seed=1, fixed=True)  # the same corruption of the validation text in every evaluation, arm and seed


def run(settings: MLM | DenoisingSettings, model: str, text: TextData, seed: int, out_dir: Path) -> dict[str, Any]:
    """Train `model` (hub name, folder or bundled name) on `text` and save it into `out_dir`; see `training.train`."""
    set_seed(seed)
    tokenizer = checkpoints.load_tokenizer(model)
    make: Callable[[Noise], Objective]
    if isinstance(settings, MLM):
        network, coded = checkpoints.load_masked_lm(model), False
        make = partial(MaskedLM, tokenizer, settings.mlm_probability)
    else:
        network, coded = checkpoints.load_seq2seq(model), True
        make = partial(Denoising, tokenizer, settings.mask_ratio, settings.poisson_lambda, settings.permute_sentences)
    length = min(settings.max_length_tokens, checkpoints.max_positions(network))
    train_rows, validation_rows = read_text(text, seed)
    data = (
        text_dataset(train_rows, text, tokenizer, length, coded),
        text_dataset(validation_rows, text, tokenizer, length, coded),
    )
    return train(network, tokenizer, settings, make(Noise(seed)), make(EVAL_NOISE), data, seed=seed, out_dir=out_dir)

"""Stage 1: continued pretraining, of the source by MLM or of the target by denoising."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from polygraft import processes
from polygraft.data.dataset import read_text, row_codes, text_dataset
from polygraft.models import adapters, checkpoints
from polygraft.models.recorded import record
from polygraft.models.trimming import full_ids, restore, trim
from polygraft.models.unseen import quieten_others, unseen_mass
from polygraft.objectives import Objective
from polygraft.objectives.denoising import Denoising
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.settings import MLM, TextData
from polygraft.settings import Denoising as DenoisingSettings
from polygraft.training.train import train

EVAL_NOISE = Noise(seed=1, fixed=True)  # the same corruption of the validation text in every evaluation, arm and seed


def run(settings: MLM | DenoisingSettings, model: str, text: TextData, seed: int, out_dir: Path) -> dict[str, Any]:
    """Train `model` (hub name, folder or bundled name) on `text` and save it into `out_dir`; see `training.train`."""
    set_seed(seed)
    coded = not isinstance(settings, MLM)  # whether the model has language codes
    load = checkpoints.load_seq2seq if coded else checkpoints.load_masked_lm
    with processes.together():
        network, full_tokenizer = load(model), checkpoints.load_tokenizer(model)
        splits = train_rows, validation_rows = read_text(text, seed)
        languages = set(row_codes(train_rows, text.lang, text.lang_column, full_tokenizer)) if coded else None
        if languages:
            record(network, full_tokenizer, languages, languages)
        checkpoints.rehearse(network, full_tokenizer, out_dir, languages)
        tokenizer = full_tokenizer
        if settings.trim_vocabulary:
            tokenizer = trim(network, tokenizer, (row[text.text_column] for rows in splits for row in rows))
        make = partial(_objective, settings)
        length = min(settings.max_length_tokens, checkpoints.max_positions(network))
        dataset = partial(text_dataset, data=text, max_length=length, coded=coded)
        data = (dataset(train_rows, tokenizer=tokenizer), dataset(validation_rows, tokenizer=tokenizer))
        objectives = make(tokenizer, Noise(seed)), make(tokenizer, EVAL_NOISE)
        lora = adapters.prepare(network, settings)
    result = train(network, tokenizer, settings, *objectives, data, seed=seed, out_dir=out_dir)
    result |= adapters.finish(network, lora, out_dir)
    if settings.trim_vocabulary:
        network = restore(network, tokenizer, load(model), full_tokenizer)
        held_out = dataset(validation_rows, tokenizer=full_tokenizer)
        mass = unseen_mass(tokenizer, (row[text.text_column] for row in train_rows))
        kept = full_ids(tokenizer, full_tokenizer)
        result |= quieten_others(network, kept, make(full_tokenizer, EVAL_NOISE), held_out, mass)
    checkpoints.save(network, full_tokenizer, out_dir, languages)
    return result


def _objective(settings: MLM | DenoisingSettings, tokenizer: Any, noise: Noise) -> Objective:
    if isinstance(settings, MLM):
        return MaskedLM(tokenizer, settings.mlm_probability, noise)
    return Denoising(tokenizer, settings.mask_ratio, settings.poisson_lambda, settings.permute_sentences, noise)

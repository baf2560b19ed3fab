"""Stage 1: continued pretraining on text, of the source or of the target, by one of the objectives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from polygraft.data.dataset import read_text, row_codes, text_dataset
from polygraft.models import checkpoints
from polygraft.objectives import TextTask
from polygraft.objectives.noise import Noise
from polygraft.objectives.task import Objective, SizedDataset
from polygraft.settings import Running, TextData
from polygraft.stages.train_stage import Lesson, train_stage

EVAL_SEED = 1  # the same corruption of the validation text in every evaluation, arm and seed


def run(
    settings: TextTask, model: str, text: TextData, seed: int, out_dir: Path, running: Running = Running()
) -> dict[str, Any]:
    """Train `model` (hub name, folder or bundled name) on `text` and save it into `out_dir`; see `training.train`.

    Raises:
        CheckpointError: a model of the other kind than the objective needs.
    """
    coded = settings.only_target or checkpoints.is_target(model)  # a target has language codes

    def languages(rows: Any, tokenizer: Any) -> tuple[list[str], list[str]]:
        codes = row_codes(rows, text.lang, text.lang_column, tokenizer)
        return codes, codes

    def objectives(tokenizer: Any) -> tuple[Objective, Objective]:
        make = partial(settings.make, tokenizer, coded=coded)
        return make(Noise(running.seed_of_data(seed))), make(Noise(EVAL_SEED, fixed=True))

    def dataset(rows: Any, tokenizer: Any, network: Any) -> SizedDataset:
        length = min(settings.max_length_tokens, checkpoints.max_positions(network))
        return text_dataset(rows, text, tokenizer, length, coded)

    lesson = Lesson(
        load=checkpoints.load_seq2seq if coded else checkpoints.load_masked_lm,
        read=partial(read_text, text, running.seed_of_data(seed)),
        languages=languages if coded else None,
        source=text,
        dataset=dataset,
        objectives=objectives,
        task=settings.objective,
        idle=settings.idle,
        writes=not coded or bool(settings.only_target),
    )
    return train_stage(lesson, settings, model, seed, out_dir, running)

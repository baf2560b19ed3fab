"""A stage that trains: load, trim, attach, train, restore, save. `adapt` and `finetune` say what is theirs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from polygraft import processes
from polygraft.data.batching import Balance
from polygraft.data.dataset import numbered_languages
from polygraft.errors import RecipeError
from polygraft.models import adapters, checkpoints
from polygraft.models.recorded import record
from polygraft.models.trimming import full_ids, restore, trim
from polygraft.models.unseen import quieten_others, unseen_mass
from polygraft.objectives.task import Objective
from polygraft.settings import BALANCE_NEEDS, PairData, Running, TextData, Training
from polygraft.training.sample import DecodedSample
from polygraft.training.train import train


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a model is trained on, and how it is asked.

    Attributes:
        load: the model of a name.
        read: training and validation rows; called once.
        languages: codes that rows are read and written in, by rows and tokenizer; None for a model without codes.
        source: the section of the data; the last of its columns of text is the one that the model learns to write.
        dataset: by rows, tokenizer and model.
        objectives: to train by and to be judged by, of a tokenizer.
        task: names a new bottleneck adapter.
        idle: the parts of a model that the objective does not use.
        writes: whether what is trained is the output, of which a trimmed vocabulary leaves tokens out.
        sample: of validation rows, as the tokenizer reads them, what is decoded at every evaluation.
    """

    load: Callable[[str], PreTrainedModel]
    read: Callable[[], tuple[Any, Any]]
    languages: Callable[[Any, Any], tuple[Collection[str], Collection[str]]] | None
    source: TextData | PairData
    dataset: Callable[[Any, Any, PreTrainedModel], Any]
    objectives: Callable[[Any], tuple[Objective, Any]]
    task: str
    idle: Callable[[Any], list[Any]] = lambda model: []
    writes: bool = True
    sample: Callable[[Any, Any], DecodedSample | None] = lambda rows, tokenizer: None


def train_stage(
    lesson: Lesson, settings: Training, model: str, seed: int, out_dir: Path, running: Running
) -> dict[str, Any]:
    """Train the checkpoint `model` and save it into `out_dir`; see `training.train`."""
    if settings.sampling_temperature > 1 and not lesson.source.language_columns:
        raise RecipeError(f"sampling_temperature = {settings.sampling_temperature:g}: {BALANCE_NEEDS}")
    set_seed(seed)
    with processes.together():
        network, full_tokenizer = lesson.load(model), checkpoints.load_tokenizer(model)
        splits = train_rows, validation_rows = lesson.read()
        written = None
        if lesson.languages is not None:
            codes = lesson.languages(train_rows, full_tokenizer)
            read, written = map(set, codes)
            learned = read, written, set(zip(*codes, strict=True))
            record(network, full_tokenizer, *learned)
        checkpoints.rehearse(network, full_tokenizer, out_dir, written)
        tokenizer = full_tokenizer
        if settings.trim_vocabulary:
            tokenizer = trim(
                network, tokenizer, (row[c] for rows in splits for row in rows for c in lesson.source.texts)
            )
        data = lesson.dataset(train_rows, tokenizer, network), lesson.dataset(validation_rows, tokenizer, network)
        objectives = lesson.objectives(tokenizer)
        lora = adapters.prepare(network, settings.adapter, settings.trainable, lesson.task)
        for part in lesson.idle(network):
            adapters.freeze(part, network)
    balance = None
    if settings.sampling_temperature > 1:
        languages = numbered_languages(train_rows, lesson.source.language_columns, data[0])
        balance = Balance(data[0].lengths, languages, settings.sampling_temperature)
    result = train(
        network, tokenizer, settings, *objectives, data, seed=seed, out_dir=out_dir, running=running, balance=balance,
        sample=lesson.sample(validation_rows, tokenizer),
    )  # fmt: skip
    result |= adapters.finish(network, lora, out_dir)
    if settings.trim_vocabulary:
        network = restore(network, tokenizer, lesson.load(model), full_tokenizer)
        if lesson.languages is not None:
            record(network, full_tokenizer, *learned)
        if lesson.writes:
            held_out = lesson.dataset(validation_rows, full_tokenizer, network)
            mass = unseen_mass(tokenizer, (row[lesson.source.texts[-1]] for row in train_rows))
            kept = full_ids(tokenizer, full_tokenizer)
            result |= quieten_others(network, kept, lesson.objectives(full_tokenizer)[1], held_out, mass)
    checkpoints.save(network, full_tokenizer, out_dir, written)
    return result

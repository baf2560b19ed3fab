"""The checkpoints that a recipe names, opened as far as a configuration and a tokenizer go: no weights are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers import PreTrainedConfig

from polygraft.checks.memory import parameters_of
from polygraft.data.languages import language_codes, match_code
from polygraft.errors import CheckpointError, DataError, PolygraftError
from polygraft.models import checkpoints
from polygraft.models.vocabulary import SAMPLE_TEXTS, alike_share, check_vocabularies, map_vocabularies
from polygraft.recipe import Recipe

WEIGHTS = (*checkpoints.WEIGHTS, *checkpoints.PICKLED)


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One checkpoint: its kind, size and vocabulary. `parameters` count a tied matrix once."""

    name: str
    role: str
    model_type: str
    parameters: int
    rows: int
    tokens: int
    tokenizer: str
    max_positions: int
    languages: int


@dataclass(frozen=True)
class Opened:
    """A checkpoint's configuration and tokenizer, and what is reported of it."""

    config: PreTrainedConfig
    tokenizer: Any
    report: ModelReport


def open_models(arms: Mapping[str, Recipe]) -> dict[str, Opened]:
    """Open every checkpoint of the arms.

    Raises:
        PolygraftError: one that cannot be used in its role; all such problems in one message.
    """
    roles = {name: "target" for recipe in arms.values() for name in [recipe.target]}
    roles |= {recipe.source: "source" for recipe in arms.values() if recipe.source and needs_source(recipe)}
    opened, problems = {}, []
    for name, role in roles.items():
        try:
            opened[name] = open_model(name, role)
        except PolygraftError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError("\n".join(problems))
    return opened


def needs_source(recipe: Recipe) -> bool:
    """Whether an arm reads its source at all."""
    transfer = recipe.transfer is not None and recipe.transfer.needs.source
    return recipe.adapt is not None or transfer


def open_model(name: str, role: str) -> Opened:
    """Open a checkpoint as "source" or "target".

    Raises:
        CheckpointError: there is none, or not one of that role.
    """
    config = checkpoints.source_config(name) if role == "source" else checkpoints.target_config(name)
    if not Path(checkpoints.resolve(name)).is_dir():
        _assert_published(name)
    tokenizer = checkpoints.load_tokenizer(name)
    report = ModelReport(
        name=name,
        role=role,
        model_type=config.model_type,
        parameters=parameters_of(config),
        rows=config.vocab_size,
        tokens=len(tokenizer),
        tokenizer=type(tokenizer).__name__,
        max_positions=checkpoints.positions_of(config),
        languages=len(language_codes(tokenizer)),
    )
    return Opened(config, tokenizer, report)


def _assert_published(name: str) -> None:
    """Look for the weights of a hub name: in the cache, and unless the hub is off, there."""
    hub, revision = checkpoints.split_revision(name)
    if any(isinstance(huggingface_hub.try_to_load_from_cache(hub, file, revision=revision), str) for file in WEIGHTS):
        return
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise CheckpointError(f"{name}: its weights are not in the cache, and HF_HUB_OFFLINE is set. Unset it once.")
    try:
        published = any(huggingface_hub.file_exists(hub, file, revision=revision) for file in WEIGHTS)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(f"{name}: the hub cannot be asked for its weights: {error}.") from None
    if not published:
        raise CheckpointError(f"{name}: has no weights on the hub ({', '.join(WEIGHTS)}). {checkpoints.REMEDY}")


def model_warnings(arms: Mapping[str, Recipe], opened: Mapping[str, Opened], texts: list[str]) -> Iterator[str]:
    """Say what a run would do otherwise than asked: cut lengths, leave tokens out.

    Raises:
        PolygraftError: languages that the target lacks, or vocabularies between which nothing can be transferred.
    """
    for arm, recipe in arms.items():
        yield from _length_warnings(arm, recipe, opened)
    yield from (
        note
        for name in dict.fromkeys(r.target for r in arms.values())
        if (note := checkpoints.generation_config_note(name))
    )
    pairs = {(r.source, r.target) for r in arms.values() if r.source in opened and r.transfer and needs_source(r)}
    for source, target in sorted(pairs):
        a, b = opened[str(source)], opened[target]
        vocabulary = map_vocabularies(b.tokenizer, b.report.rows, a.tokenizer, a.report.rows)
        alike = alike_share(a.tokenizer, b.tokenizer, [*texts, *SAMPLE_TEXTS])
        yield from (f"{source} into {target}: {said}." for said in check_vocabularies(vocabulary, alike))


def _length_warnings(arm: str, recipe: Recipe, opened: Mapping[str, Opened]) -> Iterator[str]:
    wanted = [
        ("adapt.max_length_tokens", recipe.adapt and recipe.adapt.max_length_tokens, recipe.source),
        (
            "adapt_target.max_length_tokens",
            recipe.adapt_target and recipe.adapt_target.max_length_tokens,
            recipe.target,
        ),
        ("finetune.max_source_length_tokens", recipe.finetune.max_source_length_tokens, recipe.target),
        ("finetune.max_target_length_tokens", recipe.finetune.max_target_length_tokens, recipe.target),
        ("evaluate.max_source_length_tokens", recipe.evaluate.max_source_length_tokens, recipe.target),
    ]
    if recipe.transfer and recipe.transfer.replaces_encoder:  # by the source's, which reads from then on
        wanted += [(key, tokens, recipe.source) for key, tokens, _ in wanted if "source_length" in key]
    for key, tokens, model in wanted:
        limit = opened[str(model)].report.max_positions if model in opened else None
        if tokens and limit and tokens > limit:
            grafted = model == recipe.source and "source_length" in key
            said = "longer sources will be refused" if grafted else f"{limit} are used"
            yield f"arm {arm}: {key} = {tokens}, but {model} has {limit} positions: {said}."


def check_languages(declared: Mapping[str, str], recipe: Recipe, opened: Opened) -> None:
    """Make sure that the target has every language that the data is declared to be in.

    Args:
        declared: language -> where it is declared.

    Raises:
        DataError: naming every one that it lacks, and the nearest ones that it has.
    """
    codes = [*language_codes(opened.tokenizer), *(recipe.add_languages or {})]
    problems = []
    for language, place in declared.items():
        try:
            match_code(language, codes)
        except DataError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise DataError("\n".join(problems))

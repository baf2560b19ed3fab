"""Command-line options of the single stages, and how they become settings.

Options have the names, meanings and defaults of the fields in `polygraft.recipe`, and the same classes validate them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from polygraft.errors import RecipeError
from polygraft.settings import Budget, Evaluate, PairData, TextData, Training
from polygraft.transfer.methods import EmbeddingsTransfer

DEFAULT_EPOCHS = 3
"""The budget when no option gives one: that of the Hugging Face Trainer."""


def option(model: type[BaseModel], field: str, *names: str, metavar: str = "TEXT", panel: str | None = None) -> Any:
    """A typer option with the field's docstring and default as its help."""
    info = model.model_fields[field]
    default = "" if info.default in (None, PydanticUndefined) else f" (default: {info.default})"
    names = names or (f"--{field.replace('_', '-')}",)
    return typer.Option(*names, help=f"{info.description}{default}", metavar=metavar, rich_help_panel=panel)


def _budget(unit: str) -> Any:
    return option(Budget, unit, metavar="NUMBER", panel=f"Budget: one of these (default: {DEFAULT_EPOCHS} epochs)")


Model = Annotated[str, typer.Option("--model", help="The checkpoint: hub name, folder, or a bundled polygraft/… name.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", help="Folder for the results; running again continues there.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, metavar="NUMBER", help="Seed of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the stage, such as weight_decay=0.1."),
]
Epochs = Annotated[str | None, _budget("epochs")]
Steps = Annotated[str | None, _budget("steps")]
Tokens = Annotated[str | None, _budget("tokens")]
Minutes = Annotated[str | None, _budget("minutes")]
Flops = Annotated[str | None, _budget("flops")]
LearningRate = Annotated[str | None, option(Training, "learning_rate", metavar="NUMBER")]
BatchSize = Annotated[str | None, option(Training, "per_device_train_batch_size", metavar="NUMBER")]
TextFile = Annotated[list[str], option(TextData, "train_file", metavar="FILE")]
OptionalTextFile = Annotated[list[str] | None, option(TextData, "train_file", metavar="FILE")]
TextValidation = Annotated[list[str] | None, option(TextData, "validation_file", metavar="FILE")]
TextColumn = Annotated[str | None, option(TextData, "text_column", metavar="COLUMN")]
Lang = Annotated[str | None, option(TextData, "lang", metavar="LANG")]
PairsFile = Annotated[list[str], option(PairData, "train_file", metavar="FILE")]
TestFile = Annotated[list[str], option(PairData, "test_file", metavar="FILE")]
PairsValidation = Annotated[list[str] | None, option(PairData, "validation_file", metavar="FILE")]
InputColumn = Annotated[str | None, option(PairData, "text_column", metavar="COLUMN")]
SummaryColumn = Annotated[str | None, option(PairData, "summary_column", metavar="COLUMN")]
SourceLang = Annotated[str | None, option(PairData, "source_lang", metavar="LANG")]
TargetLang = Annotated[str | None, option(PairData, "target_lang", metavar="LANG")]
Mode = Annotated[str | None, option(EmbeddingsTransfer, "mode", metavar="MODE")]
Beams = Annotated[str | None, option(Evaluate, "num_beams", metavar="NUMBER")]
NewTokens = Annotated[str | None, option(Evaluate, "max_new_tokens", metavar="NUMBER")]
DecodeBatch = Annotated[str | None, option(Evaluate, "per_device_eval_batch_size", "--batch-size", metavar="NUMBER")]

_SPECIAL_NAMES = {"per_device_eval_batch_size": "--batch-size"}
_UNITS = tuple(Budget.model_fields)


def settings(
    command: str,
    options: Sequence[tuple[type[BaseModel], Mapping[str, Any]]],
    assignments: Sequence[str] | None = None,
) -> list[Any]:
    """The settings of a stage, one instance per (class, options given); options that are None were not given.

    `assignments` are `key=value` of any field of any of the classes. Raises one RecipeError for everything wrong.
    """
    from polygraft.recipe.reading import assign, build_settings, parse_assignment

    models = [model for model, _ in options]
    values: dict[type[BaseModel], dict[str, Any]] = {model: {} for model in models}
    places: dict[str, str] = {}
    given_once: set[str] = set()
    for model, given in options:
        for key, value in given.items():
            places[key] = _option_name(key)
            if value is not None:
                given_once.add(key)
                _give(values[model], places, model, key, value)
    for text in assignments or ():
        path, value = parse_assignment(text)
        model = _owner(models, path[0])
        if (key := ".".join(path)) in given_once:
            raise RecipeError(f"{command}: --set {text}: {key} is given twice. Give it once.")
        given_once.add(key)
        assign(values[model], path, value)
        places[".".join(path)] = f"--set {'.'.join(path)}"
    for model in models:
        if "budget" in model.model_fields:
            values[model].setdefault("budget", {"epochs": DEFAULT_EPOCHS})
            places.setdefault("budget", ", ".join(f"--{unit}" for unit in _UNITS))
    return build_settings(values, places, command)


def assert_language(command: str, data: TextData | PairData) -> None:
    """Raise a RecipeError where neither a language nor a column of languages is given for a text or an input."""
    name = "lang" if isinstance(data, TextData) else "source_lang"
    if not getattr(data, name) and not getattr(data, f"{name}_column"):
        meaning = str(type(data).model_fields[name].description).rstrip(".")
        raise RecipeError(
            f"{command}: {_option_name(name)}: is missing ({meaning}); or name the column that has it, "
            f"--set {name}_column=COLUMN"
        )


def _option_name(key: str) -> str:
    return _SPECIAL_NAMES.get(key, f"--{key.replace('_', '-')}")


def _give(values: dict[str, Any], places: dict[str, str], model: type[BaseModel], key: str, value: Any) -> None:
    from polygraft.recipe.problems import is_text

    if key in _UNITS and "budget" in model.model_fields:
        # all units that were given stay, so that the check for exactly one sees them
        values.setdefault("budget", {})[key] = _number(value)
        places[f"budget.{key}"] = _option_name(key)
        return
    values[key] = value if is_text(model.model_fields[key]) else _number(value)


def _number(text: Any) -> Any:
    """2e6 as the number that it is (pydantic reads no exponent in a whole number); other text is left to the schema."""
    from polygraft.recipe.yaml import read_yaml

    value = read_yaml(text)[0] if isinstance(text, str) else text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def _owner(models: Sequence[type[BaseModel]], key: str) -> type[BaseModel]:
    """The class with that field, else the one with the nearest (whose error then names it)."""
    from polygraft.recipe.problems import nearest_key

    exact = [model for model in models if key in model.model_fields]
    near = [model for model in models if nearest_key(key, model.model_fields)]
    return (exact or near or list(models))[0]

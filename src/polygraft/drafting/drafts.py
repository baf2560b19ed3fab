"""The three steps to a recipe, and `init`, which takes them.

`look` finds out what is in the files, `draft` makes a recipe of that, `write` writes it; what they could not tell, and
the user has not said, is told all at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraft.data.files import write_atomically
from polygraft.data.sources import Names, listed
from polygraft.drafting.columns import PairColumns, pair_columns, text_column
from polygraft.drafting.languages import Guess, guess, samples
from polygraft.drafting.splits import Named, Part, by_name, write_parts
from polygraft.drafting.wishes import Wishes
from polygraft.errors import DataError, PolygraftError, RecipeError
from polygraft.recipe.given import settings_of

if TYPE_CHECKING:
    from polygraft.recipe import Recipe

NEEDED = {
    "pairs": "files of labelled pairs, such as --pairs data/pairs.jsonl, or --pairs 'data/train.{en,uk}'",
    "source": "a masked language model, such as --source FacebookAI/xlm-roberta-base",
    "target": "an mBART, such as --target facebook/mbart-large-50",
}
"""What nothing can be drafted without, and how to say it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is in the files.

    Attributes:
        pairs: the files of pairs, by split.
        columns: the pairs'.
        text: the files of plain text; None where the pairs' inputs are to stand in for it.
        text_column: the plain text's.
        guesses: what plain text, inputs and outputs look like, by the key that declares it in a recipe.
    """

    pairs: Named
    columns: PairColumns
    text: Names | None
    text_column: str
    guesses: dict[str, Guess]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A recipe that is not written yet.

    Attributes:
        text: the file's.
        recipe: what it says.
        parts: pairs to be written into files beside it.
        columns: of these, input and output.
        notes: what the user should know, a sentence each.
    """

    text: str
    recipe: Recipe
    parts: list[Part]
    columns: tuple[str, str]
    notes: list[str]


def init(
    wishes: Mapping[str, Any], *, output: str | os.PathLike[str] = "recipe.yaml", overwrite: bool = False
) -> Draft:
    """Draft a commented recipe from files and two models, and write it.

    Args:
        wishes: what `polygraft init` takes as flags: `pairs`, `source` and `target`, and what else is to be as given:
            `text`, `source_lang`, `minutes` …
        output: the recipe's file; pairs that are set apart for testing lie in a folder beside it.
        overwrite: replace what is there.

    Raises:
        RecipeError: what is missing or cannot be told, all at once; the file is there already; too little memory.
        DataError: files that cannot be used.
        CheckpointError: models that cannot be used.
    """
    read, path = settings_of("init", "", Wishes, wishes), Path(output)
    assert_free(path, overwrite)
    made = draft(read, look(read), path)
    write(made, path)
    return made


def assert_needed(wishes: Wishes) -> None:
    """Raise RecipeError for all that is missing of what nothing can be drafted without."""
    missing = [f"  --{key}: {what}" for key, what in NEEDED.items() if getattr(wishes, key) is None]
    if "pairs" not in wishes.model_fields_set and wishes.text is not None:
        missing.append(
            "  Text alone is what `polygraft adapt` takes (--model, --train-file, --lang, --output-dir); a recipe "
            "ends with fine-tuning, which needs pairs."
        )
    if missing:
        raise RecipeError("\n".join(["polygraft init: tell it", *missing]))


def look(wishes: Wishes) -> Found:
    """Read the files: which columns hold the texts, and in which languages these are.

    Raises:
        RecipeError: no pairs or models are named.
        DataError: everything that is wrong with the files, at once.
    """
    assert_needed(wishes)
    problems: list[str] = []
    with _noted(problems):
        for names in filter(None, (wishes.validation_file, wishes.test_file)):
            by_name(names)  # are they there?
    pairs = columns = None
    with _noted(problems):
        pairs = _splits(wishes)
        columns = pair_columns(pairs.train, wishes.text_column, wishes.summary_column, wishes.family_column)
    column = columns.text if columns else "text"
    guesses: dict[str, Guess] = {}
    with _noted(problems):
        if pairs and columns:
            inputs, outputs = samples(pairs.train, (columns.text, columns.summary))
            guesses["source_lang"] = read = guess(inputs)
            guesses["target_lang"] = guess(outputs, read.language if read.sure else None)
    with _noted(problems):
        if wishes.text:
            column = text_column(wishes.text, wishes.text_column)
            guesses["lang"] = guess(samples(wishes.text, (column,))[0])
    if problems or pairs is None or columns is None:
        raise DataError("\n".join(dict.fromkeys(problems)))
    return Found(pairs=pairs, columns=columns, text=wishes.text, text_column=column, guesses=guesses)


def _splits(wishes: Wishes) -> Named:
    """The files of pairs by split: as they are given, else as they are called."""
    named = by_name(wishes.pairs or ())
    return Named(
        train=named.train,
        validation=listed(wishes.validation_file) or named.validation,
        test=listed(wishes.test_file) or named.test,
    )


@contextlib.contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Note an error of the user's, and go on."""
    try:
        yield
    except PolygraftError as error:
        problems.append(str(error))


def assert_free(output: Path, overwrite: bool) -> None:
    """Raise RecipeError where what would be written is there already and is not to be replaced."""
    for path in (output, parts_folder(output)):
        if path.exists() and not overwrite:
            raise RecipeError(f"{path}: is there already. Give another --output, or --overwrite to replace it.")


def parts_folder(output: Path) -> Path:
    """Return the folder of the pairs that are written beside a recipe."""
    return output.with_name(f"{output.stem}-pairs")


def draft(wishes: Wishes, found: Found, output: Path) -> Draft:
    """Make a recipe of what was found, for the file `output`; nothing is written.

    Raises:
        RecipeError: languages that cannot be told and are not given, all at once; too little memory.
        CheckpointError, TransferError: models that cannot be used, or not together.
        DataError: files that cannot be used.
    """
    from polygraft.drafting.making import make

    return make(wishes, found, output)


def write(made: Draft, output: Path) -> None:
    """Write a recipe, and the pairs beside it that it names."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if made.parts:
        write_parts(made.parts, parts_folder(output), made.columns)
    write_atomically(output, made.text)

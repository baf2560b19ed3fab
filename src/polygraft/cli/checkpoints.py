"""The verbs that change a checkpoint without training it: trim, restore, add-language, export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from polygraft.cli import options as o
from polygraft.cli.errors import without_shard_bars
from polygraft.cli.stages import show
from polygraft.errors import RecipeError
from polygraft.settings import AddLanguages, Export, PairData, Settings, Trim

Full = Annotated[str, typer.Option("--full", help="The checkpoint that was trimmed, as it was before.")]
Languages = Annotated[
    list[str],
    typer.Option("--language", metavar="NEW=KNOWN", help="da_DK=sv_SE: the new code, and whose row it starts from."),
]


class Trimming(Settings):
    trim: Trim
    """Data"""


class Exporting(Settings):
    export: Export
    """Export"""
    pairs: PairData
    """Validation rows"""


NOT_EXPORTED = ("train_file", "test_file", "validation_split", "max_train_samples")


@o.takes(Exporting, required=["validation_file"], unused=NOT_EXPORTED)
def export(given: Exporting, model: o.Model, output_dir: o.OutputDir) -> None:
    """Write a fine-tuned model for CTranslate2, which `generate` takes as it is, and compare it with the original."""
    from polygraft.stages import export as stage

    work = partial(stage.run, given.export, model, given.pairs, output_dir)
    _run("export", output_dir, given.export, [model, given.pairs], work)


@o.takes(Trimming, required=["train_file"])
def trim(given: Trimming, model: o.Model, output_dir: o.OutputDir) -> None:
    """Keep only the vocabulary that a text needs: a smaller, faster checkpoint that plain transformers loads."""
    from polygraft.stages import vocabulary as stage

    _run("trim", output_dir, given.trim, [model, given.trim], partial(stage.run_trim, given.trim, model, output_dir))


def restore(model: o.Model, full: Full, output_dir: o.OutputDir) -> None:
    """Write what a trimmed checkpoint has learned back into the full one; all other rows stay bit by bit."""
    from polygraft.stages import vocabulary as stage

    _run("restore", output_dir, Settings(), [model, full], partial(stage.run_restore, model, full, output_dir))


def add_language(model: o.Model, language: Languages, output_dir: o.OutputDir) -> None:
    """Give an mBART the code of a language that it does not have, starting from a related one."""
    pairs = dict(item.partition("=")[::2] for item in language)
    if wrong := [item for item in language if not all(item.partition("="))]:
        raise RecipeError(f"polygraft add-language: --language {wrong[0]}: write new=known, such as da_DK=sv_SE.")
    from polygraft.stages import vocabulary as stage

    work = partial(stage.run_add_languages, pairs, model, output_dir)
    _run("add_languages", output_dir, AddLanguages(relatives=pairs), [model], work)


def _run(name: str, folder: Path, section: Settings, inputs: list[Any], work: Callable[[], dict[str, Any]]) -> None:
    """Do the work unless its result is already in the folder, and print it; another result there is not replaced."""
    from polygraft.runs.records import run_stage

    without_shard_bars()
    show(name, folder, run_stage(name, folder, section, inputs, None, work, replace=False)["result"])

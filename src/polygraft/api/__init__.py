"""The verbs as functions: what `import polygraft` offers. Each does what the command of its name does.

A model is the name of one on the hub, a bundled name, a folder, or the result of an earlier verb. Settings are one of
their classes or a mapping of their fields, as a recipe has them; whatever is wrong with them is one RecipeError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraft.errors import RecipeError
from polygraft.jobs import LauncherName, SideBySide
from polygraft.objectives import OBJECTIVES, TextTask
from polygraft.recipe import Recipe
from polygraft.recipe.given import assert_budget, of_kind, plain, running_of, settings_of
from polygraft.recipe.reading import dump_recipe, load_recipe, parse_recipe
from polygraft.settings import (
    Evaluate,
    Finetune,
    Generate,
    InputData,
    OneOf,
    PairData,
    Running,
    Settings,
    TextData,
)
from polygraft.transfers.methods import DEFAULT_METHOD, METHODS, Method, seeds_of

if TYPE_CHECKING:  # they import torch
    from polygraft.checks import Report
    from polygraft.ranking.report import RankReport
    from polygraft.runs.generation import Count

StrPath = str | os.PathLike[str]
AnyRecipe = Recipe | Mapping[str, Any] | StrPath
Text = TextData | Mapping[str, Any]
Pairs = PairData | Mapping[str, Any]
HowRun = Running | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """A finished stage; it can be given to the next verb as its model.

    Attributes:
        folder: the checkpoint (of `evaluate`: the outputs and scores).
        result: the stage's numbers: losses, what was spent, diagnostics; of `evaluate` what scores.json holds.
        record: all of stage.json: settings, inputs, fingerprint, seconds, versions, machine.
    """

    folder: Path
    result: Mapping[str, Any]
    record: Mapping[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished recipe.

    Attributes:
        verdict: what verdict.json holds: `word`, `sentence`, `effect`, `low`, `high` …; None where none is asked for.
        table: mean scores over seeds, a row per arm and one for the lead baseline.
        report: the page for people.
    """

    verdict: Mapping[str, Any] | None
    table: Sequence[Mapping[str, Any]]
    report: Path


def run(
    recipe: AnyRecipe,
    *,
    seeds: Sequence[int] | None = None,
    output_dir: StrPath | None = None,
    jobs: int | None = 1,
    launcher: LauncherName = "local",
) -> RunResult:
    """Run a recipe: its arms, seed by seed, the comparison and the report. What is done already is kept.

    Args:
        recipe: its file, its data, or a Recipe.
        seeds: in place of the recipe's own.
        output_dir: in place of the recipe's own.
        jobs: how many arms and seeds run side by side, in processes of their own; None: what the machine has room for.
        launcher: where: "local" for processes of this machine, "ray" for a cluster.

    Raises:
        PolygraftError: another run is working in the same folder, or an error of a stage.
    """
    from polygraft import pipeline

    whole = _recipe(recipe, seeds, output_dir)
    found = pipeline.run(whole, recipe_text=dump_recipe(whole), how=SideBySide(jobs, launcher))
    return RunResult(verdict=found["verdict"], table=found["table"], report=Path(found["report"]))


def check(recipe: AnyRecipe, *, output_dir: StrPath | None = None) -> Report:
    """Find out what a run will meet: problems of data and checkpoints; memory, disk and time of every stage.

    Raises:
        DataError: files that cannot be used, or languages that the target lacks.
        CheckpointError: checkpoints that cannot be used.
        TransferError: checkpoints that cannot be used together.
    """
    from polygraft.checks import run

    return run(_recipe(recipe, None, output_dir))


def diagnose(
    recipe: AnyRecipe, *, output_dir: StrPath | None = None, jobs: int | None = 1, launcher: LauncherName = "local"
) -> Mapping[str, Any]:
    """Run everything but the fine-tuning; say on held-out text what each transfer gains, and by what the source knows.

    Args:
        recipe, output_dir, jobs, launcher: as of `run`.

    Returns:
        What diagnose.json holds: "arms" with a decision and a sentence each, "states" with the losses measured.

    Raises:
        RecipeError: a recipe without text, or without an arm that transfers anything.
    """
    from polygraft.diagnosis import run

    return run(_recipe(recipe, None, output_dir), SideBySide(jobs, launcher))


def rank(
    text: Text | Sequence[Text],
    *,
    sources: Sequence[StrPath] = (),
    targets: Sequence[StrPath] = (),
    max_samples: int = 60,
) -> RankReport:
    """Measure, without training, which models are best to start from for a text, and recommend one of each kind.

    Args:
        text: files with their columns and languages.
        sources: candidates to transfer from, masked language models.
        targets: candidates to fine-tune, mBARTs.
        max_samples: documents that models read, over all languages.

    Raises:
        RecipeError: no candidate is given.
        DataError: a file that cannot be used.
    """
    from polygraft.ranking import run

    given = [text] if isinstance(text, TextData | Mapping) else text
    texts = [settings_of("rank", "text", TextData, one) for one in given]
    return run([os.fspath(one) for one in sources], [os.fspath(one) for one in targets], texts, max_samples)


def adapt(
    model: StrPath,
    text: Text,
    *,
    output_dir: StrPath,
    settings: TextTask | Mapping[str, Any],
    seed: int = 1,
    running: HowRun | None = None,
) -> StageResult:
    """Continue a model's pretraining on text; `objective` of the settings says how (`mlm` where it is left out).

    Raises:
        RecipeError: settings that cannot be carried out; an mBART without a language.
        DataError: a file that cannot be used.
        CheckpointError: a model that cannot be used.
    """
    from polygraft.stages import adapt as stage

    section: TextTask = of_kind("adapt", OneOf("objective", OBJECTIVES, "mlm"), settings)
    data, name = settings_of("adapt", "text", TextData, text), os.fspath(model)
    assert_budget("adapt", section)
    how = running_of("adapt", running)
    work = partial(stage.run, section, name, data, seed, running=how)
    return _staged("adapt", output_dir, section, [name, data], seed, work, how)


def transfer(
    target: StrPath,
    *,
    output_dir: StrPath,
    source: StrPath | None = None,
    source_before: StrPath | None = None,
    text: Text | None = None,
    settings: Method | Mapping[str, Any] | None = None,
    seed: int = 1,
    running: HowRun | None = None,
) -> StageResult:
    """Move what a masked language model knows into an mBART; `method` of the settings says how (default: `embeddings`).

    Args:
        source: the masked language model, as adapted; a method that transfers nothing needs none.
        source_before: the same before it was adapted, for methods that move what adaptation changed.
        text: what the source was adapted on.

    Raises:
        TransferError: models that do not fit together, or one that the method needs and is not given.
    """
    from polygraft.stages import transfer as stage

    section: Method = of_kind("transfer", OneOf("method", METHODS, DEFAULT_METHOD), settings or {})
    data = None if text is None else settings_of("transfer", "text", TextData, text)
    assert_budget("transfer", section)
    before, after, name = (None if one is None else os.fspath(one) for one in (source_before, source, target))
    how = running_of("transfer", running)
    work = partial(stage.run, section, before, after, str(name), data, seed=seed, running=how)
    inputs = [before, after, name, data, getattr(section, "general", None)]
    drawn, told = seeds_of(section, data, seed, how)
    return _staged("transfer", output_dir, section, inputs, drawn, work, told)


def finetune(
    model: StrPath,
    pairs: Pairs,
    *,
    output_dir: StrPath,
    settings: Finetune | Mapping[str, Any],
    seed: int = 1,
    running: HowRun | None = None,
) -> StageResult:
    """Fine-tune an mBART on labelled pairs: texts and summaries, or translations; keep its best checkpoint.

    Raises:
        RecipeError: settings that cannot be carried out; no language.
        DataError: a file that cannot be used.
        CheckpointError: a model that cannot be used.
    """
    from polygraft.stages import finetune as stage

    section = settings_of("finetune", "settings", Finetune, settings)
    data, name = settings_of("finetune", "pairs", PairData, pairs), os.fspath(model)
    assert_budget("finetune", section)
    if data.train_file is None:
        raise RecipeError("polygraft.finetune: pairs.train_file: is missing, but it is what is trained on")
    how = running_of("finetune", running)
    work = partial(stage.run, section, name, data, seed, running=how)
    return _staged("finetune", output_dir, section, [name, data], seed, work, how)


def evaluate(
    model: StrPath, pairs: Pairs, *, output_dir: StrPath, settings: Evaluate | Mapping[str, Any] | None = None
) -> StageResult:
    """Decode and score test pairs, with intervals, beside the lead baseline.

    Languages that `pairs` leaves out are those that the checkpoint records.

    Raises:
        RecipeError: no test_file, no language.
        DataError: a file that cannot be used.
        CheckpointError: a model that cannot be used.
    """
    from polygraft.stages import evaluate as stage

    section = settings_of("evaluate", "settings", Evaluate, settings)
    data, name = settings_of("evaluate", "pairs", PairData, pairs), os.fspath(model)
    work = partial(stage.run, section, name, data)
    return _staged("evaluate", output_dir, section, [name, data], None, work)


def generate(
    model: StrPath,
    texts: Sequence[str],
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    settings: Generate | Mapping[str, Any] | None = None,
) -> list[str] | list[list[str]]:
    """Use a fine-tuned model: an output per text, in their order; a list of them with `num_return_sequences` above 1.

    Languages that are not given are those that the checkpoint records.

    Raises:
        RecipeError: a language that is neither given nor recorded.
        DataError: a language that the model does not have.
        CheckpointError: a model that cannot be loaded.
    """
    from polygraft.inference.engine import generate_texts

    section = settings_of("generate", "settings", Generate, settings)
    found = generate_texts(os.fspath(model), texts, source_lang, target_lang, section)
    return found if section.num_return_sequences > 1 else [outputs[0] for outputs in found]


def generate_file(
    model: StrPath,
    inputs: InputData | Mapping[str, Any],
    output_file: StrPath,
    *,
    settings: Generate | Mapping[str, Any] | None = None,
    seed: int = 1,
) -> Count:
    """Use a fine-tuned model on files: writes each row with its outputs; interrupted, the same call goes on.

    Raises:
        RecipeError: a language that is neither given nor recorded.
        DataError: no text, a row that cannot be read, or an output that cannot be written as its name says.
        CheckpointError: a model that cannot be loaded.
        PolygraftError: unfinished outputs of other settings or inputs are beside `output_file`.
    """
    from polygraft.runs import generation

    section = settings_of("generate", "settings", Generate, settings)
    data = settings_of("generate", "inputs", InputData, inputs)
    return generation.generate_file(os.fspath(model), data, Path(output_file), section, seed)


def _recipe(recipe: AnyRecipe, seeds: Sequence[int] | None, output_dir: StrPath | None) -> Recipe:
    if isinstance(recipe, Mapping):
        recipe = parse_recipe(plain(recipe), "recipe")
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(os.fspath(recipe))
    changes: dict[str, Any] = {} if seeds is None else {"seeds": list(seeds)}
    changes |= {} if output_dir is None else {"output_dir": os.fspath(output_dir)}
    return recipe.model_copy(update=changes)


def _staged(
    stage: str,
    output_dir: StrPath,
    section: Settings,
    inputs: list[str | Settings | None],
    seed: int | None,
    work: Callable[[Path], Any],
    running: Running = Running(),
) -> StageResult:
    """Run a stage unless its folder holds the result already; another result there is never replaced."""
    from polygraft.runs.records import run_stage

    folder = Path(output_dir)
    record = run_stage(stage, folder, section, inputs, seed, lambda: work(folder), replace=False, running=running)
    return StageResult(folder=folder, result=record["result"], record=record)

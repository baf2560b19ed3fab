"""An arm of a recipe: its stages in order, each run where its result is not there yet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from polygraft.objectives import TextTask
from polygraft.recipe import Recipe
from polygraft.runs.costs import Cost, target_section
from polygraft.runs.records import run_stage
from polygraft.scoring.forgetting import STATES
from polygraft.settings import AddLanguages, PairData, Running, Settings, TextData
from polygraft.stages import adapt, evaluate, finetune, forgetting, transfer, vocabulary
from polygraft.transfers.methods import seeds_of

TARGET = "target"  # the state of an arm before anything is done


def run_arm(recipe: Recipe, seed: int, folder: Path) -> None:
    """Run the stages of one arm in order; absent sections are skipped."""
    states = adapt_arm(recipe, seed, folder)
    model = list(states.values())[-1]
    pairs, tuned, scored = recipe.pairs, folder / "finetune", folder / "evaluate"
    labelled = pairs.model_copy(update={"test_file": None})
    tune = partial(finetune.run, recipe.finetune, model, pairs, seed, tuned, recipe.running)
    run_stage("finetune", tuned, recipe.finetune, [model, labelled], seed, tune, running=recipe.running)
    score = partial(evaluate.run, recipe.evaluate, str(tuned), pairs, scored)
    run_stage("evaluate", scored, recipe.evaluate, [str(tuned), test_only(pairs)], None, score)
    if recipe.forgetting:
        known = dict(zip(STATES, (states[TARGET], model, str(tuned)), strict=True))
        measure = partial(forgetting.run, recipe.forgetting, known, folder / "forgetting")
        run_stage("forgetting", folder / "forgetting", Settings(), [*known.values(), recipe.forgetting], None, measure)


def adapt_arm(recipe: Recipe, seed: int, folder: Path) -> dict[str, str]:
    """Run the stages of an arm that come before fine-tuning; returns the target as it was, and after each of them."""
    costs: dict[str, Cost] = {}

    def stage(
        name: str,
        settings: Settings,
        inputs: list[str | Settings | None],
        seed: int | None,
        work: Callable[[Path], Any],
        running: Running = recipe.running,
    ) -> str:
        out = folder / name
        costs[name] = Cost.of(run_stage(name, out, settings, inputs, seed, lambda: work(out), running=running))
        return str(out)

    def train(name: str, settings: TextTask, model: str, text: TextData) -> str:
        work = partial(adapt.run, settings, model, text, seed, running=recipe.running)
        return stage(name, settings, [model, text], seed, work)

    source, model, text = recipe.source, recipe.target, recipe.text
    if recipe.add_languages:
        new = AddLanguages(relatives=recipe.add_languages)
        work = partial(vocabulary.run_add_languages, new.relatives, model)
        model = stage("add_languages", new, [model], None, work)
    states = {TARGET: model}
    if recipe.adapt and source and text:
        source = train("adapt", recipe.adapt, source, text)
    if recipe.transfer:
        # What a transfer does not need it must not depend on, or another source would run it again.
        needs = recipe.transfer.needs
        before, after = recipe.source if needs.source_before else None, source if needs.source_after else None
        drawn, told = seeds_of(recipe.transfer, text, seed, recipe.running)
        inputs = [before, after, model, text, getattr(recipe.transfer, "general", None)]
        work = partial(transfer.run, recipe.transfer, before, after, model, text, seed=seed, running=recipe.running)
        model = states["transfer"] = stage("transfer", recipe.transfer, inputs, drawn, work, told)
    if recipe.warm_up and text:
        model = states["warm_up"] = train("warm_up", recipe.warm_up, model, text)
    section = target_section(recipe, costs, where="/".join(folder.parts[-2:]))
    if section and text:
        model = states["adapt_target"] = train("adapt_target", section, model, text)
    return states


def test_only(pairs: PairData) -> PairData:
    """Return the settings of the test pairs alone, so that other training pairs do not change the fingerprint twice."""
    update = {"train_file": None, "validation_file": None, "max_train_samples": None}
    return pairs.model_copy(update=update)

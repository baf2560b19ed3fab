"""An arm of a recipe as steps: its stages in order, each made of what the ones before it came to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from polygraft.objectives import TextTask
from polygraft.recipe import Recipe
from polygraft.runs.costs import Cost, target_section
from polygraft.runs.steps import Step, Steps
from polygraft.scoring.forgetting import STATES
from polygraft.settings import AddLanguages, PairData, Running, Settings, TextData
from polygraft.stages import adapt, evaluate, finetune, forgetting, transfer, vocabulary
from polygraft.transfers.methods import seeds_of

TARGET = "target"  # the state of an arm before anything is done


def run_arm(recipe: Recipe, seed: int, folder: Path) -> Steps[None]:
    """Go through the stages of one arm; absent sections are skipped."""
    states = yield from adapt_arm(recipe, seed, folder)
    model = list(states.values())[-1]
    pairs, tuned, scored, forgotten = recipe.pairs, *(folder / name for name in ("finetune", "evaluate", "forgetting"))
    yield Step(
        stage="finetune", out_dir=tuned, settings=recipe.finetune, seed=seed, running=recipe.running,
        inputs=[model, pairs.model_copy(update={"test_file": None})],
        work=partial(finetune.run, recipe.finetune, model, pairs, seed, tuned, recipe.running),
    )  # fmt: skip
    yield Step(
        stage="evaluate", out_dir=scored, settings=recipe.evaluate, seed=None, running=Running(),
        inputs=[str(tuned), test_only(pairs)], work=partial(evaluate.run, recipe.evaluate, str(tuned), pairs, scored),
    )  # fmt: skip
    if recipe.forgetting:
        known = dict(zip(STATES, (states[TARGET], model, str(tuned)), strict=True))
        yield Step(
            stage="forgetting", out_dir=forgotten, settings=Settings(), seed=None, running=Running(),
            inputs=[*known.values(), recipe.forgetting],
            work=partial(forgetting.run, recipe.forgetting, known, forgotten),
        )  # fmt: skip


def adapt_arm(recipe: Recipe, seed: int, folder: Path) -> Steps[dict[str, str]]:
    """Go through the stages before fine-tuning; returns the target as it was, and after each of them."""
    costs: dict[str, Cost] = {}

    def stage(
        name: str,
        settings: Settings,
        inputs: list[str | Settings | None],
        seed: int | None,
        work: Callable[..., Any],
        running: Running = recipe.running,
    ) -> Steps[str]:
        out = folder / name
        record = yield Step(
            stage=name, out_dir=out, settings=settings, inputs=inputs, seed=seed, work=partial(work, out_dir=out),
            running=running,
        )  # fmt: skip
        costs[name] = Cost.of(record)
        return str(out)

    def train(name: str, settings: TextTask, model: str, text: TextData) -> Steps[str]:
        work = partial(adapt.run, settings, model, text, seed, running=recipe.running)
        return stage(name, settings, [model, text], seed, work)

    source, model, text = recipe.source, recipe.target, recipe.text
    if recipe.add_languages:
        new = AddLanguages(relatives=recipe.add_languages)
        work = partial(vocabulary.run_add_languages, new.relatives, model)
        model = yield from stage("add_languages", new, [model], None, work)
    states = {TARGET: model}
    if recipe.adapt and source and text:
        source = yield from train("adapt", recipe.adapt, source, text)
    if recipe.transfer:
        # What a transfer does not need it must not depend on, or another source would run it again.
        needs = recipe.transfer.needs
        before, after = recipe.source if needs.source_before else None, source if needs.source_after else None
        drawn, told = seeds_of(recipe.transfer, text, seed, recipe.running)
        inputs = [before, after, model, text, getattr(recipe.transfer, "general", None)]
        work = partial(transfer.run, recipe.transfer, before, after, model, text, seed=seed, running=recipe.running)
        model = states["transfer"] = yield from stage("transfer", recipe.transfer, inputs, drawn, work, told)
    if recipe.warm_up and text:
        model = states["warm_up"] = yield from train("warm_up", recipe.warm_up, model, text)
    section = target_section(recipe, costs, where="/".join(folder.parts[-2:]))
    if section and text:
        model = states["adapt_target"] = yield from train("adapt_target", section, model, text)
    return states


def test_only(pairs: PairData) -> PairData:
    """Return the settings of the test pairs alone, so that other training pairs do not change the fingerprint twice."""
    update = {"train_file": None, "validation_file": None, "max_train_samples": None}
    return pairs.model_copy(update=update)

"""The whole way of a recipe: its arms, stage by stage and seed by seed, the comparison and the report."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polygraft import processes
from polygraft.data.files import only_one, write_atomically
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes
from polygraft.run.budget import Cost, cost_of, target_denoising
from polygraft.run.records import STAGE_FILE, fingerprint_of, read_record, run_stage
from polygraft.settings import AddLanguages, PairData, Settings
from polygraft.transfer.methods import depends_on_seed

__all__ = ["adapt_arm", "fingerprint_of", "read_record", "run", "run_arm", "run_stage"]

TARGET = "target"  # the state of an arm before anything is done
ADAPTATION = ("add_languages", "adapt", "transfer", "warm_up", "adapt_target")


def run(recipe: Recipe, *, recipe_text: str) -> dict[str, Any]:
    """Run every arm with every seed, compare them, write the report.

    Returns {"verdict": the content of verdict.json or None, "report": path, "table": one row of mean scores per arm}.

    Raises:
        PolygraftError: another run is working in the recipe's folder, or a stage's error.
    """
    from polygraft import diagnose

    folder = Path(recipe.output_dir) / recipe.name
    arms = arm_recipes(recipe)
    with only_one(folder) if processes.is_main() else contextlib.nullcontext():
        if processes.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "recipe.yaml", recipe_text)
            for path in left_over(folder, arms, recipe.seeds):
                print(f"{path}: is not of this recipe; it is left alone and not counted.", file=sys.stderr, flush=True)
        if recipe.diagnose is not None:
            for judgement in diagnose.run(recipe)["arms"]:
                if processes.is_main():
                    print(judgement["sentence"], file=sys.stderr, flush=True)
        for seed in recipe.seeds:  # seed by seed: an interrupted study has complete comparisons of the first seeds
            for arm, arm_recipe in arms.items():
                run_arm(arm_recipe, seed, folder / arm / f"seed-{seed}")
        return processes.by_main(lambda: _outcome(recipe, folder, arms))


def _outcome(recipe: Recipe, folder: Path, arms: Mapping[str, Recipe]) -> dict[str, Any]:
    from polygraft import report
    from polygraft.scoring import verdict

    outcome = None
    if recipe.verdict is not None:
        stages = {name: stages_of(arm) for name, arm in arms.items()}
        outcome = verdict.run(folder, recipe.verdict, list(arms), recipe.seeds, stages)
    return {"verdict": outcome, "report": str(report.write(folder)), "table": score_table(folder, arms, recipe.seeds)}


def stages_of(recipe: Recipe) -> list[str]:
    """Name the stages that an arm has, in order."""
    return [*(name for name in ADAPTATION if getattr(recipe, name)), "finetune", "evaluate"]


def left_over(folder: Path, arms: Mapping[str, Recipe], seeds: Sequence[int]) -> list[Path]:
    """Find the stages in the folders of a recipe's arms that the arms no longer have."""
    runs = ((recipe, folder / arm / f"seed-{seed}") for arm, recipe in arms.items() for seed in seeds)
    return [path.parent for recipe, run in runs for path in sorted(run.glob(f"[!.]*/{STAGE_FILE}"))
            if path.parent.name not in stages_of(recipe)]  # fmt: skip


def run_arm(recipe: Recipe, seed: int, folder: Path) -> None:
    """Run the stages of one arm in order; absent sections are skipped."""
    from polygraft import report
    from polygraft.stages import evaluate, finetune

    *_, model = adapt_arm(recipe, seed, folder).values()
    pairs, tuned, scored = recipe.pairs, folder / "finetune", folder / "evaluate"
    labelled = pairs.model_copy(update={"test_file": None})
    tune = partial(finetune.run, recipe.finetune, model, pairs, seed, tuned)
    run_stage("finetune", tuned, recipe.finetune, [model, labelled], seed, tune)
    score = partial(evaluate.run, recipe.evaluate, str(tuned), pairs, scored)
    run_stage("evaluate", scored, recipe.evaluate, [str(tuned), test_only(pairs)], None, score)
    if processes.is_main():
        report.write_model_card(tuned, scored)


def adapt_arm(recipe: Recipe, seed: int, folder: Path) -> dict[str, str]:
    """Run the stages of an arm that come before fine-tuning; returns the target as it was, and after each of them."""
    from polygraft.stages import adapt, add_languages, transfer

    costs: dict[str, Cost] = {}

    def stage(
        name: str,
        settings: Settings,
        inputs: list[str | Settings | None],
        seed: int | None,
        work: Callable[[Path], dict[str, Any]],
    ) -> str:
        out = folder / name
        costs[name] = cost_of(run_stage(name, out, settings, inputs, seed, lambda: work(out)))
        return str(out)

    source, model, text = recipe.source, recipe.target, recipe.text
    if recipe.add_languages:
        new = AddLanguages(relatives=recipe.add_languages)
        model = stage("add_languages", new, [model], None, partial(add_languages.run, new.relatives, model))
    states = {TARGET: model}
    if recipe.adapt and source and text:
        work = partial(adapt.run, recipe.adapt, source, text, seed)
        source = stage("adapt", recipe.adapt, [source, text], seed, work)
    if recipe.transfer:
        # What a transfer does not need it must not depend on, or another source would run it again.
        needed = recipe.transfer.required_inputs
        before, after = (
            recipe.source if "source_before" in needed else None,
            source if "source_after" in needed else None,
        )
        drawn = seed if depends_on_seed(recipe.transfer, text) else None
        inputs = [before, after, model, text, getattr(recipe.transfer, "general", None)]
        work = partial(transfer.run, recipe.transfer, before, after, model, text, seed=seed)
        model = states["transfer"] = stage("transfer", recipe.transfer, inputs, drawn, work)
    if recipe.warm_up and text:
        work = partial(adapt.run, recipe.warm_up, model, text, seed)
        model = states["warm_up"] = stage("warm_up", recipe.warm_up, [model, text], seed, work)
    denoising = target_denoising(recipe, costs, where="/".join(folder.parts[-2:]))
    if denoising and text:
        work = partial(adapt.run, denoising, model, text, seed)
        model = states["adapt_target"] = stage("adapt_target", denoising, [model, text], seed, work)
    return states


def test_only(pairs: PairData) -> PairData:
    """Return the settings of the test pairs alone, so that other training pairs do not change the fingerprint twice."""
    update = {"train_file": pairs.test_file, "validation_file": None, "max_train_samples": None}
    return pairs.model_copy(update=update)


def score_table(folder: Path, arms: Mapping[str, Recipe], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return one row per arm: mean scores over seeds, and the mean cost of adaptation and fine-tuning."""
    rows = []
    for arm, recipe in arms.items():
        runs = [folder / arm / f"seed-{seed}" for seed in seeds]
        scores = [json.loads((run / "evaluate" / "scores.json").read_text())["systems"] for run in runs]
        model = [score["model"]["all"] for score in scores]
        lead = scores[0]["lead"]["all"]
        records = [r for run in runs for stage in stages_of(recipe) if (r := read_record(run / stage))]
        row = {"arm": arm, "seeds": len(seeds), "seconds": sum(r["seconds"] for r in records) / len(seeds)}
        for metric in ("loss_per_token", "chrf++", "rougeL"):
            row[metric] = sum(m[metric]["score"] for m in model) / len(model)
        rows.append(row)
    rows.append({"arm": "lead baseline", "chrf++": lead["chrf++"]["score"], "rougeL": lead["rougeL"]["score"]})
    return rows

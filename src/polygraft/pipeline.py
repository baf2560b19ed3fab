"""The whole way of a recipe: its arms, seed by seed, the comparison and the report."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polygraft import processes
from polygraft.data.files import only_one, write_atomically
from polygraft.jobs import SideBySide
from polygraft.jobs.courses import Chain
from polygraft.jobs.together import run_chains
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes
from polygraft.recipe.stages import stages_of
from polygraft.runs.arms import run_arm
from polygraft.runs.judged import folders_of, judged
from polygraft.runs.records import RECIPE_FILE, left_over, read_record
from polygraft.training.trackers import assert_installed


def run(recipe: Recipe, *, recipe_text: str, how: SideBySide = SideBySide()) -> dict[str, Any]:
    """Run every arm with every seed, side by side as `how` says, compare them, write the report.

    Returns {"verdict": the content of verdict.json or None, "report": path, "table": one row of mean scores per arm}.

    Raises:
        PolygraftError: another run is working in the recipe's folder, or a stage's error.
    """
    from polygraft import diagnosis

    assert_installed(recipe.report_to)
    folder = Path(recipe.output_dir) / recipe.name
    arms = arm_recipes(recipe)
    with only_one(folder) if processes.is_main() else contextlib.nullcontext():
        if processes.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / RECIPE_FILE, recipe_text)
            for path in left_over(folder, arms, recipe.seeds):
                print(f"{path}: is not of this recipe; it is left alone and not counted.", file=sys.stderr, flush=True)
        if recipe.diagnose is not None:
            for judgement in diagnosis.run(recipe, how)["arms"]:
                if processes.is_main():
                    print(judgement["sentence"], file=sys.stderr, flush=True)
        chains = [  # seed by seed: an interrupted study has complete comparisons of the first seeds
            _chain(arm, one, (rank, seed), folder)
            for rank, seed in enumerate(recipe.seeds)
            for arm, one in arms.items()
        ]
        run_chains(chains, how, folder)
        return processes.by_main(lambda: _outcome(recipe, folder, arms))


def _chain(arm: str, recipe: Recipe, ranked: tuple[int, int], folder: Path) -> Chain:
    """An arm with a seed, `ranked` being the seed's place among the recipe's and itself."""
    rank, seed = ranked
    run = folder / arm / f"seed-{seed}"
    steps = run_arm(recipe, seed, run)
    return Chain(rank=rank, arm=arm, recipe=recipe, stages=stages_of(recipe), folder=run, steps=steps)


def _outcome(recipe: Recipe, folder: Path, arms: Mapping[str, Recipe]) -> dict[str, Any]:
    from polygraft import report
    from polygraft.publishing.card import write_model_card
    from polygraft.scoring import verdict

    runs = folders_of(recipe, folder, arms)
    outcome = None if recipe.verdict is None else verdict.write(folder, judged(recipe, folder, arms))
    for run in (run for one in runs.values() for run in one):
        write_model_card(run / "finetune")
    return {"verdict": outcome, "report": str(report.write(folder)), "table": score_table(folder, recipe, arms)}


def score_table(folder: Path, recipe: Recipe, arms: Mapping[str, Recipe]) -> list[dict[str, Any]]:
    """Return one row per arm: mean scores over seeds, and the mean cost of adaptation and fine-tuning."""
    from polygraft.scoring.metrics import shown_first
    from polygraft.scoring.words import LEADS

    shown, seeds = shown_first(recipe.verdict), recipe.seeds
    rows: list[dict[str, Any]] = []
    for arm, one in arms.items():
        runs = [folder / arm / f"seed-{seed}" for seed in seeds]
        scores = [json.loads((run / "evaluate" / "scores.json").read_text())["systems"] for run in runs]
        model = [score["model"]["all"] for score in scores]
        lead = scores[0]["lead"]["all"]
        records = [r for run in runs for stage in stages_of(one) if (r := read_record(run / stage))]
        row: dict[str, Any] = {
            "arm": arm,
            "seeds": len(seeds),
            "seconds": sum(r["seconds"] for r in records) / len(seeds),
        }
        row |= {name: sum(scored[name]["score"] for scored in model) / len(model) for name in shown}
        rows.append(row)
    rows.append(
        {"arm": LEADS[recipe.evaluate.lead_tokens == 0].name}
        | {name: lead[name]["score"] for name in shown if name in lead}
    )
    return rows

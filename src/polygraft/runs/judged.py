"""What a verdict is made of, and the verdict of a run's folder alone: no models, no data but the run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polygraft.errors import DataError
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes, load_recipe
from polygraft.recipe.stages import stages_of
from polygraft.runs.costs import adaptation_cost
from polygraft.runs.records import RECIPE_FILE
from polygraft.scoring import verdict
from polygraft.scoring.forgetting import of_runs


def folders_of(recipe: Recipe, folder: Path, arms: Mapping[str, Recipe]) -> dict[str, list[Path]]:
    """Return the folders of each arm's seeds in a run's `folder`."""
    return {arm: [folder / arm / f"seed-{seed}" for seed in recipe.seeds] for arm in arms}


def judged(recipe: Recipe, folder: Path, arms: Mapping[str, Recipe]) -> dict[str, Any]:
    """Return the content of verdict.json of a run in `folder`, of a recipe with a verdict.

    Raises:
        DataError: as `verdict.judge` does.
    """
    assert recipe.verdict is not None
    runs = folders_of(recipe, folder, arms)
    forgotten = of_runs(runs, recipe.verdict.confidence) if recipe.forgetting else None
    cost = {arm: adaptation_cost(runs[arm], stages_of(one)) for arm, one in arms.items()}
    spent = {arm: {"seconds": one.seconds, "flops": one.flops, "tokens": one.tokens} for arm, one in cost.items()}
    return verdict.judge(folder, recipe.verdict, list(arms), recipe.seeds, spent, forgotten)


def recomputed(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Compute a run's verdict from its folder; return it, and the keys in which verdict.json differs from it.

    Raises:
        DataError: the folder is not of a finished run with a verdict.
        RecipeError: its recipe is not one of this version.
    """
    if not (folder / RECIPE_FILE).is_file():
        raise DataError(f"{folder}: has no {RECIPE_FILE}. Give the folder of a run, such as outputs/<recipe name>.")
    recipe = load_recipe(folder / RECIPE_FILE)
    if recipe.verdict is None:
        raise DataError(f"{folder}: its recipe has no section verdict, so there is none to compute.")
    found = judged(recipe, folder, arm_recipes(recipe))
    path = folder / verdict.FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is none to compare with. Run the recipe to its end.") from None
    except ValueError as error:
        raise DataError(f"{path}: broken JSON ({error}). Run the recipe again, which writes it anew.") from None
    again = json.loads(json.dumps(found))  # tuples are lists there
    return found, [key for key in {**again, **written} if again.get(key) != written.get(key)]

"""What is installed by `pip install`: the package with models, texts and recipes, and nothing of what is around it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from polygraft.errors import RecipeError
from polygraft.nano import bundled_recipe
from polygraft.recipe.reading import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
LARGEST_WHEEL = 60e6


@pytest.mark.parametrize("recipe", RECIPES)
def test_bundled_recipes_are_those_of_the_folder(recipe):
    by_name, by_path = load_recipe(f"polygraft/{recipe.removesuffix('.yaml')}"), load_recipe(ROOT / "recipes" / recipe)
    assert by_name == by_path


@pytest.mark.parametrize(
    ("asked", "first"), [("polygraft/demmo", "demo"), ("polygraft/howtoo", "howto"), ("polygraft/trim", "trimmed")]
)
def test_an_unknown_recipe_names_all_that_there_are_the_nearest_first(asked, first):
    with pytest.raises(RecipeError) as caught:
        load_recipe(asked)
    message = str(caught.value)
    assert message.startswith(f"'{asked}' is no bundled recipe. Bundled: polygraft/{first}, ")
    assert all(f"polygraft/{recipe.removesuffix('.yaml')}" in message for recipe in RECIPES)


@pytest.mark.parametrize("path", ["polygraft/recipes/demo.yaml", "polygraft/demo.yaml", "demo", "./polygraft/demo"])
def test_other_names_are_those_of_files(path):
    assert bundled_recipe(path) is None


@pytest.mark.slow
def test_the_wheel_holds_what_runs_without_the_repository(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < LARGEST_WHEEL
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
        demo = opened.read("polygraft/recipes/demo.yaml")
    assert demo == (ROOT / "recipes" / "demo.yaml").read_bytes()
    # git knows what belongs to the package; the recipes lie in it by a link
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src", "recipes"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    kept = {name.removeprefix("src/") for name in listed.stdout.splitlines()} - {"polygraft/recipes"}
    assert names == {f"polygraft/{name}" if name.startswith("recipes/") else name for name in kept}

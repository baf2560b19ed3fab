"""What is bundled: the nano models, the sample text and the recipes, by names that begin with ``polygraft/``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from polygraft.errors import DataError, RecipeError

FOLDER = Path(__file__).parent
RECIPES = FOLDER.parent / "recipes"
PREFIX = "polygraft/"


def bundled(name: str) -> Path | None:
    """Return the path behind a bundled name, None for any other name.

    ``polygraft/nano-xlmr`` and ``polygraft/nano-mbart`` are checkpoints, ``polygraft/sample/uk/train.parquet`` a file.

    Raises:
        DataError: the name begins with ``polygraft/`` but nothing of that name is bundled.
    """
    if not name.startswith(PREFIX):
        return None
    path = FOLDER / name.removeprefix(PREFIX)
    if not path.exists():
        known = [p.parent.name for p in sorted(FOLDER.glob("*/config.json"))]
        known += sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.glob("sample/*/*.parquet"))
        raise DataError(f"'{name}' is not bundled with polygraft. Bundled: {_nearest_first(name, known)}.")
    return path


def bundled_recipe(name: str) -> Path | None:
    """Return the file behind a bundled recipe's name, such as ``polygraft/demo``; None for any other name.

    A name with an ending or with more folders is that of a file of the user's: ``polygraft/recipes/demo.yaml``.

    Raises:
        RecipeError: it is like the name of a bundled recipe, but there is none such.
    """
    if not re.fullmatch(rf"{PREFIX}[\w-]+", name):
        return None
    path = RECIPES / f"{name.removeprefix(PREFIX)}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
        raise RecipeError(f"'{name}' is no bundled recipe. Bundled: {_nearest_first(name, known)}.")
    return path


def _nearest_first(name: str, known: Iterable[str]) -> str:
    """The bundled names, those first that are most like what was asked for."""
    names = [f"{PREFIX}{one}" for one in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    return ", ".join(dict.fromkeys([*near, *names]))

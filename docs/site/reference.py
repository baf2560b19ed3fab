"""References made of the code: the fields of a recipe from the settings' classes, the command line from its verbs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import typer

from polygraft.recipe import Recipe
from polygraft.settings import Settings, Training


def recipe_fields() -> str:
    return ""


def command_line() -> str:
    return ""


GENERATED: dict[str, Callable[[], str]] = {"recipe": recipe_fields, "cli": command_line}

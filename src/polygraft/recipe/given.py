"""What verbs are given in Python, as settings: all that is wrong is one RecipeError, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from polygraft.errors import RecipeError
from polygraft.recipe.problems import Problem, problems_error, validate
from polygraft.settings import OneOf, Optimization, Running, Settings

S = TypeVar("S", bound=Settings)


def of_kind(verb: str, kinds: OneOf, given: Settings | Mapping[str, Any]) -> Any:
    """Read a section that is of one of several kinds."""
    if isinstance(given, Settings):
        return given
    if (kind := kinds.kind_of(given)) is None:
        names = " or ".join(kinds.kinds)
        raise RecipeError(f"polygraft.{verb}: settings.{kinds.key} = {given.get(kinds.key)}: must be {names}")
    return settings_of(verb, "settings", kind, given)


def settings_of(verb: str, argument: str, kind: type[S], given: S | Mapping[str, Any] | None) -> S:
    """Read a section, which the verb takes as `argument` ("" if it takes nothing else).

    Raises:
        RecipeError: all that is wrong with it, at once.
    """
    if isinstance(given, kind):
        return given
    read, findings = validate(kind, plain(given or {}), lambda path: None)
    if read is None:
        problems = [Problem(".".join(filter(None, (argument, *one.path))), one.reason, one.value) for one in findings]
        raise problems_error(problems, f"polygraft.{verb}")
    return read


def running_of(verb: str, given: Running | Mapping[str, Any] | None) -> Running:
    """Read how a stage is run; raise RecipeError for a tracker that is not installed, before anything is loaded."""
    from polygraft.training.trackers import assert_installed

    running = settings_of(verb, "running", Running, given)
    assert_installed(running.report_to)
    return running


def assert_budget(verb: str, section: Settings) -> None:
    """Raise RecipeError for settings that train and do not say how long, before anything is loaded."""
    if isinstance(section, Optimization) and section.budget is None:
        meaning = str(type(section).model_fields["budget"].description).rstrip(".")
        raise RecipeError(f"polygraft.{verb}: settings.budget: is missing ({meaning}), such as {{'epochs': 3}}")


def plain(data: Any) -> Any:
    """Return data with paths as text, as a recipe has them."""
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return os.fspath(data) if isinstance(data, os.PathLike) else data

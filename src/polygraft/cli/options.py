"""What verbs take beside their flags of settings, and how all that was given becomes settings.

Options have the names, meanings and defaults of the fields of settings, and the same classes validate them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from polygraft.cli.flags import DEFAULT_EPOCHS, Flag, flag_name, flags_of
from polygraft.errors import RecipeError
from polygraft.recipe.problems import Path as KeyPath
from polygraft.recipe.problems import Problem, nearest_key, problems_error, section_of, validate
from polygraft.settings import PairData, Settings, TextData

S = TypeVar("S", bound=Settings)


def seed_of(text: str | int) -> int:
    """A seed: any whole number that numpy takes."""
    if not str(text).isdecimal() or int(text) >= 2**32:
        raise typer.BadParameter(f"{text} is no whole number from 0 to {2**32 - 1}.")
    return int(text)


Model = Annotated[str, typer.Option("--model", help="The checkpoint: hub name, folder, or a bundled polygraft/… name.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", help="Folder for the results; running again continues there.")]
Seed = Annotated[int, typer.Option("--seed", parser=seed_of, metavar="NUMBER", help="Seed of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting as in a recipe, such as weight_decay=0.1."),
]


def takes(
    sections: type[S], required: Collection[str] = (), unused: Collection[str] = (), settable: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a verb of a function: its first parameter is the sections, filled by flags; the others are its own options.

    Args:
        sections, required, unused: see `flags_of`.
        settable: whether `--set` is taken, too.
    """
    flags = {"__".join(flag.path): flag for flag in flags_of(sections, required, unused)}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        def verb(**given: Any) -> None:
            mine = {parameter.name: given.pop(parameter.name) for parameter in own}
            assignments = given.pop("set_", None) or []
            flagged = [(flags[name], value) for name, value in given.items() if value not in (None, [])]
            function(settings(f"polygraft {function.__name__}", sections, flagged, assignments, unused), **mine)

        generated = [
            _parameter(name, flag.annotation(), ... if flag.required else None) for name, flag in flags.items()
        ]
        own_ones = [_parameter(one.name, one.annotation, one.default) for one in own]
        parameters = [*own_ones, *generated, *([_parameter("set_", Overrides, None)] if settable else [])]
        verb.__name__, verb.__doc__ = function.__name__, function.__doc__
        verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return verb

    return decorate


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def settings(
    command: str,
    sections: type[S],
    flagged: Sequence[tuple[Flag, Any]],
    assignments: Sequence[str] = (),
    unused: Collection[str] = (),
) -> S:
    """The sections that flags and `--set` give; raises one RecipeError for everything wrong with them.

    Assignments are `key=value` of any setting of any section, with or without the section before the key.
    """
    from polygraft.recipe.reading import parse_assignment

    given: dict[KeyPath, tuple[str, Any]] = {
        flag.path: (flag_name(flag.path), flag.value(value)) for flag, value in flagged
    }
    problems: list[Problem] = []
    for text in assignments:
        try:
            path, value = parse_assignment(text)
        except RecipeError as error:
            problems.append(Problem("", str(error)))
            continue
        key, path = ".".join(path), path if path[0] in sections.model_fields else (_owner(sections, path[0]), *path)
        if any(path[: len(other)] == other[: len(path)] for other in given):
            problems.append(Problem(f"--set {text}", f"{key} is given twice. Give it once."))
        elif path[1:2] and path[1] in unused:
            problems.append(Problem(f"--set {text}", f"{command} has no use for it. Leave it out."))
        else:
            given[path] = f"--set {key}", value
    data = _nested(sections, {path: value for path, (_, value) in given.items()})
    found, findings = validate(sections, data, lambda path: None)
    names = {path: name for path, (name, _) in given.items()}
    problems += [Problem(_place(finding.path, names), finding.reason, finding.value) for finding in findings]
    if problems or found is None:
        raise problems_error(problems, command)
    return found


def assert_language(verb: str, data: TextData | PairData) -> None:
    """Raise a RecipeError where neither a language nor a column of languages is given for a text or an input."""
    name = "lang" if isinstance(data, TextData) else "source_lang"
    if not getattr(data, name) and not getattr(data, f"{name}_column"):
        meaning = str(type(data).model_fields[name].description).rstrip(".")
        flag = f"--{name.replace('_', '-')}"
        reason = f"is missing ({meaning}); or name the column that has it, {flag}-column COLUMN"
        raise RecipeError(f"polygraft {verb}: {flag}: {reason}")


def _owner(sections: type[Settings], key: str) -> str:
    """The section with that key, else the one with the nearest (whose error then names it)."""
    from polygraft.recipe.problems import keys_of

    keys = {name: keys_of(sections, (name,)) for name in sections.model_fields}
    exact = [name for name in keys if key in keys[name]]
    near = [name for name in keys if nearest_key(key, keys[name])]
    return (exact or near or list(keys))[0]


def _nested(sections: type[Settings], values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """The data of sections: those that a verb cannot do without are there, and what trains has a budget."""
    data: dict[str, Any] = {name: {} for name, field in sections.model_fields.items() if field.is_required()}
    for path, value in values.items():
        inner = data
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    for name, section in data.items():
        kind = section_of(sections.model_fields[name], section)
        if kind and "budget" in kind.model_fields and isinstance(section, dict):
            section.setdefault("budget", {"epochs": DEFAULT_EPOCHS})
    return data


def _place(path: KeyPath, names: Mapping[KeyPath, str]) -> str:
    """The flags that are to blame for what is wrong at a path."""
    for length in range(len(path), 1, -1):
        if name := names.get(path[:length]):
            return ".".join([name, *path[length:]]) if name.startswith("--set") else name
    inside = [name for place, name in names.items() if place[: len(path)] == path]
    if len(path) == 1:
        return ""  # what is wrong with a section as a whole says what it is about
    return ", ".join(inside) or flag_name(path)

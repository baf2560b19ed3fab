"""References made of the code: the fields of a recipe from the settings' classes, the command line from its verbs."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

import typer

from polygraft.cli import app
from polygraft.recipe import Recipe
from polygraft.settings import OneOf, Settings, Training

SHARED = "What every training stage shares"
INSIDE = ("budget", "adapter")  # sections of training stages that have a heading of their own
LIMITS = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}


def recipe_fields() -> str:
    """Return every section of a recipe, with a table of its fields, and a section for what several have in common."""
    parts = ["## The whole recipe", _about(Recipe), _table(Recipe)]
    for name, info in Recipe.model_fields.items():
        kinds = _kinds(info.annotation)
        if kinds and name not in INSIDE and name != "adaptation_budget":
            parts += [f"## `{name}`", *_section(name, str(info.description), kinds)]
    parts += [f"## {SHARED}", _about(Training), _table(Training)]
    for name in INSIDE:
        info = Training.model_fields[name]
        parts += [f"## `{name}`", *_section(name, str(info.description), _kinds(info.annotation))]
    return "\n\n".join(part for part in parts if part)


def command_line() -> str:
    """Return every verb with its options."""
    group: Any = typer.main.get_command(app)
    parts = []
    for name, verb in group.commands.items():
        parts += [f"## `polygraft {name}`", _text(verb.help)]
        for panel, options in groupby(_by_panel(verb.params), lambda option: option.rich_help_panel):
            records = [option.get_help_record(typer.Context(verb)) for option in options]
            rows = [f"| `{names}` | {_text(help_)} |" for names, help_ in records]
            parts += [f"**{panel}**" if panel else "", "\n".join(["| option | meaning |", "|---|---|", *rows])]
    return "\n\n".join(part for part in parts if part)


def _section(name: str, description: str, kinds: Mapping[str, type[Settings]]) -> Iterator[str]:
    """Write one section: of several kinds a table of them, and each under a heading of its own."""
    if len(kinds) == 1:
        (kind,) = kinds.values()
        yield from (_about(kind), _table(kind))
        return
    one = _marked({**Training.model_fields, **Recipe.model_fields}[name].annotation)
    default = f"; where it is left out, `{one.default}`" if one and one.default else ""
    key = one.key if one else ""
    yield f"{_text(description)} `{key}` says of which kind it is{default}."
    headings = {kind: f"{name}: {{{key}: {kind}}}" for kind in kinds}
    rows = [f"| [`{kind}`](#{_slug(headings[kind])}) | {_about(cls)} |" for kind, cls in kinds.items()]
    yield "\n".join([f"| `{key}` | |", "|---|---|", *rows])
    for kind, cls in kinds.items():
        yield from (f"### `{headings[kind]}`", _about(cls), _table(cls))


def _table(cls: type[Settings]) -> str:
    """Write a table of a class's fields, but for those that are exactly as every training stage has them."""
    cls.model_rebuild()  # which `defer_build` has left for its first use
    schema = cls.model_json_schema()
    required = schema.get("required", [])
    shared = [name for name in cls.model_fields if cls is not Training and _is_shared(cls, name)]
    rows = [
        f"| `{name}` | {_values(name, schema['properties'][name])} | "
        f"{'**required**' if name in required else _default(schema['properties'][name])} | {_text(info.description)} |"
        for name, info in cls.model_fields.items()
        if name not in shared
    ]
    parts = ["\n".join(["| field | value | default | meaning |", "|---|---|---|---|", *rows])] if rows else []
    if shared:
        names = ", ".join(f"`{name}`" for name in shared)
        parts.append(f"As in [every training stage](#{_slug(SHARED)}): {names}.")
    return "\n\n".join(parts)


def _is_shared(cls: type[Settings], name: str) -> bool:
    base, own = Training.model_fields.get(name), cls.model_fields[name]
    return base is not None and _facts(own) == _facts(base)


def _facts(info: Any) -> tuple[Any, ...]:
    return info.annotation, info.default, info.description, info.metadata


def _kinds(annotation: Any) -> Mapping[str, type[Settings]]:
    """Return the classes that a field's value may have, by the name of the kind; none where it is no section."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return {"": annotation}
    if one := _marked(annotation):
        return one.kinds
    found: dict[str, type[Settings]] = {}
    for inner in get_args(annotation):
        found |= _kinds(inner)
    return found


def _marked(annotation: Any) -> OneOf | None:
    """Find the mark of a section of several kinds in an annotation."""
    marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, OneOf)]
    marks += [mark for inner in get_args(annotation) if (mark := _marked(inner))]
    return marks[0] if marks else None


def _values(name: str, schema: Mapping[str, Any]) -> str:
    """Say what a field may be, by its JSON schema."""
    if "oneOf" in schema:
        return _link(name)
    if "anyOf" in schema:
        words = [_values(name, one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "$ref" in schema:
        return _link(_headings()[schema["$ref"].rpartition("/")[2]])
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{_yaml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_values(name, schema['items'])}" if "items" in schema else "list"
    limits = [f"{word} {schema[limit]:g}" for limit, word in LIMITS.items() if limit in schema]
    return " ".join([TYPES.get(str(schema.get("type")), "mapping"), *limits])


@functools.cache
def _headings() -> dict[str, str]:
    """Return the heading of each section that is of one kind, by the name of its class."""
    fields = {**Recipe.model_fields, **{name: Training.model_fields[name] for name in INSIDE}}
    kinds = {
        name: list(_kinds(info.annotation).values()) for name, info in fields.items() if name != "adaptation_budget"
    }
    return {found[0].__name__: name for name, found in kinds.items() if len(found) == 1}


def _link(section: str) -> str:
    return f"[section](#{_slug(section)})"


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None or isinstance(value, dict) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _about(cls: type) -> str:
    return _text(inspect.getdoc(cls))


def _text(text: str | None) -> str:
    """Return a docstring as one line of Markdown: tags shown, pages of docs/ linked."""
    line = " ".join((text or "").split())
    pieces = re.split(r"(`[^`]*`)", line)
    pieces[::2] = [re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", piece.replace("<", "&lt;")) for piece in pieces[::2]]
    return "".join(pieces).replace("|", "\\|")


def _slug(heading: str) -> str:
    """Return the anchor that Markdown gives a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _by_panel(parameters: Sequence[Any]) -> list[Any]:
    """Put options of one panel together, panels in the order of their first option."""
    shown = [parameter for parameter in parameters if not getattr(parameter, "hidden", False)]
    panels = list(dict.fromkeys(parameter.rich_help_panel for parameter in shown))
    return sorted(shown, key=lambda parameter: panels.index(parameter.rich_help_panel))


GENERATED: dict[str, Callable[[], str]] = {"recipe": recipe_fields, "cli": command_line}

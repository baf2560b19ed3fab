"""What is wrong with settings, in plain words: place, value, reason and the nearest valid key, all at once."""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from polygraft.errors import RecipeError
from polygraft.recipe import Recipe
from polygraft.settings import OneOf

T = TypeVar("T", bound=BaseModel)
Path = tuple[str, ...]
"""A place in a recipe: ("adapt", "budget", "steps") is written adapt.budget.steps; list items count from 0."""
Written = Callable[[Path], str | None]
"""Gives the scalar at a path as the user wrote it, where that is known."""


class Finding(NamedTuple):
    """A path in a recipe's data, why what is there cannot stay, and the offending value as text."""

    path: Path
    reason: str
    value: str | None = None


@dataclass(frozen=True)
class Problem:
    """One thing to change: `place` is a dotted key or an option, `line` (from 1) is None where there is no file."""

    place: str
    reason: str
    value: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        head = self.place if self.value is None else f"{self.place} = {self.value}" if self.place else self.value
        parts = [f"line {self.line}" if self.line else "", head, self.reason]
        return ": ".join(part for part in parts if part)


def problems_error(problems: Iterable[Problem], where: str) -> RecipeError:
    """One RecipeError that lists each problem once, in the order of the file; `where` names the file or command."""
    unique = list(dict.fromkeys(problems))
    unique.sort(key=lambda problem: problem.line or 10**9)
    if len(unique) == 1:
        return RecipeError(f"{where}: {unique[0]}")
    return RecipeError(f"{where}: {len(unique)} problems\n" + "\n".join(f"  {problem}" for problem in unique))


def shown(value: Any) -> str | None:
    """A value as short text; None for sections, whose keys say more."""
    if isinstance(value, Mapping):
        return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) and 0 < len(value) <= 80 else reprlib.repr(value)


def field_at(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """The field that a path leads to, through sections and `arms`; None when there is none."""
    field: FieldInfo | None = None
    sections: list[type[BaseModel]] = [model]
    for position, key in enumerate(path):
        if model is Recipe and position and path[0] == "arms":
            return field_at(Recipe, path[2:]) if len(path) > 2 else field
        field = next((section.model_fields[key] for section in sections if key in section.model_fields), None)
        if field is None:
            return None
        sections = sections_of(field)
    return field


def sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The settings classes of a field that is a section (several where it is of one of several kinds), else []."""
    kinds = one_of(field)
    types = types_of(field.annotation) if kinds is None else kinds.kinds.values()
    return [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]


def one_of(field: FieldInfo) -> OneOf | None:
    """What says of which kinds a field's section may be; None where there is one kind only."""
    return next((mark for mark in _marks(field.annotation, field.metadata) if isinstance(mark, OneOf)), None)


def section_of(field: FieldInfo, data: Any) -> type[BaseModel] | None:
    """The class that reads what stands in a field: of several kinds the one that the data names, else the first."""
    sections, kinds = sections_of(field), one_of(field)
    if kinds is not None and isinstance(data, Mapping):
        return kinds.kind_of(data) or sections[0]
    return sections[0] if sections else None


def nearest_key(key: str, valid: Iterable[str]) -> str | None:
    """The valid key that is most like a misspelt one, if any is."""
    return next(iter(difflib.get_close_matches(key.lower(), list(valid), n=1, cutoff=0.6)), None)


def types_of(annotation: Any) -> list[Any]:
    """The types that an annotation allows; of a section of several kinds all their classes."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        kinds = next((mark for mark in arguments[1:] if isinstance(mark, OneOf)), None)
        return types_of(arguments[0]) if kinds is None else list(kinds.kinds.values())
    if origin in (typing.Union, types.UnionType):
        return [t for argument in arguments for t in types_of(argument)]
    return [annotation]


def _marks(annotation: Any, found: Iterable[Any] = ()) -> list[Any]:
    """What an annotation is marked with, at any depth."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return [*found, *arguments[1:], *_marks(arguments[0])]
    if origin in (typing.Union, types.UnionType):
        return [*found, *(mark for argument in arguments for mark in _marks(argument))]
    return list(found)


def keys_of(model: type[BaseModel], path: Path) -> list[str]:
    """The valid keys of the section at `path`."""
    if not path or (model is Recipe and path[0] == "arms" and len(path) == 2):
        return list(model.model_fields)
    field = field_at(model, path)
    sections = sections_of(field) if field else []
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def unknown_key(model: type[BaseModel], path: Path, siblings: Iterable[str] | None = None) -> str:
    """The reason for a key that does not exist: the nearest valid one beside it, or where else the key belongs."""
    key, valid = path[-1], list(keys_of(model, path[:-1]) if siblings is None else siblings)
    homes = _homes(model, key)
    below = [home for home in homes if home[: len(path) - 1] == path[:-1]]
    near = nearest_key(key, valid)
    if near:
        return f"no such key; did you mean `{near}`?"
    if below or homes:
        return f"no such key here; valid as {', '.join('`' + '.'.join(home) + '`' for home in below or homes)}"
    return f"no such key; valid here: {', '.join(valid)}" if valid else "no such key; this is a value, not a section"


def _homes(model: type[BaseModel], key: str) -> list[Path]:
    found: list[Path] = []
    for name, field in model.model_fields.items():
        found += [(name,)] if name == key else []
        found += [(name, *home) for section in sections_of(field) for home in _homes(section, key)]
    return list(dict.fromkeys(found))


EMPTY_SECTION = "is empty; write `null` to leave this section out, `{}` to have its defaults, or fill it in"


def validate(model: type[T], data: Any, written: Written) -> tuple[T | None, list[Finding]]:
    """The settings that `data` describes, or None and everything that the schema has against it."""
    traps = list(_traps(model, data, (), written)) if isinstance(data, Mapping) else []
    trapped = {trap.path for trap in traps}
    try:
        settings = model.model_validate(data)
    except ValidationError as error:
        found = [_finding(model, data, dict(details), written) for details in error.errors(include_url=False)]
        return None, traps + [finding for finding in found if finding.path not in trapped]
    return (None, traps) if traps else (settings, [])


def _traps(model: type[BaseModel], data: Mapping[Any, Any], above: Path, written: Written) -> Iterator[Finding]:
    """What pydantic or YAML would quietly take for something else than the user meant."""
    for key, value in data.items():
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            continue
        path, sections = (*above, key), sections_of(field)
        if sections and isinstance(value, Mapping):
            yield from _traps(section_of(field, value) or sections[0], value, path, written)
        elif sections and value is None and written(path) == "":
            yield Finding(path, EMPTY_SECTION)
        elif not sections:
            yield from _boolean_traps(field, value, path, written)


def _boolean_traps(field: FieldInfo, value: Any, path: Path, written: Written) -> Iterator[Finding]:
    kinds = types_of(field.annotation)
    items = [t for kind in kinds if typing.get_origin(kind) is list for t in types_of(typing.get_args(kind)[0])]
    if items and isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, bool) and bool not in items:
                yield Finding((*path, str(index)), "must be a number", shown(item))
    elif isinstance(value, bool) and bool not in kinds:
        word = written(path) or str(value).lower()
        if str in kinds:
            yield Finding(path, f'YAML reads this as {str(value).lower()}; put the word in quotes: "{word}"', word)
        elif int in kinds or float in kinds:
            yield Finding(path, "must be a number", word)


def _finding(model: type[BaseModel], data: Any, details: dict[str, Any], written: Written) -> Finding:
    path = tuple(str(part) for part in details["loc"] if part != "[key]")  # pydantic's mark for a bad dict key
    kind, value = details["type"], details["input"]
    if kind.startswith("union_tag"):
        return _kind_finding(path, details, written)
    text = None if kind in ("missing", "invalid_key") else written(path) or shown(value)
    if kind == "extra_forbidden":
        return Finding(path, _of_its_kind(model, data, path) or unknown_key(model, path), text)
    if kind == "missing":
        field = field_at(model, path)
        meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
        return Finding(path, f"is missing{meaning}")
    if kind == "value_error" and isinstance(value, Mapping):
        return Finding(path, str(details["ctx"]["error"]))
    return Finding(path, _reason(model, path, details), text)


def _of_its_kind(model: type[BaseModel], data: Any, path: Path) -> str | None:
    """The reason for a key that a section's kind does not have; None for a section of one kind only."""
    section: type[BaseModel] | None = model
    name = None
    for key in path[:-1]:
        field = section.model_fields.get(key) if section else None
        data = data.get(key) if isinstance(data, Mapping) else None
        kinds = None if field is None else one_of(field)
        name = None if kinds is None or not isinstance(data, Mapping) else data.get(kinds.key, kinds.default)
        section = None if field is None else section_of(field, data)
    if name is None or section is None:
        return None
    near = nearest_key(path[-1], section.model_fields)
    reason = f"did you mean `{near}`?" if near else f"valid here: {', '.join(section.model_fields)}"
    return f"no such key of `{name}`; {reason}"


def _kind_finding(path: Path, details: dict[str, Any], written: Written) -> Finding:
    context = details["ctx"]
    key = context["discriminator"].strip("'")
    if details["type"] == "union_tag_not_found":
        return Finding(path, f"needs `{key}`, the kind that it is of")
    kinds = [kind.strip(" '") for kind in context["expected_tags"].split(",")]
    near = difflib.get_close_matches(str(context["tag"]).lower(), kinds, n=1)
    reason = f"must be {' or '.join(kinds)}{f'; did you mean `{near[0]}`?' if near else ''}"
    return Finding((*path, key), reason, written((*path, key)) or context["tag"])


_REASONS = {
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not such a large one",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "list_type": "must be a list, in brackets, with commas: [1, 2, 3]",
    "dict_type": "must be a section: keys of its own, indented below it",
    "invalid_key": "keys must be words; put this one in quotes",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}


def _reason(model: type[BaseModel], path: Path, details: dict[str, Any]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "string_type":
        if value is None:
            return "must be text; leave the key out to have its default"
        return "must be text" if isinstance(value, list | dict) else f'must be text; put it in quotes: "{value}"'
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        keys = ", ".join(keys_of(model, path))
        return f"must be a section with keys of its own{f': {keys}' if keys else ''}"
    if kind == "literal_error":
        field = field_at(model, path)
        choices = [str(c) for t in types_of(field.annotation) for c in typing.get_args(t)] if field else []
        near = difflib.get_close_matches(str(value).lower(), choices, n=1)
        return f"must be {' or '.join(choices)}{f'; did you mean `{near[0]}`?' if near else ''}"
    if value is None and kind in _REASONS:
        return f"{_REASONS[kind].format(**context)}; leave the key out to have its default"
    reason = _REASONS.get(kind, details["msg"])
    return reason.format(**context) if kind in _REASONS else str(reason)

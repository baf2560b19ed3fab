"""Flags made from the fields of settings: what `--set` can set, a flag can, with the field's docstring as its help.

A verb names its sections in a class of settings with one field per section, whose docstring is the title above the
section's flags. Where a section is of one of several kinds, there are flags for all kinds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from polygraft.recipe.problems import Path, one_of, sections_of, types_of

DEFAULT_EPOCHS = 3
"""The budget when no flag gives one: that of the Hugging Face Trainer."""
FIRST = (
    *("host", "port", "pairs", "text", "source", "target"),
    *(
        "objective",
        "method",
        "input_file",
        "train_file",
        "validation_file",
        "test_file",
        "text_column",
        "summary_column",
    ),
    *("lang", "source_lang", "target_lang", "learning_rate", "per_device_train_batch_size"),
    *("num_beams", "max_new_tokens", "per_device_eval_batch_size"),
)
"""Fields whose flags come first in a verb's help, in this order."""
TITLES = {"budget": f"Budget: one of these (default: {DEFAULT_EPOCHS} epochs)", "adapter": "Adapter"}
SHORT = {"--per-device-eval-batch-size": "--batch-size"}
SWITCH = "[true|false]"
METAVARS = {
    "_file": "FILE", "pairs": "FILE", "references": "FILE", "text": "FILE", "_column": "COLUMN", "_better": "COLUMN",
    "lang": "LANG", "source": "MODEL", "target": "MODEL", "_memory": "SIZE",
}  # fmt: skip
"""By the end of a field's name."""


def flag_name(path: Path) -> str:
    """The flag of a setting: ("adapt", "adapter", "r") is --adapter.r, and the units of a budget are alone."""
    inside = path[2:] if "budget" in path[1:-1] else path[1:]
    name = f"--{'.'.join(inside)}".replace("_", "-")
    return SHORT.get(name, name)


@dataclass(frozen=True)
class Flag:
    """The flag of a setting: its path (section first), its field in each kind of section that has it, and its title."""

    path: Path
    fields: Mapping[str, FieldInfo]
    panel: str | None
    required: bool = False

    @property
    def types(self) -> list[Any]:
        return [kind for field in self.fields.values() for kind in types_of(field.annotation)]

    def value(self, given: Any) -> Any:
        """What was given, as `--set` reads it where anything but text is wanted: 2e6 is a number."""
        from polygraft.recipe.yaml import read_yaml

        if str in self.types:
            return given
        if isinstance(given, list):  # each a word, or several as a list: [q_proj, v_proj]
            return [word for text in given for word in (read_yaml(text)[0] or [text] if text[:1] == "[" else [text])]
        value, _, doubts = read_yaml(given)
        return given if doubts or isinstance(value, list | dict) else value

    def annotation(self) -> Any:
        """The flag as typer takes it: the annotation of a verb's parameter."""
        name = flag_name(self.path)
        names = [name, *(long for long, short in SHORT.items() if short == name)]
        option = typer.Option(*names, help=self._help(), metavar=self._metavar(), rich_help_panel=self.panel)
        kind: Any = list[str] if any(get_origin(one) in (list, tuple) for one in self.types) else str
        return Annotated[kind if self.required else kind | None, option]

    def _metavar(self) -> str:
        if any(get_origin(one) is Literal for one in self.types):
            return "CHOICE"
        if bool in self.types:
            return SWITCH
        other = "NUMBER" if int in self.types or float in self.types else "TEXT"
        return next((metavar for end, metavar in METAVARS.items() if self.path[-1].endswith(end)), other)

    def _help(self) -> str:
        kinds_of: dict[str, list[str]] = {}  # by what is said of them
        for kind, field in self.fields.items():
            kinds_of.setdefault(_sentence(field.description), []).append(kind)
        named = len(kinds_of) > 1 or (len(self.path) > 2 and "" not in self.fields)
        texts = [f"{', '.join(kinds)}: {text}" if named else text for text, kinds in kinds_of.items()]
        choices = dict.fromkeys(one for kind in self.types if get_origin(kind) is Literal for one in get_args(kind))
        values = [
            field.default for field in self.fields.values() if field.default not in (None, [], (), PydanticUndefined)
        ]
        default = " or ".join(dict.fromkeys(str(value).lower() for value in values))
        told = all(choice in " ".join(texts) for choice in choices)
        notes = ["" if told else ", ".join(choices), f"default: {default}" if default else ""]
        return " ".join([*texts, f"({'; '.join(filter(None, notes))})" if any(notes) else ""]).strip()


def flags_of(sections: type[BaseModel], required: Collection[str], unused: Collection[str]) -> list[Flag]:
    """The flags of a verb's sections, in the order of its help.

    Args:
        sections: what the verb reads, one field per section.
        required: settings without which the verb does nothing.
        unused: settings that mean nothing to the verb, and get no flag.
    """
    flags = [flag for name, field in sections.model_fields.items() for flag in _of((name,), field, field.description)]
    flags = [replace(flag, required=flag.path[1] in required) for flag in flags if flag.path[1] not in unused]
    return sorted(flags, key=lambda flag: len(FIRST) if flag.panel else FIRST.index(flag.path[1]))


def _of(path: Path, section: FieldInfo, title: str | None) -> Iterator[Flag]:
    """The flags of a section and of those in it."""
    choice = one_of(section)
    kinds = choice.kinds if choice else {"": sections_of(section)[0]}
    for key in dict.fromkeys(key for kind in kinds.values() for key in kind.model_fields):
        fields = {name: kind.model_fields[key] for name, kind in kinds.items() if key in kind.model_fields}
        first, of_all, place = next(iter(fields.values())), len(fields) == len(kinds), (*path, key)
        panel = title if of_all or len(path) > 1 or choice is None else f"With --{choice.key} {', '.join(fields)}"
        if sections_of(first):
            yield from _of(place, first, TITLES.get(key, title) if of_all else panel)
            continue
        if choice and key == choice.key:  # one flag for all kinds, which says what each is
            said = [f"{name}: {_sentence(kind.__doc__)[:-1]}" for name, kind in kinds.items()]
            kind: Any = Literal[tuple(kinds)]
            fields = {"": FieldInfo(annotation=kind, default=choice.default, description=f"{'; '.join(said)}.")}
        yield Flag(place, fields, None if of_all and len(path) == 1 and key in FIRST else panel)


def _sentence(text: str | None) -> str:
    """The first sentence of a docstring, in one line, without square brackets: they are markup in a help."""
    return re.split(r"(?<=\.) (?=\W?[A-Z])", " ".join((text or "").split()))[0].translate(str.maketrans("[]", "()"))

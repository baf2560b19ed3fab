"""The text of a recipe, in which every line says why it is as it is."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

COLUMN, WIDTH = 44, 120  # where comments begin, and where lines end; comments that do not fit stand above their line
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_NO_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"}  # to readers of YAML 1.1


class RecipeLine(NamedTuple):
    """A key and its value, None for a section whose lines follow, and why it is there."""

    depth: int
    key: str
    value: Any
    why: str


def render(head: Iterable[str], lines: Iterable[RecipeLine | None]) -> str:
    """Return the text of a recipe: a head of comments, then the lines; None is a blank one."""
    text = [wrapped for line in head for wrapped in _comment(line, "")]
    for line in lines:
        text += [""] if line is None else _rendered(line)
    return "\n".join([*text, ""])


def _rendered(line: RecipeLine) -> list[str]:
    indent = "  " * line.depth
    written = f"{indent}{line.key}:" + ("" if line.value is None else f" {value_text(line.value)}")
    if not line.why:
        return [written]
    if len(written) < COLUMN and COLUMN + 2 + len(line.why) <= WIDTH:
        return [f"{written:{COLUMN}}# {line.why}"]
    return [*_comment(line.why, indent), written]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def value_text(value: Any) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {value_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return re.sub(r"e([-+])0?(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:g}")
    return json.dumps(value)

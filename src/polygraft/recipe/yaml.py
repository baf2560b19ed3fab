"""YAML text to plain data, keeping the places: which line each key is on, and what was written there.

PyYAML reads YAML 1.1, where ``1e-4`` is a string and ``no`` (Norwegian) is false. Numbers are read as people mean them;
``no`` is left false, and `recipe_problems` tells the user to quote it wherever a word was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str, ...]
"""A place in a recipe: ("adapt", "budget", "steps") is written adapt.budget.steps; list items count from 0."""


class Doubt(NamedTuple):
    """Something in a YAML text that is an error for a recipe."""

    path: Path
    line: int
    value: str | None
    reason: str


_CYCLE = "refers to itself; remove the `*` alias"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_MERGE_TAG = "tag:yaml.org,2002:merge"
# YAML 1.2's float with an exponent: 1.1 also demands a point and a signed exponent, so that 1e-4 and 2.5e6 are strings.
_EXPONENT = re.compile(r"^[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$")


class RecipeLoader(yaml.SafeLoader):
    """The safe loader, reading 1e-4 as a number."""


class RecipeDumper(yaml.SafeDumper):
    """The safe dumper, quoting strings that `RecipeLoader` would read as numbers; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


RecipeLoader.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))
RecipeDumper.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))


class Places:
    """Where the keys of a YAML document are: looks a path up in its node tree."""

    def __init__(self, root: Node | None) -> None:
        self._root = root

    def line(self, path: Path) -> int | None:
        """The line (from 1) of the key at `path`, or of the nearest section around it; None without a file."""
        if self._root is None:
            return None
        return self._walk(path)[1] + 1

    def written(self, path: Path) -> str | None:
        """The scalar at `path` as it is written in the file (`no`, not False); None if there is no scalar."""
        if self._root is None:
            return None
        node, _, found = self._walk(path)
        return node.value if found and isinstance(node, ScalarNode) else None

    def _walk(self, path: Path) -> tuple[Node, int, bool]:
        assert self._root is not None
        node, line = self._root, self._root.start_mark.line
        for key in path:
            step = _child(node, key)
            if step is None:
                return node, line, False
            key_node, node = step
            line = key_node.start_mark.line
        return node, line, True


def read_yaml(text: str) -> tuple[Any, Places, list[Doubt]]:
    """The data of a YAML document, its places, and what YAML accepts but a recipe must not contain.

    A text that is not YAML gives None as data and one doubt that says where it stops being YAML.
    """
    try:
        root = yaml.compose(text, Loader=RecipeLoader)
        doubts = [] if root is None else list(_doubtful(root))
        if any(doubt.reason == _CYCLE for doubt in doubts):
            return None, Places(None), doubts
        return yaml.load(text, Loader=RecipeLoader), Places(root), doubts
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        lines = text.splitlines()
        written = lines[line - 1].strip() if line <= len(lines) else None
        return None, Places(None), [Doubt((), line, written, _explain(error))]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, Places(None), [Doubt((), line, f"U+{error.character:04X}", "is a character that YAML forbids")]
    except ValueError as error:  # 2024-13-45 looks like a date and is none
        reason = f"a value that looks like a number or date cannot be read ({error}); quote it if it is text"
        return None, Places(None), [Doubt((), 1, None, reason)]
    except RecursionError:
        return None, Places(None), [Doubt((), 1, None, "is nested too deeply to be a recipe")]


def dump_yaml(data: Any) -> str:
    """YAML text that `read_yaml` reads back unchanged, in the order of `data`."""
    return yaml.dump(data, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=110)


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or "cannot be read").strip()
    if "'\\t'" in problem:
        return "is not YAML: indent with spaces, not with a tab"
    if problem == "mapping values are not allowed here":
        return "is not YAML: a second `:` here; quote the value, or check the indentation"
    if "could not determine a constructor" in problem:
        return "uses a YAML tag (`!…`); recipes are plain data: remove the tag"
    if error.context and "single document" in error.context:
        return "starts a second document (`---`); a recipe is one document"
    return f"is not YAML: {' '.join(filter(None, [error.context, problem]))}"


def _child(node: Node, key: str) -> tuple[Node, Node] | None:
    """The key node and value node of `key` in `node`; the last one if a key is repeated, as in the loaded data."""
    if isinstance(node, SequenceNode):
        item = node.value[int(key)] if key.isdecimal() and int(key) < len(node.value) else None
        return None if item is None else (item, item)
    if not isinstance(node, MappingNode):
        return None
    found, merged = None, None
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE_TAG:  # `<<: *other`: its keys count where the mapping itself has none
            others = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            merged = next((step for step in (_child(other, key) for other in others) if step), merged)
        elif isinstance(key_node, ScalarNode) and key_node.value == key:
            found = key_node, value_node
    return found or merged


def _doubtful(root: Node) -> Iterator[Doubt]:
    """Repeated keys, of which YAML silently keeps the last, and anchors that contain themselves."""
    seen: set[int] = set()
    above: set[int] = set()

    def walk(node: Node, path: Path) -> Iterator[Doubt]:
        if id(node) in above:
            yield Doubt(path, node.start_mark.line + 1, None, _CYCLE)
        if id(node) in seen or not isinstance(node, MappingNode | SequenceNode):
            return
        seen.add(id(node))
        above.add(id(node))
        if isinstance(node, MappingNode):
            yield from _repeated(node, path)
            for key_node, value_node in node.value:
                yield from walk(value_node, (*path, str(key_node.value)))
        else:
            for index, item in enumerate(node.value):
                yield from walk(item, (*path, str(index)))
        above.remove(id(node))

    yield from walk(root, ())


def _repeated(node: MappingNode, path: Path) -> Iterator[Doubt]:
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode):
            continue
        line, key = key_node.start_mark.line + 1, key_node.value
        if key in first:
            value = value_node.value if isinstance(value_node, ScalarNode) else None
            yield Doubt((*path, key), line, value, f"the same key is already on line {first[key]}; keep one of them")
        else:
            first[key] = line

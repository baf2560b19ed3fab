"""YAML text to plain data, keeping the lines: where each key stands, and what was written there.

YAML 1.2, parsed by ruamel.yaml: ``1e-4`` is a number; ``no`` (Norwegian), ``1:30`` and ``2024-05-01`` are text. The
nodes that it makes are walked here, since its own way from them to data stops at the first mistake and drops the lines.
"""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver

from polygraft.recipe.problems import Path

MAX_DEPTH, MAX_VALUES = 50, 50_000
"""How deep a text may nest, and how many values it may hold when all aliases are written out."""


_CORE = "tag:yaml.org,2002:"


class Doubt(NamedTuple):
    """Something in a YAML text that is an error for a recipe."""

    path: Path
    line: int
    value: str | None
    reason: str


class Lines(dict[Path, tuple[int, str | None]]):
    """The line (from 1) of each key of a YAML document, and its value as it is written there if it is a scalar."""

    def line(self, path: Path) -> int | None:
        """The line of the key at `path`, or of the nearest section around it; None without a file."""
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((self[place][0] for place in around if place in self), None)

    def written(self, path: Path) -> str | None:
        """The scalar at `path` as it is written in the file (`010`, not 10); None if there is no scalar."""
        return self[path][1] if path in self else None


def read_yaml(text: str) -> tuple[Any, Lines, list[Doubt]]:
    """The data of a YAML document, its lines, and what YAML accepts but a recipe must not contain.

    A text that is not YAML gives None as data and a doubt that says where it stops being YAML; so does one with tags,
    with aliases that contain themselves, or with more values than any recipe has.
    """
    if version := re.search(r"^%YAML(?! +1\.2\s).*", text, re.M):
        line = text.count("\n", 0, version.start()) + 1
        return None, Lines(), [Doubt((), line, version[0], "leave this line out: recipes are YAML 1.2")]
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    walk = _Walk(yaml.constructor)
    try:
        root = yaml.compose(text)
        return None if root is None else walk.read(root, (), _line(root)), walk.lines, walk.doubts
    except (ReaderError, MarkedYAMLError) as error:
        return None, Lines(), [*walk.doubts, _unreadable(text, error)]


def dump_yaml(data: Any) -> str:
    """YAML text that `read_yaml`, and any reader of YAML 1.1, reads back unchanged, in the order of `data`."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width, yaml.Representer = 110, _Representer
    yaml.dump(data, text)
    return text.getvalue()


class _Representer(SafeRepresenter):
    """Writes no anchors, and what YAML 1.1 and 1.2 read alike: 5.0e-05, and 'no' in quotes."""

    yaml_1_1 = VersionedResolver((1, 1))

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> ScalarNode:
        is_text = self.yaml_1_1.resolve(ScalarNode, data, (True, False)) == f"{_CORE}str"
        return self.represent_scalar(f"{_CORE}str", data, style=None if is_text else "'")

    def represent_float(self, data: float) -> ScalarNode:
        node = super().represent_float(data)
        node.value = re.sub(r"^(-?\d+)e", r"\1.0e", node.value)
        return node


_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(float, _Representer.represent_float)


_TOO_DEEP = "is nested too deeply to be a recipe"
_PLAIN_WORDS = {  # a part of what the library says -> what the author of a recipe can do
    "maximum depth": _TOO_DEEP,
    "single document": "starts a second document (`---`); a recipe is one document",
    "'\\t'": "is not YAML: indent with spaces, not with a tab",
    "mapping values are not allowed here": "is not YAML: a second `:` here; quote the value, or check the indentation",
    "alias": "is not YAML: `*` starts the name of an anchor, and there is none such; quote the value if it is text",
    "cannot start any token": "is not YAML: no value starts with such a character; quote it if it is text",
}


def _unreadable(text: str, error: ReaderError | MarkedYAMLError) -> Doubt:
    """Where a text stops being YAML, or a recipe."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Doubt((), line, f"U+{error.character:04X}", "is a character that YAML forbids")
    mark, lines = error.problem_mark or error.context_mark, text.splitlines()
    line = mark.line if mark else 0
    reason = " ".join(filter(None, [error.context, (error.problem or "cannot be read").strip()]))
    if not isinstance(error, _Unfit):
        known = (words for part, words in _PLAIN_WORDS.items() if part in reason)
        reason = next(known, f"is not YAML: {reason}")
    return Doubt((), line + 1, lines[line].strip()[:120] if line < len(lines) else None, reason)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _scalar(node: Node) -> str | None:
    return node.value if isinstance(node, ScalarNode) else None


class _Unfit(MarkedYAMLError):
    """YAML, but no recipe."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(problem=reason, problem_mark=node.start_mark)


_MERGE = f"{_CORE}merge"
_NO_TEXT = {f"{_CORE}{kind}" for kind in ("null", "bool", "int", "float")}
_UNTAGGED = {*_NO_TEXT, _MERGE, *(f"{_CORE}{kind}" for kind in ("map", "seq", "str", "timestamp", "value"))}
"""What nodes without a tag of their own are, by the rules of YAML; timestamps and the rest are left text."""


class _Walk:
    """From YAML's nodes to plain data; on the way, the lines, and the doubts that leave the rest readable."""

    def __init__(self, constructor: Any) -> None:
        self.lines, self.doubts = Lines(), list[Doubt]()
        self._constructor, self._above, self._count = constructor, list[Node](), 0

    def read(self, node: Node, path: Path, line: int) -> Any:
        """The data of a node whose key (or list item) stands on that line."""
        self.lines[path] = line, _scalar(node)
        return self._data(node, path)

    def _data(self, node: Node, path: Path) -> Any:
        self._check(node)
        if isinstance(node, ScalarNode):
            try:
                return self._constructor.construct_object(node) if node.tag in _NO_TEXT else node.value
            except ValueError:  # `-_` looks like a number; one of 5000 digits is more than Python reads
                raise _Unfit(node, "cannot be read as a number; quote it if it is text") from None
        self._above.append(node)
        if isinstance(node, MappingNode):
            data: Any = self._mapping(node, path)
        else:
            data = [self.read(item, (*path, str(index)), _line(item)) for index, item in enumerate(node.value)]
        self._above.pop()
        return data

    def _check(self, node: Node) -> None:
        self._count += 1
        if any(node is other for other in self._above):
            raise _Unfit(node, "refers to itself; remove the `*` alias")
        if len(self._above) > MAX_DEPTH:
            raise _Unfit(node, _TOO_DEEP)
        if self._count > MAX_VALUES:
            raise _Unfit(node, f"holds more than {MAX_VALUES:,} values, aliases (`*`) written out; no recipe does")
        if node.ctag.handle or node.tag not in _UNTAGGED:
            raise _Unfit(node, "uses a YAML tag (`!…`); recipes are plain data: remove the tag")

    def _mapping(self, node: MappingNode, path: Path) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        first: dict[Any, int] = {}  # the line of each key
        # what is merged comes first, so that the mapping's own keys, and their lines, replace it
        for key_node, value_node in sorted(node.value, key=lambda item: item[0].tag != _MERGE):
            if not isinstance(key_node, ScalarNode):
                raise _Unfit(key_node, "a key must be a word, not a list or a section")
            key, line = self._data(key_node, path), _line(key_node)
            place = (*path, str(key))
            if key in first:
                reason = f"the same key is already on line {first[key]}; keep one of them"
                self.doubts.append(Doubt(place, line, _scalar(value_node), reason))
            first.setdefault(key, line)
            if key_node.tag == _MERGE:
                data.update(self._merged(value_node, path))
            else:
                data[key] = self.read(value_node, place, line)
        return data

    def _merged(self, node: Node, path: Path) -> dict[Any, Any]:
        """The keys of the sections that `<<` names; the first of them has the last word."""
        data: dict[Any, Any] = {}
        for other in reversed(node.value if isinstance(node, SequenceNode) else [node]):
            if not isinstance(other, MappingNode):
                raise _Unfit(other, "`<<` takes a section (`*name`), or a list of sections")
            data.update(self._data(other, path))
        return data

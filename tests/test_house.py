"""The house: a short root, rooms that import one way, small functions, and a tour that tells the truth about them."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import polygraft

SOURCE = Path(polygraft.__file__).parent
ROOT = Path(__file__).parent.parent
FILES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
LONGEST_FILE, LONGEST_FUNCTION, MOST_POSITIONAL = 350, 60, 4
LONGER_FILES = {
    "transfers/methods.py",  # those of all methods, and what their figures mean
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    """The folder that a file is in, or the file's own name at the root."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported_rooms(tree: ast.Module) -> set[str]:
    """The rooms that a file imports anything of, wherever the import stands; not what is imported for types alone."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only or not isinstance(node, ast.ImportFrom | ast.Import):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names] if node.module == "polygraft" else [str(node.module)]
        found |= {name.split(".")[1] for name in names if name.startswith("polygraft.")}
    return found - {"__version__"}


def test_the_root_is_short():
    assert len(list(SOURCE.glob("*.py"))) <= 8


def test_rooms_import_one_way():
    """Sorted so that each room imports only of those before it; what cannot be sorted is a circle."""
    graph: dict[str, set[str]] = {}
    for path, tree in FILES.items():
        room = room_of(path)
        graph.setdefault(room, set()).update(imported_rooms(tree) - {room})
    left = dict(graph)
    while ready := [room for room, needs in left.items() if not needs & left.keys()]:
        for room in ready:
            del left[room]
    assert not left, f"a circle among {', '.join(sorted(left))}"


def test_the_tours_map_names_the_rooms_in_order():
    """docs/tour.md's map has every room once, each after all that it imports of."""
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    table = text[text.index("## The rooms") :]
    named = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, flags=re.MULTILINE)
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert Counter(named) == Counter(rooms)
    place = {room: number for number, room in enumerate(named)}
    for path, tree in FILES.items():
        room = room_of(path)
        if room in place:
            later = {other for other in imported_rooms(tree) - {room} if place.get(other, -1) > place[room]}
            assert not later, f"{name_of(path)} imports of {later}, which the map has after {room}"


def test_files_and_functions_are_short():
    long_files = {name_of(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE}
    assert long_files <= LONGER_FILES
    long = [
        f"{name_of(path)}: {node.name}"
        for path, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_class_is_made_by_position_of_more_than_four_fields():
    """Calls of our own classes: a fifth positional argument says nothing about what it is."""
    classes = {node.name for tree in FILES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = [
        f"{name_of(path)}:{node.lineno}: {node.func.id}"
        for path, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes
        if len(node.args) > MOST_POSITIONAL
    ]
    assert found == []


def test_no_two_classes_have_one_name():
    """In one house a name means one thing; private ones and protocols of typing aside."""
    names = Counter(
        node.name for tree in FILES.values() for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )  # fmt: skip
    assert {name for name, times in names.items() if times > 1} == set()


def test_the_tour_names_what_there_is():
    """Every file and folder that docs/tour.md names exists, but for what it says would be new."""
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert len(named) > 60
    assert {name for name in named if not (SOURCE / name).exists()} == {
        "rows/",
        "states/",
        "src/polygraft/",
    }  # two of transfers/
    (place,) = re.findall(r"get its new value\? In `([\w/.]+)`, function `(\w+)`", text)
    assert f"def {place[1]}(" in (SOURCE / place[0]).read_text(encoding="utf-8")

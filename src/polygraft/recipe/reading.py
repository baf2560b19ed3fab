"""Reading, checking, changing and writing recipes.

A recipe is a YAML file whose keys are the fields of `polygraft.recipe.Recipe`. Relative paths of data files, models and
`output_dir` in it are relative to the current directory, not to the recipe's own folder, so that the same recipe runs
from wherever the data is. Everything that is wrong with a recipe is reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from polygraft.errors import RecipeError
from polygraft.nano import bundled_recipe
from polygraft.recipe import Recipe
from polygraft.recipe import yaml as recipe_yaml
from polygraft.recipe.problems import (
    EMPTY_SECTION,
    Finding,
    Problem,
    keys_of,
    one_of,
    problems_error,
    section_of,
    unknown_key,
    validate,
)
from polygraft.recipe.problems import Path as KeyPath
from polygraft.recipe.rules import SHARED_KEYS, arm_rules, recipe_rules
from polygraft.recipe.yaml import Lines

BUDGETS = ("budget", "adaptation_budget")  # of one unit each: another one replaces it


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key=value` overrides applied (as `--set adapt.learning_rate=1e-4` gives them).

    `path` may be the name of a bundled recipe, such as polygraft/demo. Relative paths in the recipe are relative to the
    current directory. Raises RecipeError with every problem of the file, of its arms and of the overrides: dotted key,
    line, value, reason, nearest valid key.
    """
    text = _read(bundled_recipe(str(path)) or Path(path))
    data, places, doubts = recipe_yaml.read_yaml(text)
    problems = [Problem(".".join(d.path), d.reason, d.value, d.line) for d in doubts]
    if data is None and not problems:
        raise RecipeError(f"{path}: the file is empty; a recipe has at least name, pairs and finetune")
    if data is None:
        raise problems_error(problems, str(path))
    draft = _Draft(data, places, problems=problems)
    if isinstance(data, dict):
        for override in overrides:
            draft.override(override)
    return draft.finish(str(path))


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """The recipe that plain data describes; `where` names its origin in the RecipeError that lists all problems."""
    return _Draft(data, Lines()).finish(where)


def arm_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """One full recipe per arm: its overrides merged, key by key, into the recipe without its arms and verdict.

    In an arm, `null` leaves a stage out, and a `budget` replaces the whole budget (it is always one unit). A recipe
    without arms is its own single arm, `main`. Raises RecipeError, placed like `arms.detour.adapt.learning_rte`.
    """
    if not recipe.arms:
        _Draft(_plain(recipe), Lines()).finish(f"recipe {recipe.name}")
        return {"main": recipe}
    draft = _Draft(_plain(recipe), Lines())
    draft.finish(f"recipe {recipe.name}")
    return {arm: Recipe.model_validate(merged) for arm, merged in _merged_arms(draft.data).items()}


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe, every default written out."""
    return recipe_yaml.dump_yaml(_plain(recipe))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, each field with its docstring; editors check YAML files against it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def parse_assignment(text: str) -> tuple[KeyPath, Any]:
    """The key path and the value of `key=value`, the value read as YAML; raises RecipeError."""
    key, equals, written = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {text}: write key=value, for example --set adapt.learning_rate=1e-4")
    if not written.strip():
        raise RecipeError(f"--set {text}: give a value after `=`; `null` leaves a stage out")
    value, _, doubts = recipe_yaml.read_yaml(written)
    if doubts:
        raise RecipeError(f"--set {text}: the value {doubts[0].reason}")
    return path, value


def assign(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Sets the value at a key path, making sections on the way; another unit of a budget replaces the one there."""
    for key in path[:-1]:
        inner = data.get(key)
        data[key] = dict(inner) if isinstance(inner, Mapping) and key not in BUDGETS else {}
        data = data[key]
    data[path[-1]] = value


@dataclass
class _Draft:
    """A recipe being read: its plain data, where each part of it comes from, and what is wrong so far."""

    data: Any
    places: Lines
    problems: list[Problem] = field(default_factory=list)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.data, dict) and isinstance(self.data.get("arms"), dict):
            # `plain:` with nothing below it is an arm that changes nothing
            arms = {arm: {} if overrides is None else overrides for arm, overrides in self.data["arms"].items()}
            self.data = {**self.data, "arms": arms}

    def override(self, text: str) -> None:
        """Applies one `key=value`, or notes why it cannot be."""
        try:
            path, value = parse_assignment(text)
        except RecipeError as error:
            self.problems.append(Problem("", str(error)))
            return
        for depth, key in enumerate(path):
            siblings = list(self.data.get("arms") or {}) if path[:depth] == ("arms",) else keys_of(Recipe, path[:depth])
            if key not in siblings:
                reason = unknown_key(Recipe, path[: depth + 1], siblings)
                self.problems.append(Problem(f"--set {text}", reason))
                return
        if len(path) == 2 and path[0] == "arms" and value is None:
            self.data["arms"] = {arm: changes for arm, changes in self.data["arms"].items() if arm != path[1]}
            return
        if path in self.overrides:
            self.problems.append(Problem(f"--set {text}", f"{'.'.join(path)} is given twice; give it once"))
            return
        assign(self.data, path, value)
        self.overrides[path] = text

    def finish(self, where: str) -> Recipe:
        """The recipe, or a RecipeError with all problems."""
        if not isinstance(self.data, dict):
            raise RecipeError(f"{where}: a recipe is a mapping of keys to values, such as `name: my-recipe`")
        recipe, findings = validate(Recipe, self.data, self._written)
        # a section that was left empty is reported as such; that it is missing would be the same mistake again
        empty: dict[str, Any] = {f.path[0]: {} for f in findings if f.reason == EMPTY_SECTION and len(f.path) == 1}
        self.data = {**self.data, **empty}
        findings += recipe_rules(self.data)
        arms = _merged_arms(self.data)
        if not self.data.get("arms"):
            findings += arm_rules(self.data)
        findings += self._arm_findings(arms, {(finding.path, finding.reason) for finding in findings})
        self.problems += [self._problem(finding) for finding in findings]
        if self.problems or recipe is None:
            raise problems_error(self.problems, where)
        return recipe

    def _arm_findings(self, arms: dict[str, dict[str, Any]], known: set[tuple[KeyPath, str]]) -> list[Finding]:
        """What is wrong with single arms, placed below `arms`; what all arms inherit is placed where it is written."""
        rules = {arm: set(arm_rules(merged)) for arm, merged in arms.items()}
        inherited = set.intersection(*rules.values()) if rules else set()
        inherited = {f for f in inherited if not any(_has(self.data["arms"][arm], f.path) for arm in arms)}
        found = sorted(inherited)
        for arm, merged in arms.items():
            changes = self.data["arms"][arm]

            def written(path: KeyPath, arm: str = arm, changes: Any = changes) -> str | None:
                return self._written(("arms", arm, *path) if _has(changes, path) else path)

            schema = validate(Recipe, merged, written)[1]
            new = [f for f in schema if (f.path, f.reason) not in known or _has(changes, f.path)]
            new += sorted(rules[arm] - inherited)
            found += [Finding(("arms", arm, *f.path), f.reason, f.value) for f in new]
        return found

    def _written(self, path: KeyPath) -> str | None:
        return None if self._override_at(path) else self.places.written(path)

    def _override_at(self, path: KeyPath) -> str | None:
        # what is wrong with a budget as a whole was caused by the unit that was set in it
        inside = [p for p in self.overrides if path[: len(p)] == p or (p[:-1] == path and path[-1] in BUDGETS)]
        return self.overrides[inside[-1]] if inside else None

    def _problem(self, finding: Finding) -> Problem:
        override = self._override_at(finding.path)
        if override is None:
            value = self.places.written(finding.path) or finding.value
            return Problem(".".join(finding.path), finding.reason, value, self.places.line(finding.path))
        key = override.partition("=")[0]
        if ".".join(finding.path) == key:
            return Problem(f"--set {override}", finding.reason)
        inner = Problem(".".join(finding.path), finding.reason, finding.value)
        return Problem(f"--set {override}", str(inner))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")][:5] if path.parent.is_dir() else []
        hint = f"; there are {', '.join(sorted(near))}" if near else ""
        raise RecipeError(f"{path}: no such recipe file{hint}") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: this is a folder; name the recipe's YAML file in it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise RecipeError(f"{path}: line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe's data without what is None: in the schema, null is the default wherever it is allowed."""
    data = recipe.model_dump(mode="json", exclude_none=True, exclude={"arms"})
    return {**data, "arms": recipe.arms} if recipe.arms else data  # the arms' nulls mean something: keep them


def _merge(base: Any, changes: Any, section: type[BaseModel] | None, key: str) -> Any:
    """What an arm makes of a section of the class `section`, under the key `key`."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping) or key in BUDGETS:
        return changes
    merged = dict(base)
    for name, value in changes.items():
        field = section.model_fields.get(str(name)) if section else None
        kinds = one_of(field) if field else None
        old = base.get(name)
        if kinds and isinstance(old, Mapping) and isinstance(value, Mapping):
            kind = old.get(kinds.key, kinds.default)
            if value.get(kinds.key, kind) != kind:  # another kind has other keys
                merged[name] = value
                continue
        merged[name] = _merge(old, value, section_of(field, old) if field else None, str(name))
    return merged


def _has(data: Any, path: KeyPath) -> bool:
    """Whether the data says anything at the path itself (null counts)."""
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return False
        data = data[key]
    return True


def _merged_arms(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full data of each arm; arms that are no mappings are left out (the schema reports them)."""
    arms = data.get("arms")
    base = {key: value for key, value in data.items() if key not in ("arms", "verdict")}
    merged: dict[str, dict[str, Any]] = {}
    for arm, changes in arms.items() if isinstance(arms, Mapping) else ():
        if isinstance(changes, Mapping):
            own = {key: value for key, value in changes.items() if key not in SHARED_KEYS}
            merged[arm] = _merge(base, own, Recipe, "")
    return merged

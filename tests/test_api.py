"""What `import polygraft` promises: it is quick, it has what it names, and the examples of docs/api.md run."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import polygraft

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
VERBS = (
    "init", "run", "check", "diagnose", "rank", "adapt", "transfer", "finetune", "evaluate", "generate", "push",
    "score", "compare",
)  # fmt: skip
LATER = ("torch", "transformers", "pydantic", "numpy", "typer", "yaml", "ruamel")


def in_a_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_import_loads_nothing_but_itself():
    code = "import sys, polygraft; print(*{name.split('.')[0] for name in sys.modules})"
    assert not set(in_a_new_process(code).split()) & set(LATER)


def test_the_import_takes_less_than_three_tenths_of_a_second():
    code = "import time; before = time.perf_counter(); import polygraft; print(time.perf_counter() - before)"
    assert min(float(in_a_new_process(code)) for _ in range(3)) < 0.3


def test_settings_and_errors_need_no_torch():
    names = [name for name in polygraft.__all__ if name not in VERBS and name != "Comparison"]
    code = f"import sys, polygraft; [getattr(polygraft, name) for name in {names}]; print('torch' in sys.modules)"
    assert in_a_new_process(code) == "False\n"


def imported_for_types() -> dict[str, str]:
    """The module that type checkers are told of, by name."""
    tree = ast.parse(Path(polygraft.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {alias.name: str(node.module) for node in block.body for alias in node.names}


def test_names_are_those_that_type_checkers_see():
    assert sorted(polygraft.__all__) == sorted([*imported_for_types(), "__version__"])
    assert set(dir(polygraft)) == set(polygraft.__all__)
    for name, home in imported_for_types().items():
        assert getattr(polygraft, name) is getattr(importlib.import_module(home), name)


def test_no_module_hides_a_public_name():
    """Importing a module binds it to its package: one that is called as a public name would take its place."""
    modules = {path.stem for path in Path(polygraft.__file__).parent.iterdir() if (path / "__init__.py").is_file()}
    modules |= {path.stem for path in Path(polygraft.__file__).parent.glob("*.py")}
    assert modules & set(polygraft.__all__) == set()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'adopt'"):
        polygraft.adopt  # noqa: B018


@pytest.mark.parametrize("name", VERBS)
def test_verbs_are_typed_and_say_what_they_do(name):
    verb = getattr(polygraft, name)
    signature = inspect.signature(verb)
    assert verb.__doc__
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())
    positional = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(positional) <= 2


def test_the_page_names_everything_public():
    assert [name for name in polygraft.__all__ if not re.search(rf"\b{name}\b", PAGE)] == ["__version__"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


@pytest.fixture
def example(here, capsys):
    """Runs one of the page's examples; gives back its names, and what it printed."""
    codes = re.findall(r"```python\n(.*?)```", PAGE, re.S)

    def _example(number):
        names: dict = {}
        exec(codes[number], names)
        return names, capsys.readouterr().out

    return _example


def test_the_example_of_a_recipe(example):
    names, said = example(0)
    assert "report.html" in said
    assert names["done"].verdict is None
    assert {row["arm"] for row in names["done"].table} == {"main", "lead baseline"}


def test_the_example_of_stages(example, here):
    names, _ = example(1)
    record = json.loads((here / "outputs/uk/adapt/stage.json").read_text(encoding="utf-8"))
    assert names["adapted"].record == record
    assert names["adapted"].result == record["result"]
    written = json.loads((here / "outputs/uk/evaluate/scores.json").read_text(encoding="utf-8"))
    assert names["scored"].result["systems"] == written["systems"]
    again, _ = example(1)  # what is done is not done twice
    assert again["adapted"].record == record


def test_the_example_of_outputs(example, here):
    names, said = example(3)
    assert names["found"].word == "helped" and "on these documents" not in said
    assert (here / "page.html").exists()


@pytest.mark.slow
def test_the_example_of_a_draft(example, here):
    names, said = example(2)
    assert polygraft.load_recipe(here / "mine.yaml") == names["drafted"].recipe
    assert "mine-pairs/test.jsonl" in said


@pytest.mark.slow
def test_the_example_of_what_is_known_before(example):
    names, said = example(4)
    assert names["found"].problems == ()
    assert names["ranked"].recommendation.source == "polygraft/nano-xlmr"
    assert "settings.learning_rte" in said and "learning_rate" in said and "settings.budget.steps" in said


WRONG = {
    "no budget": (lambda: polygraft.adapt("polygraft/nano-xlmr", {"train_file": "a.txt"}, output_dir="o", settings={}),
                  "polygraft.adapt: settings.budget: is missing"),
    "unknown kind": (lambda: polygraft.transfer("polygraft/nano-mbart", output_dir="o", settings={"method": "map"}),
                     "polygraft.transfer: settings.method = map: must be embeddings or"),
    "nothing to train on": (
        lambda: polygraft.finetune("polygraft/nano-mbart", {"source_lang": "uk"}, output_dir="o",
                                   settings={"budget": {"steps": 1}}),
        "polygraft.finetune: pairs.train_file: is missing"),
    "a recipe's data": (lambda: polygraft.check({"name": "x"}), "finetune: is missing"),
    "no such recipe": (lambda: polygraft.run("none.yaml"), "none.yaml: no such recipe file"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_before_anything_is_written(here, case):
    call, message = WRONG[case]
    with pytest.raises(polygraft.RecipeError, match=re.escape(message)):
        call()
    assert [path.name for path in here.iterdir()] == ["recipes"]


def test_paths_and_settings_may_be_of_any_kind(here):
    text = {"train_file": [Path("a.txt"), "b.txt"], "lang": "uk"}
    from polygraft.recipe.given import plain, settings_of

    assert settings_of("adapt", "text", polygraft.TextData, text) == polygraft.TextData(
        train_file=("a.txt", "b.txt"), lang="uk"
    )
    section = polygraft.Finetune(budget={"steps": 1})
    assert (
        isinstance(section, BaseModel) and settings_of("finetune", "settings", polygraft.Finetune, section) is section
    )
    assert plain({"a": (Path("x"), 1)}) == {"a": ["x", 1]}

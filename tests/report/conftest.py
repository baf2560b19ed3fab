"""One real run of tiny models, made once, and what reads its page; tests that need other values edit a copy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import MBartForConditionalGeneration

from polygraft import pipeline
from polygraft.recipe.reading import load_recipe
from polygraft.report import write

SEEDS = [1, 2]
DOCUMENTS = 24


def recipe_of(folder: Path) -> dict[str, Any]:
    """Fine-tuning as it is beside the whole way, whose transfer is diagnosed."""
    train = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "eval_steps": 0.5, "max_length_tokens": 24}
    lengths = {"max_source_length_tokens": 32, "max_target_length_tokens": 16}
    return {
        "name": "demo",
        "output_dir": str(folder / "outputs"),
        "seeds": SEEDS,
        "source": str(folder / "xlmr"),
        "target": str(folder / "mbart"),
        "text": {"train_file": str(folder / "text.jsonl"), "lang": "uk", "validation_split": 0.25},
        "pairs": {
            "train_file": str(folder / "pairs.jsonl"),
            "validation_file": str(folder / "pairs.jsonl"),
            "test_file": str(folder / "pairs.jsonl"),
            "source_lang": "uk",
        },
        "adaptation_budget": {"tokens": 600},
        "finetune": {"budget": {"steps": 3}, **{k: v for k, v in train.items() if k != "max_length_tokens"}, **lengths},
        "evaluate": {"num_beams": 1, "max_new_tokens": 8, "max_source_length_tokens": 32},
        "diagnose": {"max_samples": 6, "placebos": ["random"]},
        "arms": {
            "plain": {},
            "detour": {"adapt": {"budget": {"tokens": 200}, **train}, "transfer": {}, "adapt_target": train},
        },
        "verdict": {"treatment": "detour", "control": "plain"},
    }


def forget_rows(folder: Path) -> None:
    """Make every third row of a target's pieces, and that of <pad>, one that training never gave a meaning."""
    model = MBartForConditionalGeneration.from_pretrained(folder)
    rows = model.get_input_embeddings().weight.detach()
    drift, noise = (torch.randn(size, generator=torch.Generator().manual_seed(5)) for size in (48, (80, 48)))
    rows[4:244:3], rows[1] = drift + 0.02 * noise, drift
    model.save_pretrained(folder)


def make(folder: Path, sentences: list[str]) -> Path:
    """Run the recipe on the sentences, twice over, and return the run's folder."""
    rows = [{"id": f"uk-{i:02}", "text": f"{text} {i}", "summary": text.split(".")[0]}
            for i, text in enumerate(sentences * 2)]  # fmt: skip
    for name in ("text", "pairs"):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    text = yaml.safe_dump(recipe_of(folder), allow_unicode=True, sort_keys=False)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    pipeline.run(load_recipe(folder / "recipe.yaml"), recipe_text=text)
    return folder / "outputs" / "demo"


@pytest.fixture(scope="session")
def run(tmp_path_factory, sentences, write_tiny_models) -> Path:
    """The run's folder; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("report")
    write_tiny_models(folder)
    forget_rows(folder / "mbart")
    return make(folder, sentences)


@pytest.fixture(scope="session")
def page(run) -> str:
    return write(run).read_text(encoding="utf-8")


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run without its weights, to be edited."""
    ignore = shutil.ignore_patterns("*.safetensors", "checkpoints", "diagnose")
    return shutil.copytree(run, tmp_path / "copy", ignore=ignore)


@pytest.fixture(scope="session")
def record_of() -> Callable[[Path], dict[str, Any]]:
    """A stage's record."""
    return lambda folder: json.loads((folder / "stage.json").read_text(encoding="utf-8"))


class Balance(HTMLParser):
    """Collects elements, ids and texts, and every tag that is closed wrongly or never."""

    VOID = frozenset(("meta", "br", "img", "link", "hr", "input", "col", "wbr"))

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_well_formed(html: str) -> Balance:
    parsed = Balance(html)
    assert parsed.wrong == [] and parsed.open == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = {
        value for tag, attributes in parsed.elements if (value := attributes.get("href")) and tag in ("a", "use")
    }
    referred |= {"#" + name for name in re.findall(r"url\(#([^)]+)\)", html)}
    assert {name[1:] for name in referred} <= set(ids)
    return parsed


@pytest.fixture(scope="session", name="assert_well_formed")
def _assert_well_formed() -> Callable[[str], Balance]:
    return assert_well_formed


@pytest.fixture(scope="session")
def text_of() -> Callable[[Path], str]:
    """Writes the page of a run, which has to be well-formed; returns the words on it."""
    return lambda folder: assert_well_formed(write(folder).read_text(encoding="utf-8")).text

"""The pages of docs/ and their site: complete, each read in five minutes, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import polygraft

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
MOST_WORDS = 1300  # five minutes, of a reader who thinks
ELSEWHERE = re.compile(r"^(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches to show a page: all addresses but those of links to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [values[name] or "" for name in ("src", "srcset", "data", "poster", "action") if name in values]
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href") or "")


def loads(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".css":
        yield from re.findall(r"url\(['\"]?([^)'\"]*)", text)
        yield from re.findall(r"@import\s+['\"]([^'\"]*)", text)
    else:
        parser = Loads()
        parser.feed(text)
        yield from parser.found


def test_nothing_is_loaded_from_elsewhere(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    fetched = [(page.name, one) for page in pages for one in loads(page)]
    assert any(name == "index.html" and one.endswith(".js") for name, one in fetched)  # what is looked for is found
    assert [one for one in fetched if ELSEWHERE.match(one[1])] == []


def fields(schema: dict) -> Iterator[str]:
    """The names of all fields in a JSON schema."""
    for key, value in schema.items():
        if key == "properties":
            yield from value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from fields(inner)


def test_the_reference_has_every_field(site, invoke):
    page = (site / "recipe.html").read_text(encoding="utf-8")
    names = set(fields(json.loads(invoke("schema").stdout)))
    assert len(names) > 70
    assert {name for name in names if f"<code>{name}</code>" not in page} == set()


def test_the_reference_has_every_verb(site, invoke):
    page = (site / "cli.html").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^\W*([a-z-]+)  ", invoke("--help").stdout.partition("Commands")[2], re.M))
    assert {"run", "adapt", "add-language", "env"} <= verbs
    assert {verb for verb in verbs if f"<code>polygraft {verb}</code>" not in page} == set()


def prose(text: str) -> str:
    """A page without its tables and its blocks of code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "    ")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_read_in_five_minutes(page):
    assert len(prose(page.read_text(encoding="utf-8")).split()) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`(?:[a-z]+ )*([\w/.-]+\.py|(?:tests|recipes|examples|benchmarks|docs|src)/[\w/.-]+)[` ]", text)
    places = ROOT, ROOT / "src/polygraft"
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == polygraft.__version__
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what the schema requires

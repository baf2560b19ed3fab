"""What mkdocs is told beyond mkdocs.yml: pages that lie outside docs/, links to the repository, generated references.

README.md is the front page. A link of a page to a file of the repository becomes a link to a copy of that file; a line
`<!-- generated: NAME -->` is replaced by what `reference.GENERATED` makes of the code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "nano-models.md": "examples/nano/README.md",
}
COPIED = (
    "LICENSE",
    "CITATION.cff",
    "src/polygraft/nano/NOTICE",
    *(f"recipes/{path.name}" for path in ROOT.glob("recipes/*.yaml")),
)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.M)


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    for uri, path in [*PAGES.items(), *((path, path) for path in COPIED)]:
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Write generated parts, and links from where the page lies on the site."""
    uri = page.file.src_uri
    markdown = MARKER.sub(lambda found: reference.GENERATED[found[1]](), markdown)
    folder = (ROOT / PAGES.get(uri, f"docs/{uri}")).parent
    return LINK.sub(lambda found: _on_site(folder, found[1]), markdown)


def _on_site(folder: Path, target: str) -> str:
    """Return a link to a file of the repository as one to its place on the site, whose pages lie in one folder."""
    path = (folder / target).resolve()
    if not path.is_file() or not path.is_relative_to(ROOT):
        return target
    name = path.relative_to(ROOT).as_posix()
    return {source: page for page, source in PAGES.items()}.get(name, name.removeprefix("docs/"))

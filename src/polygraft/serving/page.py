"""The page: rendered once, from what the server offers; style, script and icon are read when the module is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polygraft import __version__
from polygraft.errors import PolygraftError
from polygraft.serving.messages import ModelDescription
from polygraft.serving.shelf import ServedModel
from polygraft.serving.uploads import MEDIA_TYPES
from polygraft.settings import Serve

FOLDER = Path(__file__).parent
STATIC = {
    name: ((FOLDER / name).read_bytes(), kind)
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml"))
}
"""Name, content and type of all that the page loads."""


def describe(model: ServedModel) -> ModelDescription:
    """Return what requests and the page have to know of a model."""
    codes = model.own_codes
    return ModelDescription(
        name=model.name,
        languages=codes,
        sources=list(model.engine.languages.sources),
        targets=list(model.engine.languages.targets),
        needs_source=not _chooses(model, None, codes[0]),
        needs_target=not all(_chooses(model, code, None) for code in model.engine.languages.sources or codes),
    )


def _chooses(model: ServedModel, source: str | None, target: str | None) -> bool:
    """Whether the model knows the side that is not given."""
    try:
        model.languages(source, target)
    except PolygraftError:
        return False
    return True


def main_page(models: list[ModelDescription], settings: Serve) -> str:
    """Return the page."""
    codes = sorted({code for model in models for code in model.languages})
    sides = {
        side: sorted({code for model in models for code in getattr(model, side)}) for side in ("sources", "targets")
    }
    return _render(
        "page.html.j2",
        models=models,
        settings=settings,
        codes=codes,
        formats=list(MEDIA_TYPES),
        needs={
            "sources": any(model.needs_source for model in models),
            "targets": any(model.needs_target for model in models),
        },
        **sides,
    )


def login_page(wrong: bool) -> str:
    """Return the page that asks for the token."""
    return _render("login.html.j2", wrong=wrong)


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **content)

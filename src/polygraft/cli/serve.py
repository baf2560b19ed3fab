"""`polygraft serve`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from polygraft.cli import options as o
from polygraft.cli.errors import without_shard_bars
from polygraft.settings import Serve, Settings

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A checkpoint, what `polygraft export` wrote, or a run's folder, whose arms are then side by side; may be "
        "given several times.",
    ),
]


class Serving(Settings):
    serve: Serve
    """Server"""


@o.takes(Serving)
def serve(given: Serving, model: Models) -> None:
    """Serve fine-tuned models: a page to try them, and an HTTP API on the same port."""
    from polygraft.serving.server import serve as run

    without_shard_bars()
    run(model, given.serve, os.environ.get("POLYGRAFT_TOKEN"))

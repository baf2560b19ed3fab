"""`polygraft push`: a model to the hub, or the list of what would go there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from polygraft.cli.errors import without_shard_bars
from polygraft.errors import RecipeError

Folder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="A run or one of its seeds, a checkpoint, or what `polygraft export` wrote."),
]
RepoId = Annotated[
    str, typer.Option("--repo-id", metavar="OWNER/NAME", help="The repository; made if it is not there.")
]
Private = Annotated[
    bool, typer.Option("--private/--public", help="Who sees a repository that is made; a public one needs --public.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="The branch; made if it is not there (default: main).")
]
Message = Annotated[str | None, typer.Option("--commit-message", help="What the commit says.")]
License = Annotated[
    str | None,
    typer.Option("--license", help="The licence that the card states, as the hub calls it: apache-2.0, mit."),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="More files, which are left out unless asked for: evaluate/*."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Write the card, load the model, list the files; send nothing.")
]
Token = Annotated[str | None, typer.Option("--token", hidden=True)]


def push(
    folder: Folder,
    repo_id: RepoId,
    private: Private = True,
    revision: Revision = None,
    commit_message: Message = None,
    license: License = None,
    include: Include = None,
    dry_run: DryRun = False,
    token: Token = None,
) -> None:
    """Publish a model and its card on the Hugging Face hub: private unless told, no data, no logs, no paths."""
    if token is not None:
        raise RecipeError(
            "polygraft push: --token: a token on a command line stays in the shell's history, for others to read. Log "
            "in with `hf auth login`, or set HF_TOKEN; and revoke this one if it was a real one."
        )
    without_shard_bars()
    from polygraft.publishing.push import push as work

    found = work(
        folder, repo_id, private=private, revision=revision, commit_message=commit_message, license=license,
        include=include or [], dry_run=dry_run,
    )  # fmt: skip
    typer.echo("\n".join(text(found)))


def text(found: Any) -> Iterator[str]:
    """Say what went or would go, what stays and why, what to know of licences, and where it is."""
    from polygraft.cli.table import table
    from polygraft.report.formats import plural, size

    rows = [
        [f"  {one.path}", size(one.size), "cut: paths of this machine" * (one.content is not None)]
        for one in found.uploads
    ]
    total = sum(one.size for one in found.uploads)
    yield f"{'would be uploaded' if found.url is None else 'uploaded'}: {plural(len(rows), 'file')}, {size(total)}"
    yield from table(rows, right=[1])
    if found.left_out:
        yield "left out:"
        names = [one.path + f" ({one.files})" * (one.files > 1) for one in found.left_out]
        left = [[f"  {name}", size(one.size), one.reason] for name, one in zip(names, found.left_out, strict=True)]
        yield from table(left, right=[1])
    yield from (f"licences: {one}" for one in found.findings)
    yield f"card: {found.card}"
    who = "private" if found.private else "public"
    yield (
        f"push: {found.url}"
        if found.url
        else f"push: nothing was sent; it would be {found.repo_id}, {who} if it is new"
    )

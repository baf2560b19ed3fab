"""`polygraft init`: questions on a terminal, flags elsewhere, a commented recipe in the end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from polygraft.cli import options as o
from polygraft.cli.errors import without_shard_bars
from polygraft.drafting.wishes import Wishes
from polygraft.settings import Settings

Output = Annotated[Path, typer.Option("--output", help="The recipe's file; pairs that are set apart lie beside it.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the recipe that is there, and the pairs beside it.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing: take what was found, and say what it is.")]
QUESTIONS = {
    "pairs": ("Labelled pairs: a file, a folder, a glob, or train.{en,uk}", None),
    "text": ("Plain text (nothing: the inputs of the pairs)", ""),
    "source": ("Masked language model to transfer from", "FacebookAI/xlm-roberta-base"),
    "target": ("mBART to fine-tune", "facebook/mbart-large-50"),
    "minutes": ("Minutes for the whole study, all arms and seeds", str(Wishes.model_fields["minutes"].default)),
    "seeds": ("Seeds (3 are the least for a verdict)", str(Wishes.model_fields["seeds"].default)),
}
"""What is asked on a terminal before the files are read, and the default; without one, until there is an answer."""
COLUMNS = {"text_column": "Column of the input", "summary_column": "Column of the output"}
LANGUAGES = {
    "lang": "Language of the plain text",
    "source_lang": "Language of the input",
    "target_lang": "Language of the output",
}


class Drafting(Settings):
    wishes: Wishes
    """What you would rather say than have found out"""


@o.takes(Drafting, settable=False)
def init(given: Drafting, output: Output = Path("recipe.yaml"), overwrite: Overwrite = False, yes: Yes = False) -> None:
    """Draft a commented recipe from your files and two models: columns, languages, lengths, batches, arms, budget."""
    from polygraft.drafting import drafts

    drafts.assert_free(output, overwrite)
    asking = on_terminal() and not yes
    wishes = _asked(given.wishes) if asking else given.wishes
    found = drafts.look(wishes)
    if asking:
        wishes, found = _confirmed(wishes, found)
    typer.echo("Estimating what the target needs of memory and time on this machine …", err=True)
    without_shard_bars()
    made = drafts.draft(wishes, found, output)
    drafts.write(made, output)
    for note in made.notes:
        typer.echo(note, err=True)
    typer.echo(f"{output}: written. Next: polygraft check {shlex.quote(str(output))}")


def on_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _asked(wishes: Wishes) -> Wishes:
    """Ask for what was not given."""
    answers = {
        key: _ask(question, default)
        for key, (question, default) in QUESTIONS.items()
        if key not in wishes.model_fields_set
    }
    return _with(wishes, {key: answer for key, answer in answers.items() if answer})


def _confirmed(wishes: Wishes, found: Any) -> tuple[Wishes, Any]:
    """Have columns and languages confirmed; other columns are looked at again."""
    from polygraft.data.languages import meaning_of
    from polygraft.drafting import drafts

    seen = {"text_column": found.columns.text, "summary_column": found.columns.summary}
    typer.echo(f"The pairs' columns, {found.columns.why}:", err=True)
    columns = {
        key: _ask(question, seen[key]) for key, question in COLUMNS.items() if key not in wishes.model_fields_set
    }
    wishes = _with(wishes, columns)
    if any(columns[key] != seen[key] for key in columns):
        found = drafts.look(wishes)
    called = dict(zip(("source_lang", "target_lang"), found.columns.languages, strict=True))
    languages = {}
    for key, guess in found.guesses.items():
        if key in wishes.model_fields_set:
            continue
        answer = ""
        while not (answer and meaning_of(answer)):
            answer = _ask(f"{LANGUAGES[key]} ({guess})", called.get(key) or guess.language or "")
        languages[key] = answer
    return _with(wishes, languages), found


def _ask(question: str, default: str | None) -> str:
    return str(typer.prompt(question, default=default, show_default=bool(default), err=True)).strip()


def _with(wishes: Wishes, answers: dict[str, str]) -> Wishes:
    """The wishes with the answers, read as flags are."""
    from polygraft.recipe.given import settings_of

    return settings_of("init", "", Wishes, {**wishes.model_dump(exclude_unset=True), **answers})

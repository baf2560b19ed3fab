"""`polygraft score` and `polygraft compare`: outputs of any toolkit, and what is printed of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polygraft.cli import options as o
from polygraft.cli.errors import Verb
from polygraft.cli.table import table
from polygraft.scoring.figures import level, rounded
from polygraft.settings import OutputScoring, Settings

if TYPE_CHECKING:  # numpy and scipy take a while
    from polygraft.comparing import ComparedScore, ComparedSystems, OutputScore, OutputScores

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="The outputs of a system: one file per seed, in any format of docs/files.md."),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="FILE",
        help="The outputs of the system to compare it with, one file per seed: all up to the next option.",
    ),
]
Primary = Annotated[str, typer.Option("--metric", metavar="SCORE", help="The score that decides.")]
Margin = Annotated[
    float | None,
    typer.Option("--margin", metavar="NUMBER", help="A difference that does not matter, in that score's unit."),
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the plot, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


class ManyAgainst(Verb):
    """A verb whose `--against` takes all names up to the next option: a shell makes several words of b/*.jsonl."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        taking = False
        for word in args:
            if word.startswith("-"):
                taking = word == "--against"
                spread += [] if taking else [word]
            else:
                spread += ["--against", word] if taking else [word]
        return super().parse_args(ctx, spread)


class Outputs(Settings):
    outputs: OutputScoring
    """Columns and scores"""


@o.takes(Outputs, settable=False)
def score(given: Outputs, files: Files = None, json_: AsJson = False) -> None:
    """Score the outputs of one system, whatever made them: chrF++, BLEU, ROUGE in any script, language, repeats."""
    from polygraft.api import outputs

    found = outputs.score(files or [], settings=given.outputs)
    typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False) if json_ else scores_text(found))


@o.takes(Outputs, settable=False)
def compare(
    given: Outputs,
    files: Files = None,
    against: Against = None,
    metric: Primary = "chrf++",
    margin: Margin = None,
    html: Html = None,
    json_: AsJson = False,
) -> None:
    """Compare the outputs of two systems, several seeds each: effect, interval and a word for every score."""
    from polygraft.api import outputs

    scoring = given.outputs
    found = outputs.compare(files or [], against or [], metric=metric, margin=margin, html=html, settings=scoring)
    typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if json_ else comparison_text(found))


# ---------------------------------------------------------------- text


def scores_text(found: OutputScores) -> str:
    """A table of scores, then how they were computed."""
    rows = [["SCORE", found.system, "interval", "files", "references"]]
    for one in found.scores.values():
        rows.append([one.title, *_cells(one)])
    if not any(row[4] for row in rows[1:]):
        rows = [row[:4] for row in rows]
    if len(found.files) == 1:
        rows = [[*row[:3], *row[4:]] for row in rows]
    head = f"{found.documents:,} documents, {len(found.files)} file{'s' * (len(found.files) != 1)}"
    return "\n".join([head, "", *table(rows, right=(1, 4)), "", *_signatures(found)])


def _cells(one: OutputScore) -> list[str]:
    places = one.places
    low, high = (f"{value:.{places}f}" for value in (one.low, one.high))
    seeds = f"{min(one.by_file):.{places}f} to {max(one.by_file):.{places}f}"
    people = "" if one.reference is None else f"{one.reference:.{places}f}"
    return [f"{one.score:.{places}f}", f"{low} to {high}", seeds, people]


def comparison_text(found: ComparedSystems) -> str:
    """The primary comparison in a sentence, a table of all, then how they were computed."""
    ours, theirs = found.treatment, found.control
    paired = found.primary.p_paired_bootstrap is not None
    head = ["SCORE", ours.system, theirs.system, "difference", "interval", "level", "word"]
    rows = [[*head, "p (paired bs)"] if paired else head]
    rows += [_row(row, paired) for row in (found.primary, *found.secondary)]
    alone = [one for one in ours.scores.values() if one.reference is not None]
    people = ", ".join(f"{one.title} {one.reference:.{one.places}f}" for one in alone)
    notes = [f"Of the references: {people}."] * bool(alone) + [SECONDARY]
    return "\n".join([found.sentence, "", *table(rows, right=(1, 2, 3)), "", *notes, "", *_signatures(ours)])


SECONDARY = (
    "The first score decides. The others are secondary: their intervals are widened together (Holm), but for those of\n"
    "which no word is said, since neither direction is good."
)


def _row(row: ComparedScore, paired: bool) -> list[str]:
    found, places = row.found, row.metric.places
    first, second = rounded([], [found.treatment_score, found.control_score], least=places)
    cells = [row.metric.title, first, second, *row.figures, level(found.confidence), row.said]
    return [*cells, f"{row.p_paired_bootstrap:.4f}"] if paired else cells


def _signatures(found: OutputScores) -> list[str]:
    return [f"{found.scores[name].title}: {text}" for name, text in found.signatures.items()]

"""`polygraft rank`: which model is best to start from, and what it prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from polygraft.cli.errors import without_shard_bars
from polygraft.cli.table import table
from polygraft.errors import RecipeError
from polygraft.settings import TextData

if TYPE_CHECKING:  # they import torch
    from polygraft.ranking.pairs import Pair
    from polygraft.ranking.report import CandidateReport, Figures, RankReport
    from polygraft.scoring.intervals import Estimate

Sources = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="MODEL", help="A masked language model to rank; once per candidate."),
]
Targets = Annotated[
    list[str] | None, typer.Option("--target", metavar="MODEL", help="An mBART to rank; once per candidate.")
]
TextFiles = Annotated[
    list[str], typer.Option("--train-file", metavar="FILE", help="The text that you would adapt to; once per file.")
]
Langs = Annotated[
    list[str] | None,
    typer.Option("--lang", metavar="LANG", help="Language of the text; once, or once per file in their order."),
]
TextColumn = Annotated[str, typer.Option(metavar="COLUMN", help=TextData.model_fields["text_column"].description)]
LangColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", help=TextData.model_fields["lang_column"].description)
]
MaxSamples = Annotated[
    int, typer.Option("--max-samples", min=2, metavar="NUMBER", help="Documents that models read, over all languages.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything that was measured as JSON.")]
DEFAULT_SAMPLES = 60


def rank(
    train_file: TextFiles,
    source: Sources = None,
    target: Targets = None,
    lang: Langs = None,
    lang_column: LangColumn = None,
    text_column: TextColumn = "text",
    max_samples: MaxSamples = DEFAULT_SAMPLES,
    json_: AsJson = False,
) -> None:
    """Say which model is best to start from for a text, without training: one table, one recommendation."""
    given: list[str | None] = [*(lang or [])]
    if len(given) > 1 and len(given) != len(train_file):
        raise RecipeError(
            f"polygraft rank: {len(given)} --lang for {len(train_file)} --train-file. Give one for all, or one each."
        )
    langs = given * len(train_file) if len(given) == 1 else given or [None] * len(train_file)
    data = [
        TextData(train_file=file, text_column=text_column, lang=one, lang_column=lang_column)
        for file, one in zip(train_file, langs, strict=True)
    ]
    if not given and lang_column is None:
        raise RecipeError(
            "polygraft rank: --lang: is missing (Language of the text), or --lang-column, which names it."
        )
    from polygraft import ranking as ranking

    without_shard_bars()
    report = ranking.run(source or [], target or [], data, max_samples)
    typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) if json_ else text(report))
    if all(one.refused for one in report.candidates):
        raise typer.Exit(1)


def text(report: RankReport) -> str:
    """The report for people: the text, the table, notes, and the recommendation with its reasons."""
    blocks = [_text(report), _table(report), _notes(report), _recommendation(report)]
    return "\n\n".join(block for block in blocks if block)


def _text(report: RankReport) -> str:
    lines = []
    for one in report.text:
        scripts = ", ".join(f"{script.capitalize()} {share:.0%}" for script, share in one.scripts.items())
        lines.append(
            f"{one.language}: {one.documents:,} documents ({scripts}), {one.counted_documents:,} tokenized, "
            f"{one.scored_documents} read by the models ({one.scored_characters:,} characters)"
        )
    return "\n".join(lines)


NAMES, FACTS = ("MODEL", "role"), ("size", "TFLOP/M", "s/M", "licence")
FIGURES = ("text", "code", "tokens/word", "unknown", "unlearned", "bits/char", "whole", "reliance")
HEAD = (*NAMES, *FIGURES, *FACTS)
LEFT = {"MODEL", "role", "text", "code", "licence"}
LEGEND = """\
bits/char: of hidden words (source), of removed spans (target), with 95% interval; lower is better. whole: of the whole
text to restore; reliance: how much that rises with another document's source. unlearned: the text's tokens whose rows
training never gave a meaning. TFLOP/M, s/M: a forward pass over a million tokens, on this machine."""


def _table(report: RankReport) -> str:
    rows: list[tuple[str, ...]] = [HEAD]
    below: dict[int, list[str]] = {}  # what stands under a row, across the columns
    for one in report.candidates:
        if one.refused:
            rows.append((one.name, one.role, "refused", *[""] * (len(HEAD) - 3)))
            below[len(rows)] = [f"  {one.refused}"]
            continue
        for figures in one.figures:
            overall = figures is one.overall
            first, facts = (one.name, one.role) if overall else ("", ""), _facts(one) if overall else ("",) * len(FACTS)
            rows.append((*first, *_figures(figures, one.role), *facts))
        below[len(rows)] = [_map(pair) for pair in report.pairs if one.role == "source" and pair.source == one.name]
    lines = table(rows, right=[place for place, title in enumerate(HEAD) if title not in LEFT])
    with_more = [text for number, line in enumerate(lines, start=1) for text in (line, *below.get(number, []))]
    return "\n".join([*with_more, "", LEGEND])


def _figures(one: Figures, role: str) -> tuple[str, ...]:
    code = (one.code or "none") if role == "target" and one.language != "all" else ""
    coverage = (f"{one.tokens_per_word:.2f}", f"{one.unknown_share:.1%}", f"{one.never_learned_share:.1%}")
    bits = one.bits_per_character.text() if one.bits_per_character else "-"
    return (one.language, code, *coverage, bits, _value(one.whole_bits_per_character), _value(one.source_reliance))


def _facts(one: CandidateReport) -> tuple[str, ...]:
    cost = (f"{one.cost.tflop:.3g}", f"{one.cost.seconds:.0f}") if one.cost else ("", "")
    return (f"{(one.parameters or 0) / 1e6:,.1f} M", *cost, one.licence or "not stated")


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None else estimate.text().split(" ")[0]


def _map(pair: Pair) -> str:
    start = f"  into {pair.target}:"
    if pair.refused is not None:
        return f"{start} refused: {pair.refused}"
    return (
        f"{start} {pair.shared_share:.1%} of its tokens shared ({pair.alike_share:.0%} of texts split alike), "
        f"R2 {pair.heldout_r2:.2f}, precision@1 {pair.csls_precision_at_1:.2f} on held-out rows, "
        f"{pair.repairable_share:.1%} of the text can be repaired"
    )


def _notes(report: RankReport) -> str:
    notes = [f"  {one.name} ({one.role}) {note}" for one in report.candidates for note in one.notes]
    return "\n".join(["NOTES", *notes]) if notes else ""


def _recommendation(report: RankReport) -> str:
    found = report.recommendation
    lines = [f"RECOMMENDATION: {found.sentence}", *(f"  {reason}" for reason in found.reasons)]
    if found.cautions:
        lines += ["But:", *(f"  {caution}" for caution in found.cautions)]
    return "\n".join(lines)

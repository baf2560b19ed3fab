"""The user's data before a second of training is spent: gaps, repeats, leaks between files, wrong languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from polygraft.checks.language import LanguageReport, language_warnings, report_language
from polygraft.checks.scan import EXAMPLES, Beginning, FileReport, Scan, Table
from polygraft.data.languages import language_prefix
from polygraft.data.sources import Names
from polygraft.errors import DataError
from polygraft.recipe import Recipe

FEW_TEST_ROWS, FEW_VALIDATION_ROWS = 100, 10
DUPLICATE_SHARE = 0.01
CUT_SHARE, CUT_TEXTS, CUT_LENGTH = 0.05, 10, 50  # so many texts that end at the same longest length were cut there

ADAPTED = (
    "Their summaries are not there, but models adapted to that text have read these inputs, and models without "
    "adaptation have not."
)
LEAKS = {
    ("pairs.test", "pairs.train"): "Scores on them show memory, not skill.",
    ("pairs.test", "pairs.validation"): "They choose the checkpoint that they score.",
    ("pairs.test", "text.train"): ADAPTED,
    ("pairs.validation", "pairs.train"): "They choose the checkpoint that knows them by heart.",
    ("pairs.validation", "text.train"): ADAPTED,
    ("text.validation", "text.train"): "Their loss is one of training.",
    ("forgetting.test", "text.train"): "Their loss is one of training.",
    ("forgetting.test", "pairs.train"): "Their loss is one of training.",
}
"""The roles whose files must not share texts, and what it means if they do."""


Beginnings = Mapping[tuple[Names, tuple[str, ...]], Beginning]


@dataclass(frozen=True)
class Leak:
    """`rows` of a file's `of_rows` have a text that another file has too; `examples` are (line, line in the other).

    Where a role has several files, a line is written with its file's name: "b.jsonl:7".
    """

    file: str
    role: str
    other_file: str
    other_role: str
    rows: int
    of_rows: int
    examples: tuple[tuple[int | str, int | str], ...]


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found; `warnings` are sentences with file, number, place and remedy."""

    files: tuple[FileReport, ...]
    leaks: tuple[Leak, ...]
    language: tuple[LanguageReport, ...]
    warnings: tuple[str, ...]


def check_data(arms: Mapping[str, Recipe]) -> DataReport:
    """What `examine` reports."""
    return examine(arms)[0]


def examine(arms: Mapping[str, Recipe]) -> tuple[DataReport, Beginnings]:
    """Examine every data file of the arms, each once, and the overlaps of those that one arm uses together.

    Returns:
        (the report, the beginnings of files by their names and the columns of their texts).

    Raises:
        DataError: files that cannot be read, hold no text or no summary, or are too small to split; all in one.
    """
    uses_of = {arm: _uses(recipe) for arm, recipe in arms.items()}
    uses = list(dict.fromkeys(use for of_arm in uses_of.values() for use in of_arm))
    scans: dict[Table, Scan] = {}
    problems: list[str] = []
    for table in dict.fromkeys(use.table for use in uses):
        try:
            scans[table] = Scan(table)
        except DataError as error:
            problems.append(str(error))
    for arm, recipe in arms.items():
        problems += _split_problems(recipe, uses_of[arm], scans)
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))
    leaks = tuple(dict.fromkeys(leak for of_arm in uses_of.values() for leak in _leaks(of_arm, scans)))
    language = tuple(_languages(uses, scans))
    warnings = [warning for use in uses for warning in _row_warnings(use, scans[use.table])]
    for arm, recipe in arms.items():
        warnings += [*_size_warnings(recipe, uses_of[arm], scans), *_baseline_warnings(recipe)]
    warnings += [*map(_leak_warning, leaks), *language_warnings(language)]
    files = tuple(scan.report([use.role for use in uses if use.table == table]) for table, scan in scans.items())
    report = DataReport(files, leaks, language, tuple(dict.fromkeys(warnings)))
    return report, {(table.names, table.texts): scan.beginning for table, scan in scans.items()}


class _Use(NamedTuple):
    """A table's role, and for each of its texts the declared language and the recipe's key that declares it."""

    role: str
    table: Table
    declared: tuple[tuple[str, str], ...]


def _uses(recipe: Recipe) -> list[_Use]:
    text, pairs, uses = recipe.text, recipe.pairs, []
    if text is not None:
        for split, file in (("train", text.train_file), ("validation", text.validation_file)):
            if file:
                table = Table(file, tuple(text.columns), (text.lang_column,))
                uses.append(_Use(f"text.{split}", table, ((text.lang or "", "text.lang"),)))
    if (known := recipe.forgetting) is not None:
        table = Table(known.test_file, tuple(known.columns), (known.lang_column,))
        uses.append(_Use("forgetting.test", table, ((known.lang or "", "forgetting.lang"),)))
    source, target = (pairs.source_lang or "", "pairs.source_lang"), (pairs.target_lang or "", "pairs.target_lang")
    langs = (pairs.source_lang_column, pairs.target_lang_column)
    if pairs.target_lang is None:  # as in data/dataset.py, the input's language is then the output's
        target, langs = source, (langs[0], langs[1] or langs[0])
    for split, file in (("train", pairs.train_file), ("validation", pairs.validation_file), ("test", pairs.test_file)):
        if file:
            table = Table(file, tuple(pairs.columns), langs)
            uses.append(_Use(f"pairs.{split}", table, (source, target)))
    return uses


def _row_warnings(use: _Use, scan: Scan) -> Iterator[str]:
    file, rows = scan.file, scan.rows
    if scan.empty:
        remedy = "Fill or remove them."
        if file.endswith(".txt"):
            remedy = "Each line is a document: where blank lines separate documents, write each into one line."
        yield f"{file}: {len(scan.empty)} row(s) without text are dropped ({scan.lines_text(scan.empty)}). {remedy}"
    for column in scan.columns[1:]:
        if column.blank:
            number = f"{len(column.blank)} of {rows + len(column.blank)} rows ({scan.lines_text(column.blank)})"
            yield f"{file}: column '{column.name}' is blank in {number}, which are left out. Fill or remove them."
    if len(scan.duplicates) > DUPLICATE_SHARE * rows:
        pairs = [(scan.shown(line), scan.shown(first)) for line, first in scan.duplicates[:EXAMPLES]]
        number = f"{len(scan.duplicates)} of {rows} rows repeat an earlier one ({_places(pairs)})"
        yield f"{file}: {number} and count several times, in training and in scores. Keep one of each."
    for unit, sizes in scan.sizes.items():
        longest, texts = max(sizes), len(scan.first)
        if sizes[longest] >= max(CUT_TEXTS, CUT_SHARE * texts) and longest >= CUT_LENGTH:
            number = f"{sizes[longest]} of {texts} different texts have {longest} {unit} and none has more"
            yield f"{file}: {number}: they look cut off. Use the whole texts."
    one_language = len({lang for lang, _ in use.declared}) == len(set(use.table.langs)) == 1
    if len(scan.not_shorter) > rows / 2 and one_language:
        number = f"{len(scan.not_shorter)} of {rows} summaries are not shorter than their text"
        keys = "pairs.text_column and pairs.summary_column"
        yield f"{file}: {number} ({scan.lines_text(scan.not_shorter)}). See whether {keys} are swapped."


def _places(pairs: Sequence[tuple[int | str, int | str]], there: str = "") -> str:
    return "for example " + ", ".join(f"line {line} = line {other}{there}" for line, other in pairs[:EXAMPLES])


def _held_out(recipe: Recipe, uses: list[_Use], scans: Mapping[Table, Scan]) -> Iterator[tuple[_Use, int]]:
    """Training data without a validation file, with the number of rows that data/dataset.py will hold out of it."""
    for use in uses:
        data = recipe.text if use.role == "text.train" else recipe.pairs if use.role == "pairs.train" else None
        if data is not None and not data.validation_file and use.table in scans:
            yield use, max(1, round(scans[use.table].rows * data.validation_split))


def _split_problems(recipe: Recipe, uses: list[_Use], scans: Mapping[Table, Scan]) -> Iterator[str]:
    for use, held_out in _held_out(recipe, uses, scans):
        if held_out >= (rows := scans[use.table].rows):
            remedy = "Give a validation_file, or more rows."
            yield f"{use.table.file}: {rows} row(s) are too few to hold some out. {remedy}"


def _size_warnings(recipe: Recipe, uses: list[_Use], scans: Mapping[Table, Scan]) -> Iterator[str]:
    for use, held_out in _held_out(recipe, uses, scans):
        if held_out < FEW_VALIDATION_ROWS:
            section = use.role.split(".")[0]
            remedy = f"Give {section}.validation_file, or raise {section}.validation_split."
            yield f"{use.table.file}: only {held_out} row(s) would be held out for validation. {remedy}"
    for use in uses:
        file, rows = use.table.file, scans[use.table].rows
        if use.role.endswith(".validation") and rows < FEW_VALIDATION_ROWS:
            yield f"{file}: {rows} row(s) are few for validation. Have at least {FEW_VALIDATION_ROWS}."
        scored = min(rows, recipe.evaluate.max_samples or rows)
        if use.role == "pairs.test" and scored < FEW_TEST_ROWS:
            limit = "" if scored == rows else " (evaluate.max_samples)"
            remedy = f"Have at least {FEW_TEST_ROWS}, for narrower intervals."
            yield f"{file}: {scored} test pair(s){limit} are few. {remedy}"


def _baseline_warnings(recipe: Recipe) -> Iterator[str]:
    """Of a translation the first words are no baseline: they are in the wrong language, and too few."""
    source = recipe.pairs.source_lang_column or recipe.pairs.source_lang or ""
    target = recipe.pairs.target_lang_column or recipe.pairs.target_lang or source
    if recipe.evaluate.lead_tokens and language_prefix(source) != language_prefix(target):
        yield (
            f"pairs go from '{source}' to '{target}', but their baseline is the first {recipe.evaluate.lead_tokens} "
            "tokens of the input. If they are translations, set evaluate.lead_tokens to 0: the copied source."
        )


def _leaks(uses: list[_Use], scans: Mapping[Table, Scan]) -> Iterator[Leak]:
    tables = {use.role: use.table for use in uses}
    for role, other in LEAKS:
        if role in tables and other in tables:
            here, there = scans[tables[role]], scans[tables[other]]
            first = there.first
            found = [(line, first[key]) for line, key in zip(here.lines, here.hashes, strict=True) if key in first]
            if found:
                examples = tuple((here.shown(line), there.shown(other_line)) for line, other_line in found[:EXAMPLES])
                files = here.file, role, tables[other].file, other
                yield Leak(*files, len(found), here.rows, examples)


def _leak_warning(leak: Leak) -> str:
    meaning = LEAKS[leak.role, leak.other_role]
    if leak.file == leak.other_file:
        both = f"{leak.role} and {leak.other_role}: all {leak.rows} texts"
        return f"{leak.file} is both {both}. {meaning} Name two files."
    number = f"{leak.rows} of {leak.of_rows} {leak.role} texts are also in {leak.other_file} ({leak.other_role})"
    places = _places(leak.examples, " there")
    return f"{leak.file}: {number}, {places}. {meaning} Remove them from {leak.other_file}."


def _languages(uses: list[_Use], scans: Mapping[Table, Scan]) -> Iterator[LanguageReport]:
    done = set()
    for use in uses:
        columns = zip(scans[use.table].columns, use.table.langs, use.declared, strict=True)
        for column, lang_column, (lang, key) in columns:
            by = f"column '{lang_column}'" if lang_column else key
            for named, sample in column.samples.items():
                place = use.table.file, column.name, lang if named is None else named, by
                if place not in done:
                    done.add(place)
                    yield report_language(place, sample.texts)

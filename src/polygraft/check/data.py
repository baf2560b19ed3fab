"""The user's data before a second of training is spent: gaps, repeats, leaks between files, wrong languages.

Two texts are equal here if they are so in Unicode NFC and with each run of white space taken as one space. They are
compared by 128-bit hashes; of the texts themselves only a sample is kept, to tell its language.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from polygraft.check.language import (
    SAMPLE_CHARACTERS,
    Identifier,
    LanguageReport,
    Sample,
    language_warnings,
    report_language,
)
from polygraft.data.reading import iter_rows
from polygraft.errors import DataError
from polygraft.recipe import Recipe

FEW_TEST_ROWS, FEW_VALIDATION_ROWS = 100, 10
DUPLICATE_SHARE = 0.01
EXAMPLES = 3
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
}
"""The roles whose files must not share texts, and what it means if they do."""


@dataclass(frozen=True)
class Lengths:
    """One column's totals, and characters per row (the quantiles are lengths that occur)."""

    characters: int
    words: int
    min: int
    median: int
    p95: int
    max: int


@dataclass(frozen=True)
class FileReport:
    """One file as it is read with the recipe's columns.

    `rows` are those in use; `empty_rows` are dropped, their text being blank. Pairs with a blank summary stay in use.
    `duplicate_rows` are those beyond the first of each; in pairs, text and summary are both the same.
    """

    file: str
    roles: tuple[str, ...]
    rows: int
    empty_rows: int
    empty_summaries: int | None
    duplicate_rows: int
    text: Lengths
    summary: Lengths | None


@dataclass(frozen=True)
class Leak:
    """`rows` of a file's `of_rows` have a text that another file has too; `examples` are (line, line in the other)."""

    file: str
    role: str
    other_file: str
    other_role: str
    rows: int
    of_rows: int
    examples: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found; `warnings` are sentences with file, number, place and remedy."""

    files: tuple[FileReport, ...]
    leaks: tuple[Leak, ...]
    language: tuple[LanguageReport, ...]
    warnings: tuple[str, ...]


def check_data(arms: Mapping[str, Recipe]) -> DataReport:
    """Examine every data file of the arms, each once, and the overlaps of those that one arm uses together.

    Raises:
        DataError: files that cannot be read, hold no text or no summary, or are too small to split; all in one.
    """
    uses_of = {arm: _uses(recipe) for arm, recipe in arms.items()}
    uses = list(dict.fromkeys(use for of_arm in uses_of.values() for use in of_arm))
    scans: dict[_Table, _Scan] = {}
    problems: list[str] = []
    for table in dict.fromkeys(use.table for use in uses):
        try:
            scans[table] = _Scan(table)
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
        warnings += _size_warnings(recipe, uses_of[arm], scans)
    warnings += [*map(_leak_warning, leaks), *language_warnings(language)]
    files = tuple(scan.report([use.role for use in uses if use.table == table]) for table, scan in scans.items())
    return DataReport(files, leaks, language, tuple(dict.fromkeys(warnings)))


class _Table(NamedTuple):
    """A file as a recipe reads it: its columns, and for the text and, in pairs, the summary that of the language."""

    file: str
    columns: tuple[str, ...]
    langs: tuple[str | None, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return self.columns[: len(self.langs)]


class _Use(NamedTuple):
    """A table's role, and for each of its texts the declared language and the recipe's key that declares it."""

    role: str
    table: _Table
    declared: tuple[tuple[str, str], ...]


def _uses(recipe: Recipe) -> list[_Use]:
    text, pairs, uses = recipe.text, recipe.pairs, []
    if text is not None:
        for split, file in (("train", text.train_file), ("validation", text.validation_file)):
            if file:
                table = _Table(file, tuple(text.columns), (text.lang_column,))
                uses.append(_Use(f"text.{split}", table, ((text.lang or "", "text.lang"),)))
    source, target = (pairs.source_lang or "", "pairs.source_lang"), (pairs.target_lang or "", "pairs.target_lang")
    langs = (pairs.source_lang_column, pairs.target_lang_column)
    if pairs.target_lang is None:  # as in data/dataset.py, the input's language is then the output's
        target, langs = source, (langs[0], langs[1] or langs[0])
    for split, file in (("train", pairs.train_file), ("validation", pairs.validation_file), ("test", pairs.test_file)):
        if file:
            table = _Table(file, tuple(pairs.columns), langs)
            uses.append(_Use(f"pairs.{split}", table, (source, target)))
    return uses


class _Column:
    """The numbers of one column, and samples of it by the language that the row names, if it does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.characters = array("L")
        self.words = 0
        self.blank: list[int] = []
        self.samples: defaultdict[str | None, Sample] = defaultdict(Sample)

    def add(self, line: int, text: str, lang: str | None) -> tuple[bytes, int]:
        """Take a text in; return its hash and its number of words."""
        words = unicodedata.normalize("NFC", text).split()
        normal = " ".join(words)
        self.characters.append(len(text))
        self.words += len(words)
        if not words:
            self.blank.append(line)
        sample = self.samples[lang]
        if len(normal) >= SAMPLE_CHARACTERS[0]:
            sample.add(normal[: SAMPLE_CHARACTERS[1]])
        return blake2b(normal.encode(), digest_size=16).digest(), len(words)

    def lengths(self) -> Lengths:
        quantiles = np.quantile(self.characters, [0, 0.5, 0.95, 1], method="inverted_cdf")
        return Lengths(sum(self.characters), self.words, *map(int, quantiles))


class _Scan:
    """What one pass over a table keeps. Raises DataError where the table cannot be used."""

    def __init__(self, table: _Table) -> None:
        self.file = table.file
        self.columns = [_Column(name) for name in table.texts]
        self.empty: list[int] = []
        self.lines = array("L")
        self.hashes: list[bytes] = []
        self.first: dict[bytes, int] = {}  # line of each text's first row
        self.duplicates: list[tuple[int, int]] = []  # (line, line of the row it repeats)
        self.not_shorter: list[int] = []  # lines of summaries as long as their text or longer
        self.sizes: dict[str, Counter[int]] = {"characters": Counter(), "words": Counter()}  # of distinct texts
        rows: dict[bytes, int] = {}
        texts = table.texts
        for line, row in iter_rows(table.file, table.columns):
            if row[texts[0]].strip():
                key = self._add(line, [row[c] for c in texts], [row[c] if c else None for c in table.langs])
                if rows.setdefault(key, line) != line:
                    self.duplicates.append((line, rows[key]))
            else:
                self.empty.append(line)
        for column in self.columns:
            if len(column.blank) == self.rows:
                raise DataError(f"{self.file}: column '{column.name}' is blank in every row. Name the right one.")

    @property
    def rows(self) -> int:
        return len(self.hashes)

    def _add(self, line: int, texts: list[str], langs: list[str | None]) -> bytes:
        """Take a row in; return the hash of all its texts."""
        added = [column.add(line, text, lang) for column, text, lang in zip(self.columns, texts, langs, strict=True)]
        text_hash, words = added[0]
        if text_hash not in self.first:
            self.first[text_hash] = line
            self.sizes["characters"][len(texts[0])] += 1
            self.sizes["words"][words] += 1
        self.lines.append(line)
        self.hashes.append(text_hash)
        if len(texts[-1]) >= len(texts[0]) and len(texts) > 1:
            self.not_shorter.append(line)
        return b"".join(digest for digest, _ in added)

    def report(self, roles: Sequence[str]) -> FileReport:
        text, summary = self.columns[0], self.columns[1] if len(self.columns) > 1 else None
        return FileReport(
            self.file, tuple(roles), self.rows, len(self.empty), len(summary.blank) if summary else None,
            len(self.duplicates), text.lengths(), summary.lengths() if summary else None,
        )  # fmt: skip


def _row_warnings(use: _Use, scan: _Scan) -> Iterator[str]:
    file, rows = scan.file, scan.rows
    if scan.empty:
        remedy = "Fill or remove them."
        if file.endswith(".txt"):
            remedy = "Each line is a document: where blank lines separate documents, write each into one line."
        yield f"{file}: {len(scan.empty)} row(s) without text are dropped ({_lines(scan.empty)}). {remedy}"
    for column in scan.columns[1:]:
        if column.blank:
            number = f"{len(column.blank)} of {rows} rows ({_lines(column.blank)})"
            yield f"{file}: column '{column.name}' is blank in {number}, and used so. Fill or remove them."
    if len(scan.duplicates) > DUPLICATE_SHARE * rows:
        number = f"{len(scan.duplicates)} of {rows} rows repeat an earlier one ({_places(scan.duplicates)})"
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
        yield f"{file}: {number} ({_lines(scan.not_shorter)}). See whether {keys} are swapped."


def _lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:EXAMPLES])) + (", …" if len(lines) > EXAMPLES else "")
    return f"line{'s' if len(lines) > 1 else ''} {shown}"


def _places(pairs: Sequence[tuple[int, int]], there: str = "") -> str:
    return "for example " + ", ".join(f"line {line} = line {other}{there}" for line, other in pairs[:EXAMPLES])


def _held_out(recipe: Recipe, uses: list[_Use], scans: Mapping[_Table, _Scan]) -> Iterator[tuple[_Use, int]]:
    """Training data without a validation file, with the number of rows that data/dataset.py will hold out of it."""
    for use in uses:
        data = recipe.text if use.role == "text.train" else recipe.pairs if use.role == "pairs.train" else None
        if data is not None and not data.validation_file and use.table in scans:
            yield use, max(1, round(scans[use.table].rows * data.validation_split))


def _split_problems(recipe: Recipe, uses: list[_Use], scans: Mapping[_Table, _Scan]) -> Iterator[str]:
    for use, held_out in _held_out(recipe, uses, scans):
        if held_out >= (rows := scans[use.table].rows):
            remedy = "Give a validation_file, or more rows."
            yield f"{use.table.file}: {rows} row(s) are too few to hold some out. {remedy}"


def _size_warnings(recipe: Recipe, uses: list[_Use], scans: Mapping[_Table, _Scan]) -> Iterator[str]:
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
            remedy = f"intervals will be wide. Have at least {FEW_TEST_ROWS}."
            yield f"{file}: {scored} test pair(s){limit} are few: {remedy}"


def _leaks(uses: list[_Use], scans: Mapping[_Table, _Scan]) -> Iterator[Leak]:
    tables = {use.role: use.table for use in uses}
    for role, other in LEAKS:
        if role in tables and other in tables:
            here, there = scans[tables[role]], scans[tables[other]].first
            found = [(line, there[key]) for line, key in zip(here.lines, here.hashes, strict=True) if key in there]
            if found:
                files = here.file, role, tables[other].file, other
                yield Leak(*files, len(found), here.rows, tuple(found[:EXAMPLES]))


def _leak_warning(leak: Leak) -> str:
    meaning = LEAKS[leak.role, leak.other_role]
    if leak.file == leak.other_file:
        both = f"{leak.role} and {leak.other_role}: all {leak.rows} texts"
        return f"{leak.file} is both {both}. {meaning} Name two files."
    number = f"{leak.rows} of {leak.of_rows} {leak.role} texts are also in {leak.other_file} ({leak.other_role})"
    places = _places(leak.examples, " there")
    return f"{leak.file}: {number}, {places}. {meaning} Remove them from {leak.other_file}."


def _languages(uses: list[_Use], scans: Mapping[_Table, _Scan]) -> Iterator[LanguageReport]:
    identifier = Identifier()
    done = set()
    for use in uses:
        columns = zip(scans[use.table].columns, use.table.langs, use.declared, strict=True)
        for column, lang_column, (lang, key) in columns:
            by = f"column '{lang_column}'" if lang_column else key
            for named, sample in column.samples.items():
                place = use.table.file, column.name, lang if named is None else named, by
                if place not in done:
                    done.add(place)
                    yield report_language(identifier, place, sample.texts)

"""What a `…_file` of a recipe or a verb stands for: files, globs, folders, parallel files of lines, hub data sets.

A setting is one name or a list of names; `listed` is the one place where that makes no difference any more, and
`sources` the one place that finds out what a name means.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraft.data import hub, json_rows, separated, tables
from polygraft.data.cells import Cells
from polygraft.data.compression import COMPRESSIONS, split_endings, text_lines, without_ends
from polygraft.errors import DataError
from polygraft.nano import FOLDER as BUNDLED
from polygraft.nano import PREFIX as BUNDLED_PREFIX
from polygraft.nano import bundled

FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")
Names = str | Sequence[str]
Row = tuple[str, int, Cells]
"""(unit, number from 1, cells): "line 3" of a file of lines, "row 3" of another."""
_BRACES = re.compile(r"([^{}]*)\{([^{}]+)\}([^{}]*)")
_SHOWN = 3


def listed(names: Names | None) -> tuple[str, ...]:
    """Return the names of a setting, whether it is one, several or none."""
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def label(names: Names | None) -> str:
    """Return a setting's names as messages show them."""
    all_ = listed(names)
    more = f" and {len(all_) - _SHOWN} more" if len(all_) > _SHOWN else ""
    return ", ".join(all_[:_SHOWN]) + more


@dataclass(frozen=True)
class Source:
    """One table of rows: a file, several parallel ones, a folder of `save_to_disk`, or a hub data set.

    Attributes:
        name: what messages call it.
        paths: its files on disk; of a hub data set none.
        kind: its format's ending, or "lines", "saved" or "hub".
        parts: what parallel files are called in the braces of their name.
    """

    name: str
    paths: tuple[Path, ...]
    kind: str
    parts: tuple[str, ...] = ()

    def rows(self, columns: Sequence[str], *, whole: bool = False, strict: bool = True) -> Iterator[Row]:
        """Read the table: rows come as they are read, so that memory holds a few.

        Args:
            columns: what each row must have.
            whole: whether rows have all other columns, too (those that cost nothing to read are always there).
            strict: without it a row that cannot be read is the error that says why.

        Raises:
            DataError: whatever is wrong with it, with its line or row and a remedy.
        """
        if self.kind == "lines":
            lines_of = _parallel_rows(self.name, self.paths, self._line_columns(columns), strict)
            return self._with_languages(lines_of, columns)
        if self.kind in (".json", ".jsonl"):
            read = json_rows.read_json if self.kind == ".json" else json_rows.read_jsonl
            return read(self.paths[0], self.name, columns, strict)
        if self.kind in (".csv", ".tsv"):
            separator = "," if self.kind == ".csv" else "\t"
            lines = separated.read_separated(self.paths[0], self.name, columns, separator, strict)
            return (("line", number, row) for number, row in lines)
        if self.kind == "hub":
            rows = hub.hub_rows(self.name, columns, whole)
        elif self.kind == "saved":
            rows = hub.saved_rows(self.paths[0], self.name, columns, whole)
        else:
            read_table = tables.read_parquet if self.kind == ".parquet" else tables.read_arrow
            rows = read_table(self.paths[0], self.name, columns, whole)
        return (("row", number, row) for number, row in rows)

    def _line_columns(self, columns: Sequence[str]) -> Sequence[str]:
        """What the columns of files of lines are called: as in the braces, or by their order as they are asked for."""
        by_order = len(self.paths) <= len(columns) and not set(self.parts) & set(columns)
        return columns[: len(self.paths)] if by_order else self.parts

    def _with_languages(self, rows: Iterator[Row], columns: Sequence[str]) -> Iterator[Row]:
        """Add the columns that name a language each, behind the texts': what the files are called in the braces.

        So both directions can be asked for: `train.{en,uk}` beside `train.{uk,en}`.
        """
        named = columns[len(self.paths) :]
        by_order = self._line_columns(columns) is not self.parts and len(named) == len(self.parts) > 1
        languages = dict(zip(named, self.parts, strict=True)) if by_order else {}
        for unit, number, row in rows:
            yield unit, number, row | languages if isinstance(row, dict) else row

    def files(self) -> list[str]:
        """Return the names of all files behind the source; bundled ones are called the same anywhere."""
        if self.kind == "hub":
            return [self.name]
        if len(self.paths) == 1 and self.paths[0].is_relative_to(BUNDLED):
            return [f"{BUNDLED_PREFIX}{self.paths[0].relative_to(BUNDLED).as_posix()}"]
        inside = sorted(self.paths[0].glob("*.arrow")) if self.kind == "saved" else self.paths
        return list(map(str, inside))


def _parallel_rows(name: str, paths: Sequence[Path], columns: Sequence[str], strict: bool) -> Iterator[Row]:
    """Yield rows of one line of each file.

    Raises:
        DataError: files with unequal numbers of lines.
    """
    readers = [without_ends(text_lines(path, str(path) if len(paths) > 1 else name, strict)) for path in paths]
    number = 0
    while True:
        lines = [next(reader, None) for reader in readers]
        cells = [line[1] for line in lines if line is not None]
        if len(cells) < len(lines):
            if cells:
                _refuse_unequal(name, paths)
            return
        number += 1
        yield "line", number, dict(zip(columns, cells, strict=True))


def _refuse_unequal(name: str, paths: Sequence[Path]) -> None:
    counts = [(path, sum(1 for _ in text_lines(path, str(path)))) for path in paths]
    found = ", ".join(f"{path} has {count:,} lines" for path, count in counts)
    raise DataError(
        f"{name}: parallel files must have the same number of lines, but {found}. Line n belongs to line n."
    )


def sources(names: Names) -> list[Source]:
    """Find out what names stand for, in their order; a glob's and a folder's files come sorted.

    Raises:
        DataError: no such file, a format that is not known, a folder or glob without files, or a file named twice.
    """
    found = [source for name in listed(names) for source in _resolve(name)]
    seen: set[tuple[Path, ...] | str] = set()
    for source in found:
        key = tuple(path.resolve() for path in source.paths) or source.name
        if key in seen:
            raise DataError(f"{source.name}: is named twice, and would be read twice. Name it once.")
        seen.add(key)
    return found


def _resolve(name: str) -> list[Source]:
    if name.startswith(hub.PREFIX):
        return [Source(name, (), "hub")]
    if not name.strip():
        raise DataError("'': is no name of a file. Leave the setting out, or name a file.")
    path = bundled(name) or Path(name)
    if path.is_dir():
        return _folder(path, name)
    if path.exists():
        return [_file(path, name)]
    if braces := _BRACES.fullmatch(name):
        return [_parallel(name, *braces.groups())]
    if glob.has_magic(name):
        matches = [match for match in sorted(glob.glob(name, recursive=True)) if Path(match).is_file()]
        if not matches:
            raise DataError(f"{name}: no file has such a name (looked in {Path.cwd()}). Check the pattern.")
        return [_file(Path(match), match) for match in matches]
    raise DataError(f"{name}: no such file (looked in {Path.cwd()}). Check the spelling, or give an absolute path.")


def _file(path: Path, name: str) -> Source:
    ending = split_endings(path.name)[0]
    if ending not in FORMATS:
        written = ending or Path(name).suffix
        known = f"{', '.join(FORMATS)}, each also {', '.join(COMPRESSIONS)}"
        remedy = "A file of lines with another ending is named with braces, parallel ones together: 'train.{en,uk}'."
        raise DataError(f"{name}: unknown format '{written}'. Known formats: {known}. {remedy}")
    return Source(name, (path,), "lines" if ending == ".txt" else ending)


def _folder(path: Path, name: str) -> list[Source]:
    if hub.is_saved(path):
        hub.check_saved(path, name)
        return [Source(name, (path,), "saved")]
    inside = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith((".", "_"))]
    known = [file for file in inside if split_endings(file.name)[0] in FORMATS]
    if not known:
        raise DataError(f"{name}: is a folder without any file of a known format: {', '.join(FORMATS)}.")
    return [_file(file, f"{name.rstrip('/')}/{file.name}") for file in known]


def _parallel(name: str, before: str, inside: str, after: str) -> Source:
    parts = tuple(part.strip() for part in inside.split(","))
    files = [f"{before}{part}{after}" for part in parts]
    if len(set(parts)) < len(parts):
        raise DataError(f"{name}: the same file twice in the braces. Name each once.")
    for file in files:
        if not Path(file).is_file():
            raise DataError(f"{file}: no such file (of the parallel files {name}; looked in {Path.cwd()}).")
        if (ending := split_endings(file)[0]) in FORMATS[1:]:
            raise DataError(f"{name}: braces are for parallel files of lines. Name {ending} files one by one.")
    return Source(name, tuple(map(Path, files)), "lines", parts)


DATA_FIELDS = ("train_file", "validation_file", "test_file", "input_file")


def data_files(section: Any) -> list[str]:
    """Return all files and hub data sets behind a data section, in order: what a fingerprint has to see.

    Raises:
        DataError: as `sources` does.
    """
    return [file for field in DATA_FIELDS for file in _files(getattr(section, field, None))]


def data_settings(section: Any) -> dict[str, Any]:
    """Return a section's settings with the numbers of its files in place of their names: contents count, not names."""
    settings = section.model_dump()
    files = {f"{key}s": len(_files(settings[key])) for key in DATA_FIELDS if settings.get(key) is not None}
    return {key: value for key, value in settings.items() if key not in DATA_FIELDS} | files


def _files(names: Names | None) -> list[str]:
    return [file for source in sources(listed(names)) for file in source.files()]


def local_path(file: str) -> Path:
    """Return where one of `data_files` lies that is not of the hub."""
    return bundled(file) or Path(file)

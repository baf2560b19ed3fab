"""Outputs for files of texts, however long: in their order and format, going on where an interrupted run was.

Rows are read a part at a time, PART_ROWS of them, within which they are decoded by length. A part's outputs are a file
in a hidden folder beside the output; when all are there, the input is read once more, and written with them.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from transformers import set_seed

from polygraft.data.cells import attempt
from polygraft.data.compression import decoded_lines, without_ends
from polygraft.data.dataset import pair_codes
from polygraft.data.files import only_one, write_atomically
from polygraft.data.notices import count_unwritable, say
from polygraft.data.reading import Place, WholeRow, label, row_texts, whole_rows
from polygraft.data.writing import assert_writable, output_columns, writer
from polygraft.errors import DataError, PolygraftError
from polygraft.inference.engine import open_engine
from polygraft.inference.generate import OnProgress
from polygraft.models.recorded import completed
from polygraft.progress import Progress
from polygraft.runs.records import Task, differences, read_record, write_record
from polygraft.settings import Generate, InputData, PairData

PART_ROWS = 512
T = TypeVar("T")


class Asked(NamedTuple):
    """What is asked of a model: a text, its language and that of the output, as the tokenizer's codes."""

    text: str
    source: str
    target: str


class Count:
    """How many rows were read: those written, the blank ones among them, and those skipped since they are bad."""

    def __init__(self, name: str, column: str) -> None:
        self.name, self.column = name, column
        self.written = self.blank = self.skipped = 0
        self.first_skipped: str | None = None

    def add(self, asked: Asked | DataError) -> Asked | None:
        """Count a row; returns what it asks for, None of a bad one."""
        if isinstance(asked, DataError):
            self.first_skipped, self.skipped = self.first_skipped or str(asked), self.skipped + 1
            return None
        self.written += 1
        self.blank += not asked.text.strip()
        return asked

    def close(self) -> None:
        """Say how many were blank.

        Raises:
            DataError: no text was read.
        """
        if self.blank == self.written:
            why = f" ({self.first_skipped})" if self.skipped else ""
            raise DataError(f"{self.name}: holds no text in '{self.column}' that can be read{why}.")
        if self.blank:
            say(f"{self.name}: {self.blank} of {self.written} texts are blank, and so are their outputs.")

    def __str__(self) -> str:
        skipped = f", {self.skipped:,} skipped (first: {self.first_skipped})" if self.skipped else ""
        return f"{self.written:,} row{'' if self.written == 1 else 's'}{skipped}"


class Generator:
    """A checkpoint, and how it is asked for outputs."""

    def __init__(self, model: str, inputs: InputData, settings: Generate, seed: int) -> None:
        """Load the tokenizer; the model itself when it is needed.

        Raises:
            RecipeError: a language that is neither given nor recorded.
            CheckpointError: a checkpoint that cannot be used.
        """
        self.engine, self.settings, self.seed = open_engine(model), settings, seed
        self.tokenizer = self.engine.tokenizer
        languages = inputs.model_dump(include={f"{s}_lang{c}" for s in ("source", "target") for c in ("", "_column")})
        self.pairs = completed(
            PairData(text_column=inputs.text_column, **languages), model, self.tokenizer, self.engine.languages
        )
        self.codes = functools.cache(self._codes)

    def request(self, texts: dict[str, str], place: Place) -> Asked:
        """Return what a row asks for.

        Raises:
            DataError: a language that the model does not have, or that the row leaves blank.
        """
        columns = self.pairs.source_lang_column, self.pairs.target_lang_column
        try:
            codes = self.codes(*(texts[column] if column else None for column in columns))
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        return Asked(texts[self.pairs.text_column], *codes)

    def _codes(self, source: str | None, target: str | None) -> tuple[str, str]:
        row = {self.pairs.source_lang_column: source, self.pairs.target_lang_column: target}
        for column, language in row.items():
            if column and not (language or "").strip():
                raise DataError(f"column '{column}' is blank, and has to name a language. Fill it.")
        (source_code,), (target_code,) = pair_codes([row], self.pairs, self.tokenizer)  # type: ignore[list-item]
        return source_code, target_code

    def outputs(self, asked: Sequence[Asked], part: int, progress: OnProgress | None = None) -> list[list[str]]:
        """Return the outputs of each; `part` numbers the call, so that what is drawn at random is drawn again alike."""
        set_seed(self.seed + part)
        texts, sources, targets = ([one[i] for one in asked] for i in range(3))
        return self.engine.decode(texts, sources, targets, self.settings, progress)


def generate_stream(
    model: str, inputs: InputData, settings: Generate, seed: int = 1, stdin: IO[bytes] | None = None
) -> Iterator[list[str]]:
    """Yield the outputs of each row of `inputs.input_file`, or of each line of `stdin`, as they are made.

    Raises:
        DataError: no text, or a row that cannot be read; the outputs of earlier parts have been yielded.
        RecipeError: a language that is neither given nor recorded.
        CheckpointError: a model that cannot be used.
    """
    generator, strict = Generator(model, inputs, settings, seed), not inputs.skip_bad_rows
    count = Count("-" if stdin else label(inputs.input_file), inputs.text_column)
    rows = _lines(stdin, inputs.columns, strict) if stdin else _rows(inputs)
    for number, part in enumerate(_parts(_requests(generator, rows, strict))):
        asked = [one for _, row in part if (one := count.add(row))]
        if number == 0:
            count_unwritable(generator.tokenizer, [one.text for one in asked], count.name, count.column)
        yield from generator.outputs(asked, number)
    count.close()
    if count.skipped:
        say(f"generate: {count}")


def generate_file(model: str, inputs: InputData, output: Path, settings: Generate, seed: int = 1) -> Count:
    """Write the rows of `inputs.input_file` to `output`, each with its outputs in a column: all of them, or nothing.

    Interrupted, the same call goes on. A row that cannot be read ends the work before it begins, or with
    `skip_bad_rows` is left out and counted.

    Raises:
        DataError: no text, a row that cannot be read, or an output that cannot be written as its name says.
        RecipeError: a language that is neither given nor recorded.
        CheckpointError: a model that cannot be used.
        PolygraftError: unfinished outputs of other settings or inputs are beside `output`.
    """
    assert_writable(output, inputs.input_file, inputs.prediction_column, settings.num_return_sequences)
    generator = Generator(model, inputs, settings, seed)
    count = _looked_through(generator, inputs, settings.num_return_sequences)
    # The batch's size decides nothing: one that was too large may be made smaller half-way.
    decisive = settings.model_copy(update={"per_device_eval_batch_size": 1})
    task: Callable[[], Task] = partial(Task.of, "generate", decisive, [model, inputs], seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder, begun = output.with_name(f".{output.name}.parts"), task()
    with only_one(folder):
        _begin(folder, begun)
        _decode_parts(generator, inputs, folder, count.written + count.skipped)
        if task().fingerprint != begun.fingerprint:
            raise PolygraftError(f"{label(inputs.input_file)}: changed while it was read. Run again.")
        _write(inputs, settings.num_return_sequences, folder, output)
        shutil.rmtree(folder)
    return count


def _rows(inputs: InputData) -> Iterator[WholeRow]:
    return whole_rows(inputs.input_file, inputs.columns, not inputs.skip_bad_rows)


def _lines(stdin: IO[bytes], columns: Sequence[str], strict: bool) -> Iterator[WholeRow]:
    for number, line in without_ends(decoded_lines(stdin, "-", strict)):
        place = Place("-", "line", number, 0)
        yield place, {}, attempt(partial(row_texts, {columns[0]: line}, columns, place), strict)


def _requests(
    generator: Generator, rows: Iterable[WholeRow], strict: bool
) -> Iterator[tuple[dict[str, Any], Asked | DataError]]:
    """Yield (all cells, what is asked of the model) for every row; without `strict`, of a bad one why it is bad."""
    for place, cells, texts in rows:
        if isinstance(texts, DataError):
            yield cells, texts
        else:
            yield cells, attempt(partial(generator.request, texts, place), strict)


def _looked_through(generator: Generator, inputs: InputData, outputs: int) -> Count:
    """Read all rows once, so that what is wrong with one is said before hours of work, and count them."""
    count, sample = Count(label(inputs.input_file), inputs.text_column), list[str]()
    new = {inputs.prediction_column, *output_columns(inputs.prediction_column, outputs)}
    for cells, row in _requests(generator, _rows(inputs), not inputs.skip_bad_rows):
        if (asked := count.add(row)) is None:
            continue
        if taken := sorted(new & set(cells)):
            remedy = "Give another --prediction-column, so that it is not lost."
            raise DataError(f"{count.name}: has a column '{taken[0]}' already. {remedy}")
        if len(sample) < PART_ROWS:
            sample.append(asked.text)
    count.close()
    count_unwritable(generator.tokenizer, sample, count.name, count.column)
    return count


def _begin(folder: Path, task: Task) -> None:
    """Make the folder of parts, or find it as an interrupted run of the same task has left it."""
    found = read_record(folder)
    if found and found["fingerprint"] == task.fingerprint:
        return
    if found and any(folder.glob("part-*")):
        raise PolygraftError(
            f"{folder}: holds unfinished outputs of other settings or inputs{differences(found, task)}. Give the same "
            "ones to go on, name another output file, or delete this folder."
        )
    write_record(folder, task.record())


def _parts(rows: Iterable[T]) -> Iterator[list[T]]:
    rows = iter(rows)
    while part := list(islice(rows, PART_ROWS)):
        yield part


def _decode_parts(generator: Generator, inputs: InputData, folder: Path, rows: int) -> None:
    """Write each part that is not there: the outputs of its rows, null for a bad one."""
    done = 0
    with Progress("generate") as bar:

        def show(here: int, of: int) -> None:
            bar.update((done + here) / rows)

        for number, part in enumerate(_parts(_requests(generator, _rows(inputs), not inputs.skip_bad_rows))):
            path = folder / f"part-{number:06}.json"
            if not path.exists():
                made = iter(generator.outputs([one for _, one in part if isinstance(one, Asked)], number, show))
                outputs = [next(made) if isinstance(one, Asked) else None for _, one in part]
                write_atomically(path, json.dumps(outputs, ensure_ascii=False))
            done += len(part)
            bar.update(done / rows)


def _write(inputs: InputData, count: int, folder: Path, output: Path) -> None:
    """Read the rows again and write them with the outputs of all parts."""
    parts = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("part-*")))
    outputs = (one for part in parts for one in part)
    with writer(output, inputs.input_file, inputs.prediction_column, count) as file:
        for (_, cells, _), written in zip(_rows(inputs), outputs, strict=True):
            if written is not None:
                file.write(cells, written)

"""Where texts and pairs lie, and in which languages they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
    PositiveInt,
)

from polygraft.settings.base import Files, Settings


class PlainText(Settings):
    """Where text lies in files, and in which language it is."""

    text_column: str = "text"
    """The column that holds the text (ignored for .txt)."""
    lang: str | None = None
    """Language of the text, which mBART has to be told: `uk`, `uk_UA` and `ukr_Cyrl` mean the same."""
    lang_column: str | None = None
    """The column that names each row's language, for files of several languages; overrides `lang`."""

    @property
    def columns(self) -> list[str]:
        """The columns that each file must have, the text first."""
        return [*self.texts, *self.language_columns]

    @property
    def language_columns(self) -> list[str]:
        """The columns that name languages."""
        return [self.lang_column] if self.lang_column else []

    @property
    def texts(self) -> list[str]:
        """The columns of text; a row that is blank in one of them is left out."""
        return [self.text_column]


class TextData(PlainText):
    """Monolingual text to adapt to."""

    train_file: Files
    """A .txt (one document per line), .jsonl, .json, .csv, .tsv, .parquet or .arrow file, also compressed; a folder, a
    glob, hf://datasets/…, a bundled polygraft/sample/… name, or a list of these: see docs/files.md."""
    validation_file: Files | None = None
    """Held-out text; without it, `validation_split` of the training documents are held out."""
    validation_split: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the training documents held out when there is no `validation_file`."""


class PairData(Settings):
    """Labelled pairs: text and summary, or source and translation."""

    train_file: Files | None = None
    """A .jsonl, .json, .csv, .tsv, .parquet or .arrow file, also compressed; parallel files of lines as train.{en,uk};
    a folder, a glob, hf://datasets/…, a bundled polygraft/sample/… name, or a list of these: see docs/files.md."""
    validation_file: Files | None = None
    """Development pairs, which choose the best checkpoint; without it, `validation_split` of the training pairs."""
    validation_split: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training pairs held out when there is no `validation_file`."""
    test_file: Files | None = None
    """Pairs that `evaluate` scores; never seen in training."""
    text_column: str = "text"
    """The column of the input text."""
    summary_column: str = "summary"
    """The column of the output text: the summary or the translation."""
    source_lang: str | None = None
    """Language of the input: `uk`, `uk_UA` and `ukr_Cyrl` mean the same."""
    target_lang: str | None = None
    """Language of the output; without it, in training that of the input, else the one that training recorded."""
    source_lang_column: str | None = None
    """The column that names each row's input language; overrides `source_lang`."""
    target_lang_column: str | None = None
    """The column that names each row's output language; overrides `target_lang`."""
    max_train_samples: PositiveInt | None = None
    """Use only the first so many training pairs."""

    @property
    def columns(self) -> list[str]:
        """The columns that each file must have, the text first."""
        return [*self.texts, *self.language_columns]

    @property
    def language_columns(self) -> list[str]:
        """The columns that name languages."""
        return [column for column in (self.source_lang_column, self.target_lang_column) if column]

    @property
    def texts(self) -> list[str]:
        """The columns of text; a row that is blank in one of them is left out."""
        return [self.text_column, self.summary_column]


class AddLanguages(Settings):
    """Languages that the target has no code for."""

    relatives: dict[str, str]
    """New code -> the known language whose row it starts from."""


class Trim(Settings):
    """A checkpoint's vocabulary, reduced to what a text needs."""

    train_file: Files
    """Files of text, as for `adapt` and `finetune`."""
    text_column: list[str] = Field(default=["text"])
    """The columns whose text is needed (`text` and `summary` for pairs)."""


class Forgetting(PlainText):
    """Held-out text in languages that the target knew before: what becomes of them."""

    test_file: Files
    """Text that no stage trains on: a file, a glob, a folder, a bundled name, or a list of these; see docs/files.md."""
    max_samples: PositiveInt = 100
    """Documents of each language that are read, the first ones."""


class InputData(Settings):
    """Texts that a model is to read, and where its outputs go."""

    input_file: Files = "-"
    """Texts in any format that training reads (docs/files.md); - is standard input, one text per line."""
    text_column: str = "text"
    """The column that holds the text (ignored for .txt)."""
    prediction_column: str = "prediction"
    """What the column of outputs is called; all other columns stay as they are."""
    source_lang: str | None = None
    """Language of the texts; without it, the one that the checkpoint records."""
    target_lang: str | None = None
    """Language of the outputs; without it, the one that the checkpoint records."""
    source_lang_column: str | None = None
    """The column that names each text's language; overrides `source_lang`."""
    target_lang_column: str | None = None
    """The column that names each output's language; overrides `target_lang`."""
    skip_bad_rows: bool = False
    """Whether a row that cannot be read is left out of the output, and counted, instead of ending the work."""

    @property
    def columns(self) -> list[str]:
        """The columns that each row must have, the text first."""
        return [self.text_column, *(c for c in (self.source_lang_column, self.target_lang_column) if c)]

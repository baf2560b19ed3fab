"""Token datasets: documents tokenized once, kept as flat arrays, cut to the model's length."""

from __future__ import annotations

import random
import tempfile
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from polygraft.data.languages import meaning_of, to_code
from polygraft.data.layout import Layout
from polygraft.data.notices import Unwritable
from polygraft.data.reading import RowList, Rows
from polygraft.errors import DataError, RecipeError
from polygraft.settings import PairData, TextData

TOKENIZER_BATCH = 1000
SPECIAL_TOKENS = 2  # of a document: <s> or its language, and </s>


class TextDataset(Dataset):
    """Pieces of documents without special tokens: item i is {"input_ids": int32 [T], "language": id or -1}.

    Their tokens lie one after the other in a file without a name, mapped into memory: text larger than memory is no
    problem, and there is nothing to clean up.
    """

    def __init__(
        self, pieces: Iterable[tuple[np.ndarray, int]], rows: Iterable[dict[str, Any]] = (), places: Sequence[int] = ()
    ) -> None:
        """Keep pieces (tokens, language); `rows` are what they were made of, `places` of which row each is."""
        self.rows, self.places = rows, places
        lengths, languages = array("q"), array("q")
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the dataset lives)
        for tokens, language in pieces:
            self.file.write(tokens.astype(np.int32).tobytes())
            lengths.append(len(tokens))
            languages.append(language)
        self.file.flush()
        self.ends, self.languages = np.cumsum(lengths, dtype=np.int64), np.array(languages, dtype=np.int64)
        empty = not len(self.ends) or not self.ends[-1]
        self.tokens = np.zeros(0, np.int32) if empty else np.memmap(self.file, np.int32, "r")

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece with its two special tokens, (N, 1) int64."""
        return np.diff(self.ends, prepend=0)[:, None] + SPECIAL_TOKENS

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = self.ends[index - 1] if index > 0 else 0
        tokens = np.array(self.tokens[start : self.ends[index]])
        return {"input_ids": tokens, "language": int(self.languages[index])}

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Say of which documents pieces are."""
        if not self.places:
            return [f"piece {number + 1}" for number in numbers]
        places = [self.places[number] for number in numbers]
        ids = {place: row["id"] for place, row in enumerate(self.rows) if place in places}
        return list(dict.fromkeys(f"row {ids[place]}" for place in places))


class PairDataset(Dataset):
    """Labelled pairs with their special tokens: {"input_ids": list, "labels": list, "id": str, "language": code}."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items, self.places = items, range(len(items))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each pair's input and output, special tokens included, (N, 2) int64."""
        sides = [(len(item["input_ids"]), len(item["labels"])) for item in self.items]
        return np.array(sides, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Say of which rows pairs are."""
        return [f"row {self.items[number]['id']}" for number in numbers]


def tokenize(tokenizer: Any, texts: Iterable[str]) -> list[list[int]]:
    """Tokenize without special tokens."""
    return list(tokenize_stream(tokenizer, texts))


def tokenize_stream(tokenizer: Any, texts: Iterable[str], unwritable: Unwritable | None = None) -> Iterator[list[int]]:
    """Tokenize without special tokens, some texts at a time; `unwritable` counts those that the tokenizer cannot."""
    remaining = iter(texts)
    while batch := list(islice(remaining, TOKENIZER_BATCH)):
        # verbose=False: longer than the model is fine here, since documents are cut below.
        ids = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        if unwritable:
            unwritable.add(batch, ids)
        yield from ids


def _tokenize_column(tokenizer: Any, rows: Iterable[dict[str, Any]], column: str) -> Iterator[list[int]]:
    """Tokenize a column of rows, and say in the end how many of its texts the tokenizer mostly cannot write.

    Raises:
        DataError: it can write none of them.
    """
    unwritable = Unwritable(tokenizer)
    yield from tokenize_stream(tokenizer, (row[column] for row in rows), unwritable)
    unwritable.report(getattr(rows, "name", "the data"), column)


def text_dataset(
    rows: Iterable[dict[str, Any]], data: TextData, tokenizer: Any, max_length: int, coded: bool
) -> TextDataset:
    """Tokenize rows and cut them into pieces of at most `max_length` minus two special tokens.

    `coded` says that the model has language codes (mBART); otherwise the language is -1. `rows` are read twice.
    """
    room = max_length - SPECIAL_TOKENS

    def pieces() -> Iterator[tuple[np.ndarray, int]]:
        codes: Iterable[int] = repeat(-1)
        if coded:
            codes = map(tokenizer.convert_tokens_to_ids, row_codes(rows, data.lang, data.lang_column, tokenizer))
        texts = _tokenize_column(tokenizer, rows, data.text_column)
        for place, (ids, code) in enumerate(zip(texts, codes, strict=coded)):
            for start in range(0, len(ids), room):
                places.append(place)
                yield np.asarray(ids[start : start + room], dtype=np.int32), code

    places = array("q")
    return TextDataset(pieces(), rows, places)


def pair_dataset(
    rows: list[dict[str, Any]], data: PairData, tokenizer: Any, max_source: int, max_target: int
) -> PairDataset:
    """Tokenize pairs into the layout of the tokenizer's mBART family, truncated to the two lengths."""
    layout = Layout.of(tokenizer)
    sources, targets = (list(_tokenize_column(tokenizer, rows, column)) for column in data.texts)
    source_codes, target_codes = (tokenizer.convert_tokens_to_ids(codes) for codes in pair_codes(rows, data, tokenizer))
    items = []
    for row, source, target, code, target_code in zip(rows, sources, targets, source_codes, target_codes, strict=True):
        items.append({
            "id": row["id"],
            "language": target_code,
            "input_ids": layout.wrap(source[: max_source - SPECIAL_TOKENS], code),
            "labels": layout.wrap(target[: max_target - SPECIAL_TOKENS], target_code),
        })  # fmt: skip
    return PairDataset(items)


def pair_codes(rows: Sequence[dict[str, Any]], data: PairData, tokenizer: Any) -> tuple[list[str], list[str]]:
    """Return the tokenizer's language codes of each row's input and output; the output's is the input's unless given.

    Raises:
        DataError: a language that the tokenizer does not have.
    """
    sources = row_codes(rows, data.source_lang, data.source_lang_column, tokenizer)
    if data.target_lang is None and data.target_lang_column is None:
        return sources, sources
    return sources, row_codes(rows, data.target_lang or data.source_lang, data.target_lang_column, tokenizer)


def row_codes(rows: Iterable[dict[str, Any]], lang: str | None, column: str | None, tokenizer: Any) -> list[str]:
    """Return the tokenizer's code of each row's language: the one in `column` if there is one, else `lang`.

    Raises:
        RecipeError: neither is given.
        DataError: a language that the tokenizer does not have.
    """
    codes: dict[str | None, str] = {}
    found = []
    for row in rows:
        name = row[column] if column else lang
        if name not in codes:
            codes[name] = to_code(name, tokenizer)
        found.append(codes[name])
    return found


def _language(name: str) -> tuple[str, ...]:
    """What a name of a language says, the region aside; a name that is none stands for itself."""
    meaning = meaning_of(name)
    return (meaning.language, meaning.script) if meaning else (name,)


def numbered_languages(
    rows: Iterable[dict[str, Any]], columns: Sequence[str], data: TextDataset | PairDataset
) -> np.ndarray:
    """Return a number for the language, or the pair of languages, of each item: (N,) int64.

    Rows are of one language where what is written in `columns` means the same (`uk`, `uk_UA`).
    """
    numbers: dict[tuple[Any, ...], int] = {}
    names = (tuple(_language(row[column]) for column in columns) for row in rows)
    of_rows = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), dtype=np.int64)
    return of_rows[np.asarray(data.places, dtype=np.int64)]


class Column(Collection):
    """One column of rows, or a value for each of them where the column is None; read anew at every pass."""

    def __init__(self, rows: Rows, column: str | None, value: str | None = None) -> None:
        self.rows, self.column, self.value = rows, column, value

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        return (row[self.column] for row in self.rows) if self.column else repeat(self.value, len(self.rows))

    def __contains__(self, value: object) -> bool:
        return any(one == value for one in self)


def texts_of(data: TextData, seed: int | None = None) -> tuple[Column, Column]:
    """Return texts, all of them or with a seed the training rows, and the language of each as the user wrote it."""
    rows = Rows(data.train_file, data.columns, data.texts) if seed is None else read_text(data, seed)[0]
    return Column(rows, data.text_column), Column(rows, data.lang_column, data.lang)


def read_text(data: TextData, seed: int) -> tuple[Rows, Rows]:
    """Open training and validation rows of monolingual text; they are read when they are gone through."""
    return _split(Rows(data.train_file, data.columns, data.texts), data, seed)


def read_pairs(data: PairData, seed: int) -> tuple[RowList, RowList]:
    """Read training and validation pairs.

    Raises:
        RecipeError: no file of training pairs is named.
    """
    if data.train_file is None:
        raise RecipeError("pairs.train_file: is missing, and training needs it.")
    train, validation = _split(Rows(data.train_file, data.columns, data.texts), data, seed)
    return RowList(list(train)[: data.max_train_samples], train.name), RowList(list(validation), validation.name)


def _split(rows: Rows, data: TextData | PairData, seed: int) -> tuple[Rows, Rows]:
    if data.validation_file:
        return rows, Rows(data.validation_file, data.columns, data.texts)
    held_out = max(1, round(len(rows) * data.validation_split))
    if held_out >= len(rows):
        raise DataError(
            f"{rows.name}: {len(rows)} row(s) are too few to hold some out. Give a validation_file, or more rows."
        )
    validation = np.zeros(len(rows), dtype=bool)
    validation[random.Random(seed).sample(range(len(rows)), len(rows))[:held_out]] = True
    return rows.subset(~validation), rows.subset(validation)

"""Token datasets: documents tokenized once, kept as flat arrays, cut to the model's length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from polygraft.data.languages import to_code
from polygraft.data.layout import Layout
from polygraft.data.reading import read_rows
from polygraft.errors import DataError
from polygraft.recipe import PairData, TextData

TOKENIZER_BATCH = 1000


class TextDataset(Dataset):
    """Pieces of documents without special tokens: item i is {"input_ids": int32 [T], "language": id or -1}."""

    def __init__(self, documents: Sequence[np.ndarray], languages: Sequence[int]) -> None:
        self.tokens = np.concatenate(documents) if documents else np.zeros(0, np.int32)
        self.ends = np.cumsum([len(document) for document in documents])
        self.languages = list(languages)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = self.ends[index - 1] if index > 0 else 0
        return {"input_ids": self.tokens[start : self.ends[index]], "language": self.languages[index]}


class PairDataset(Dataset):
    """Labelled pairs with their special tokens: {"input_ids": list, "labels": list, "id": str, "language": code}."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize without special tokens."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), TOKENIZER_BATCH):
        batch = list(texts[start : start + TOKENIZER_BATCH])
        # verbose=False: longer than the model is fine here, since documents are cut below.
        ids += tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def text_dataset(
    rows: list[dict[str, Any]], data: TextData, tokenizer: Any, max_length: int, coded: bool
) -> TextDataset:
    """Tokenize rows and cut them into pieces of at most `max_length` minus two special tokens.

    `coded` says that the model has language codes (mBART); otherwise the language is -1.
    """
    room = max_length - 2
    codes = [-1] * len(rows)
    if coded:
        codes = tokenizer.convert_tokens_to_ids(row_codes(rows, data.lang, data.lang_column, tokenizer))
    documents, languages = [], []
    for ids, code in zip(tokenize(tokenizer, [row[data.text_column] for row in rows]), codes, strict=True):
        for start in range(0, len(ids), room):
            documents.append(np.asarray(ids[start : start + room], dtype=np.int32))
            languages.append(code)
    return TextDataset(documents, languages)


def pair_dataset(
    rows: list[dict[str, Any]], data: PairData, tokenizer: Any, max_source: int, max_target: int
) -> PairDataset:
    """Tokenize pairs into the layout of the tokenizer's mBART family, truncated to the two lengths."""
    layout = Layout.of(tokenizer)
    sources = tokenize(tokenizer, [row[data.text_column] for row in rows])
    targets = tokenize(tokenizer, [row[data.summary_column] for row in rows])
    source_codes, target_codes = (tokenizer.convert_tokens_to_ids(codes) for codes in pair_codes(rows, data, tokenizer))
    items = []
    for row, source, target, code, target_code in zip(rows, sources, targets, source_codes, target_codes, strict=True):
        items.append({
            "id": row["id"],
            "language": target_code,
            "input_ids": layout.wrap(source[: max_source - 2], code),
            "labels": layout.wrap(target[: max_target - 2], target_code),
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


def row_codes(rows: Sequence[dict[str, Any]], lang: str, column: str | None, tokenizer: Any) -> list[str]:
    """Return the tokenizer's code of each row's language: the one in `column` if there is one, else `lang`."""
    names = [row[column] if column else lang for row in rows]
    codes = {name: to_code(name, tokenizer) for name in set(names)}
    return [codes[name] for name in names]


def texts_of(data: TextData) -> tuple[list[str], list[str]]:
    """Return the training texts, and the language of each as the user wrote it."""
    rows = read_rows(data.train_file, data.columns)
    return [row[data.text_column] for row in rows], [
        row[data.lang_column] if data.lang_column else data.lang for row in rows
    ]


def read_text(data: TextData, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read training and validation rows of monolingual text."""
    return _read_split(data, seed)


def read_pairs(data: PairData, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read training and validation pairs."""
    train, validation = _read_split(data, seed)
    return train[: data.max_train_samples], validation


def _read_split(data: TextData | PairData, seed: int) -> tuple[list, list]:
    rows = read_rows(data.train_file, data.columns)
    if data.validation_file:
        return rows, read_rows(data.validation_file, data.columns)
    held_out = max(1, round(len(rows) * data.validation_split))
    if held_out >= len(rows):
        raise DataError(
            f"{data.train_file}: {len(rows)} row(s) are too few to hold some out. Give a validation_file, or more rows."
        )
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    return [rows[i] for i in sorted(order[held_out:])], [rows[i] for i in sorted(order[:held_out])]

"""Trim a checkpoint's vocabulary to a text, and restore it: what `trim_vocabulary` does inside a stage, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polygraft.data.notices import count_unwritable
from polygraft.data.reading import Rows
from polygraft.models import checkpoints
from polygraft.models.recorded import languages_of, record
from polygraft.models.trimming import restore, sizes, trim
from polygraft.settings import Trim


def run(settings: Trim, model: str, out_dir: Path) -> dict[str, Any]:
    """Save `model`, either kind, with only the rows that the settings' texts need, into `out_dir`.

    Models with the same pieces (XLM-R and mBART) keep the same ones for the same text.

    Returns:
        {"before", "after"}: see `trimming.sizes`.
    """
    network, tokenizer = checkpoints.load_any(model), checkpoints.load_tokenizer(model)
    rows = Rows(settings.train_file, settings.text_column, settings.text_column)
    before = sizes(network)
    trimmed = trim(network, tokenizer, (row[column] for row in rows for column in settings.text_column))
    for column in settings.text_column:
        count_unwritable(tokenizer, (row[column] for row in rows), rows.name, column)
    checkpoints.save(network, trimmed, out_dir)
    return {"before": before, "after": sizes(network)}


def run_restore(model: str, full: str, out_dir: Path) -> dict[str, Any]:
    """Write what the trimmed `model` has learned into the checkpoint `full` that it was trimmed from; save the result.

    Returns:
        {"before", "after"}: see `trimming.sizes`.
    """
    trimmed = checkpoints.load_any(model)
    tokenizer, full_tokenizer = checkpoints.load_tokenizer(model), checkpoints.load_tokenizer(full)
    restored = restore(trimmed, tokenizer, checkpoints.load_any(full), full_tokenizer)
    learned = languages_of(trimmed.config, trimmed.generation_config, tokenizer)
    if learned.sources:
        record(restored, full_tokenizer, *learned)
    checkpoints.save(restored, full_tokenizer, out_dir, learned.targets or None)
    return {"before": sizes(trimmed), "after": sizes(restored)}

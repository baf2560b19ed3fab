"""Stage 4, where asked for: what an arm has made of languages that the target knew, by restoring held-out text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polygraft.data.dataset import SPECIAL_TOKENS, row_codes
from polygraft.data.reading import RowList, read_rows
from polygraft.inference.generate import best_device
from polygraft.measure.losses import mbart_task, restoring_nats
from polygraft.measure.pieces import cut
from polygraft.models import checkpoints
from polygraft.progress import Progress
from polygraft.scoring.forgetting import Restored
from polygraft.settings import Forgetting

MAX_TOKENS = 254  # of a piece, special tokens aside


def run(settings: Forgetting, states: Mapping[str, str], out_dir: Path) -> dict[str, Any]:
    """Have a target at several points of an arm restore the same noisy text; write losses.npz into `out_dir`.

    The noise is mBART's own, whatever the target was trained with, and the same for all; the language token is left
    out, as in `evaluate`.

    Args:
        states: checkpoints by the names of scoring/forgetting.py's STATES; one that is named twice is measured once.

    Returns:
        {"documents", state: {language: nats per token}}.

    Raises:
        DataError: text or languages that are not as the recipe says.
    """
    first, *_ = states.values()
    tokenizer: Any = checkpoints.load_tokenizer(first)
    rows = first_of_each(settings, tokenizer)
    codes = row_codes(rows, settings.lang, settings.lang_column, tokenizer)
    positions = [checkpoints.positions_of(checkpoints.load_config(name)) for name in states.values()]
    pieces = cut(tokenizer, [row[settings.text_column] for row in rows], min(MAX_TOKENS, *positions) - SPECIAL_TOKENS)
    tokens_D = np.zeros(len(rows))
    for piece in pieces:
        tokens_D[piece.document] += len(piece) + 1  # </s>
    languages, task = tokenizer.convert_tokens_to_ids(codes), mbart_task(tokenizer)
    measured: dict[str, np.ndarray] = {}
    with Progress("forgetting") as bar:
        for place, name in enumerate(dict.fromkeys(states.values())):
            network: Any = checkpoints.load_seq2seq(name).eval()
            measured[name] = restoring_nats(network.to(best_device()), task, pieces, languages)
            bar.update((place + 1) / len(set(states.values())))
    found = Restored(languages=codes, tokens=tokens_D, nats={state: measured[name] for state, name in states.items()})
    found.save(out_dir)
    return {"documents": len(rows), **{state: found.per_token(state) for state in states}}


def first_of_each(settings: Forgetting, tokenizer: Any) -> RowList:
    """The first `max_samples` documents of each language."""
    rows = read_rows(settings.test_file, settings.columns, settings.texts)
    read: Counter[str] = Counter()
    kept = []
    for row, code in zip(rows, row_codes(rows, settings.lang, settings.lang_column, tokenizer), strict=True):
        read[code] += 1
        if read[code] <= settings.max_samples:
            kept.append(row)
    return RowList(kept, rows.name)

"""Write a fine-tuned mBART for CTranslate2, and compare what that makes of validation rows with the original.

Three things are told to CTranslate2's converter that configurations written by transformers 5 do not say: that layers
are normalised before (`normalize_before`), which family the tokenizer is of, and a `bos_token`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from polygraft.data.dataset import pair_codes, pair_dataset
from polygraft.data.files import RESULT_FORMAT, appearing
from polygraft.data.layout import Layout
from polygraft.data.reading import RowList, read_rows
from polygraft.errors import CheckpointError, RecipeError
from polygraft.inference.engine import EXPORT_FILE, Checkpoint, Engine, Exported, hashes, import_ctranslate2
from polygraft.inference.generate import cuts_unsaid
from polygraft.models import bottleneck
from polygraft.models.checkpoints import load_seq2seq, load_tokenizer, local_folder
from polygraft.models.graft import is_graft
from polygraft.models.recorded import completed
from polygraft.models.tokenizers import MBART_CLASSES
from polygraft.objectives.seq2seq import make_batch, token_losses
from polygraft.progress import Progress
from polygraft.settings import Export, PairData

ALONE = 20  # rows that are decoded one by one, for the latency


def run(settings: Export, model: str, pairs: PairData, out_dir: Path) -> dict[str, Any]:
    """Write `model` for CTranslate2 into `out_dir`, with its tokenizer; returns how it compares with the original.

    Raises:
        RecipeError: CTranslate2 is not installed, or no validation rows are named.
        CheckpointError: a model that CTranslate2 cannot hold.
        DataError: validation rows that cannot be used.
    """
    import_ctranslate2()
    if pairs.validation_file is None:
        raise RecipeError("polygraft export: --validation-file: is missing: the rows on which both models are compared")
    original = Checkpoint(model)
    _assert_can_be_held(original)
    rows = read_rows(pairs.validation_file, pairs.columns, pairs.texts)
    rows = RowList(rows[: settings.max_samples], rows.name)
    pairs = completed(pairs, model, original.tokenizer, original.languages)
    with appearing(out_dir) as hidden:
        _convert(original, settings.quantization, hidden)
        record = {
            "format": RESULT_FORMAT, "engine": settings.format, "quantization": settings.quantization,
            "vocabulary": original.network.config.vocab_size, "languages": original.languages._asdict(),
            "max_positions": min(original.tokenizer.model_max_length, original.network.config.max_position_embeddings),
            "sha256": hashes(hidden),
        }  # fmt: skip
        (hidden / EXPORT_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        found = compare(original, Exported(str(hidden)), rows, pairs, settings)
        (hidden / EXPORT_FILE).write_text(json.dumps(record | {"parity": found}, indent=1) + "\n", encoding="utf-8")
    return found


def _assert_can_be_held(original: Checkpoint) -> None:
    network = original.network
    if is_graft(network):
        raise CheckpointError(
            f"{original.name}: is a graft (transfer method `encoder`), whose encoder is XLM-R's: CTranslate2 has no "
            "such pair. Use it with `polygraft generate`."
        )
    if bottleneck.adapters(network):
        raise CheckpointError(
            f"{original.name}: has bottleneck adapters, which cannot be merged, and CTranslate2 has no layer of their "
            "kind. Use it with `polygraft generate`, or fine-tune with `adapter: {type: lora}` instead."
        )
    pieces, rows = len(original.tokenizer), network.config.vocab_size
    if pieces != rows:
        raise CheckpointError(
            f"{original.name}: its tokenizer has {pieces} tokens, its model {rows} rows, which CTranslate2 cannot tell "
            "apart. `polygraft trim` makes them equal."
        )


def _convert(original: Checkpoint, quantization: str, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        """Takes a model and a tokenizer as polygraft loads them."""

        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            network: Any = load_seq2seq(original.name)
            network.config.normalize_before = True
            network.config.tokenizer_class = next(
                name for name, kind in MBART_CLASSES.items() if isinstance(original.tokenizer, kind)
            )
            return network

        def load_tokenizer(self, *args: Any, **kwargs: Any) -> Any:
            tokenizer = load_tokenizer(original.name)
            tokenizer.bos_token = tokenizer.bos_token or "<s>"
            return tokenizer

    Converter(local_folder(original.name)).convert(str(folder), quantization=quantization, force=True)
    original.tokenizer.save_pretrained(folder)


# ---------------------------------------------------------------- the comparison


class Timed(NamedTuple):
    """What was decoded, and how long that took: all rows together, and the median of rows alone."""

    outputs: list[str]
    seconds: float
    alone: float


def compare(
    original: Checkpoint, exported: Exported, rows: RowList, pairs: PairData, settings: Export
) -> dict[str, Any]:
    """Return how outputs, log-probabilities, sizes and times of two engines compare on rows.

    `chrf` is that of each against the references, `chrf_between` of the exported's outputs against the original's;
    `log_probability_error` how far those of the references' tokens differ, in nats; `latency_seconds` the median of a
    text alone.
    """
    texts, references = [row[pairs.text_column] for row in rows], [row[pairs.summary_column] for row in rows]
    codes = pair_codes(rows, pairs, original.tokenizer)
    with Progress("export: comparing") as bar:
        first = _timed(original, texts, codes, settings, lambda share: bar.update(share / 2))
        second = _timed(exported, texts, codes, settings, lambda share: bar.update((1 + share) / 2))
    same = sum(a == b for a, b in zip(first.outputs, second.outputs, strict=True))
    difference = _log_probability_error(original, exported, rows, pairs, settings)
    sides = {"original": first, "exported": second}
    return {
        "documents": len(rows), "identical_outputs": same,
        "chrf": {name: _chrf(side.outputs, references) for name, side in sides.items()},
        "chrf_between": _chrf(second.outputs, first.outputs), "log_probability_error": difference,
        "bytes": {"original": _weights(Path(local_folder(original.name))), "exported": _weights(Path(exported.name))},
        "documents_per_second": {name: len(rows) / side.seconds for name, side in sides.items()},
        "latency_seconds": {name: side.alone for name, side in sides.items()},
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _timed(
    engine: Engine,
    texts: list[str],
    codes: tuple[list[str], list[str]],
    settings: Export,
    show: Callable[[float], None],
) -> Timed:
    engine.decode(texts[:1], codes[0][:1], codes[1][:1], settings)  # what is loaded and laid out at first
    started = time.perf_counter()
    outputs = engine.decode(texts, *codes, settings, lambda done, total: show(done / total))
    seconds = time.perf_counter() - started
    alone = []
    with cuts_unsaid():
        for i in range(min(ALONE, len(texts))):
            started = time.perf_counter()
            engine.decode([texts[i]], [codes[0][i]], [codes[1][i]], settings)
            alone.append(time.perf_counter() - started)
    return Timed([one[0] for one in outputs], seconds, statistics.median(alone))


def _log_probability_error(
    original: Checkpoint, exported: Exported, rows: RowList, pairs: PairData, settings: Export
) -> dict[str, float]:
    """How far two engines' log-probabilities of the references' tokens differ in nats: on average, and at most."""
    tokenizer, limit = original.tokenizer, exported.record.max_positions
    items = pair_dataset(rows, pairs, tokenizer, min(settings.max_source_length_tokens, limit), limit - 1).items
    layout, errors = Layout.of(tokenizer), []
    for item in items:
        batch = make_batch(layout, [item["input_ids"]], [item["labels"]])
        on_device = {name: tensor.to(original.network.device) for name, tensor in batch.items()}
        losses_T = token_losses(original.network, on_device)[0].cpu().numpy()
        source, target = (tokenizer.convert_ids_to_tokens(item[side]) for side in ("input_ids", "labels"))
        # CTranslate2 adds </s> itself; of mBART-50 it scores the language's code, too, which is given and left out here
        given = target[:-1] if layout.language_first else [target[-1], *target[:-2]]
        (scored,) = exported.translator.score_batch([source], [given])
        first = int(layout.language_first)
        found_T = np.array(scored.log_probs)[first:]
        errors.append(np.abs(found_T + losses_T[first : first + len(found_T)]))
    all_errors = np.concatenate(errors)
    return {"mean": float(all_errors.mean()), "max": float(all_errors.max())}


def _chrf(outputs: Sequence[str], references: Sequence[str]) -> float:
    from sacrebleu.metrics import CHRF

    return float(CHRF(word_order=2).corpus_score(list(outputs), [list(references)]).score)


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))

"""Stage 4: decode the test pairs, score them per language, and measure the loss of the references.

The lead baseline (the first tokens of the input; of translations all of it) stands beside the model in every table: a
model that does not beat it has not shown anything yet. Translations are scored per direction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polygraft.data.batching import longest_first
from polygraft.data.dataset import pair_codes, pair_dataset, tokenize
from polygraft.data.files import RESULT_FORMAT, write_atomically
from polygraft.data.layout import IGNORED, Layout
from polygraft.data.reading import RowList, read_rows
from polygraft.errors import CheckpointError, RecipeError
from polygraft.inference.generate import OnProgress, best_device, decode, longest_source, max_length_tokens
from polygraft.models.checkpoints import load_seq2seq, load_tokenizer
from polygraft.models.graft import assert_reads
from polygraft.models.recorded import completed
from polygraft.objectives.seq2seq import make_batch, token_losses
from polygraft.progress import Progress
from polygraft.scoring.bootstrap import Bootstrap
from polygraft.scoring.metrics import METRICS, SYSTEMS, metrics_of
from polygraft.scoring.predictions import FILE, Prediction
from polygraft.settings import Evaluate, PairData

ALL = "all"


def run(settings: Evaluate, model: str, pairs: PairData, out_dir: Path) -> dict[str, Any]:
    """Score `model` on `pairs.test_file`; write predictions.jsonl and scores.json into `out_dir`, return the scores.

    Languages that `pairs` leaves out are those that the checkpoint records.

    Raises RecipeError without a test file or a language, DataError for a file or language that is not as the recipe
    says, CheckpointError for a model that cannot be loaded or whose loss is not a number.
    """
    if pairs.test_file is None:
        raise RecipeError("pairs.test_file: missing, but `evaluate` scores it. Name a file of held-out pairs.")
    rows = read_rows(pairs.test_file, pairs.columns, pairs.texts)
    rows = RowList(rows[: settings.max_samples], rows.name)
    tokenizer = load_tokenizer(model)
    pairs = completed(pairs, model, tokenizer)
    source_codes, target_codes = pair_codes(rows, pairs, tokenizer)
    network: Any = load_seq2seq(model)
    network.to(best_device()).eval()
    texts = [row[pairs.text_column] for row in rows]

    with Progress("evaluate: loss of references") as bar:
        losses, counts = reference_losses(network, tokenizer, rows, pairs, settings, _shown_on(bar))
    if bad := [row["id"] for row, loss in zip(rows, losses, strict=True) if not math.isfinite(loss)]:
        raise CheckpointError(
            f"{model}: the loss of {len(bad)} of {len(rows)} references is not a number (first: document {bad[0]}), "
            "so training diverged. Lower finetune.learning_rate and run again."
        )
    with Progress("evaluate: decoding") as bar:
        outputs = decode(network, tokenizer, texts, source_codes, target_codes, settings, _shown_on(bar))

    leads = lead_baseline(tokenizer, texts, settings.lead_tokens)
    predictions = [
        Prediction(
            id=row["id"], lang=code, source=text, reference=row[pairs.summary_column], prediction=output, lead=lead,
            loss_nats=loss, reference_tokens=count, source_lang=source_code,
        )
        for row, source_code, code, text, output, lead, loss, count in zip(
            rows, source_codes, target_codes, texts, outputs, leads, losses, counts, strict=True
        )
    ]  # fmt: skip
    scores = score_predictions(predictions)
    out_dir.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(prediction), ensure_ascii=False) for prediction in predictions)
    write_atomically(out_dir / FILE, "".join(line + "\n" for line in lines))
    write_atomically(out_dir / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    return scores


def _shown_on(bar: Progress) -> OnProgress:
    return lambda done, total: bar.update(done / total)


@torch.inference_mode()
def reference_losses(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    pairs: PairData,
    settings: Evaluate,
    progress: OnProgress | None = None,
) -> tuple[list[float], list[int]]:
    """Teacher-forced -log p of each reference in nats, summed over its tokens and </s>, and the number of these.

    The language token is left out of both: the task gives it (generation is forced to it), every fine-tuned model
    predicts it with certainty, and a free token would dilute differences by one part in the reference's length.
    """
    most = longest_source(model, tokenizer, settings), max_length_tokens(model, tokenizer)
    items = pair_dataset(rows, pairs, tokenizer, *most).items
    assert_reads(model, (len(item["input_ids"]) for item in items))
    layout = Layout.of(tokenizer)
    losses, counts = [0.0] * len(items), [len(item["labels"]) - 1 for item in items]
    lengths = [(len(item["labels"]), len(item["input_ids"])) for item in items]
    done = 0
    for indices in longest_first(lengths, lambda batch: len(batch) <= settings.per_device_eval_batch_size):
        batch = make_batch(layout, [items[i]["input_ids"] for i in indices], [items[i]["labels"] for i in indices])
        losses_BT = token_losses(model, {name: tensor.to(model.device) for name, tensor in batch.items()})
        if layout.language_first:
            losses_BT[:, 0] = 0.0
        else:
            last_B = (batch["labels"] != IGNORED).sum(dim=1) - 1
            losses_BT[torch.arange(len(indices)), last_B.to(losses_BT.device)] = 0.0
        for i, loss in zip(indices, losses_BT.double().sum(dim=1).tolist(), strict=True):
            losses[i] = loss
        done += len(indices)
        if progress:
            progress(done, len(items))
    return losses, counts


def lead_baseline(tokenizer: Any, texts: Sequence[str], lead_tokens: int) -> list[str]:
    """The first `lead_tokens` tokens of each text, as text; all of it where that is 0."""
    if lead_tokens == 0:
        return list(texts)
    starts = [ids[:lead_tokens] for ids in tokenize(tokenizer, texts)]
    return tokenizer.batch_decode(starts, skip_special_tokens=True)


def score_predictions(rows: Sequence[Prediction]) -> dict[str, Any]:
    """What scores.json holds: per system, per language and for "all", every score of METRICS that it has.

    Translations have scores per direction, under names as de_DE-fr_XX.
    """
    codes = np.array([row.direction for row in rows])
    languages = {code: codes == code for code in sorted(set(codes.tolist()))} | {ALL: np.ones(len(rows), dtype=bool)}
    systems: dict[str, dict[str, dict[str, Any]]] = {}
    for system in SYSTEMS:
        systems[system] = {language: {} for language in languages}
        outputs = [row.of(system) for row in rows]
        for name, metric in metrics_of(system).items():
            statistics_DK = metric.statistics(outputs)
            for language, chosen_D in languages.items():
                systems[system][language][name] = asdict(metric.score(statistics_DK[chosen_D]))
    signature = {name: metric.signature(Bootstrap(), {row.lang for row in rows}) for name, metric in METRICS.items()}
    return {"format": RESULT_FORMAT, "documents": len(rows), "signature": signature, "systems": systems}

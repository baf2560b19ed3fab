"""Stage 2: move what the adapted source knows into the target, by one of the methods of `transfers/methods.py`."""

from __future__ import annotations

import json
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from polygraft import processes
from polygraft.data.dataset import texts_of
from polygraft.data.files import write_atomically
from polygraft.data.notices import count_unwritable
from polygraft.data.reading import label
from polygraft.errors import TransferError
from polygraft.models import checkpoints
from polygraft.models.bottleneck import FOLDER
from polygraft.models.checkpoints import tied_names
from polygraft.models.graft import is_graft
from polygraft.models.matrices import embedding_matrix
from polygraft.models.vocabulary import (
    SAMPLE_TEXTS,
    alike_share,
    check_vocabularies,
    map_vocabularies,
    token_counts,
    tokens_by_id,
)
from polygraft.settings import Running, TextData
from polygraft.transfers.contract import Inputs, Work
from polygraft.transfers.methods import Method
from polygraft.transfers.plan import check_plan

PROBE_TEXTS, PROBE_CHARACTERS = 200, 300

logger = logging.getLogger(__name__)


def run(
    settings: Method,
    source_before: str | None,
    source_after: str | None,
    target: str,
    text: TextData | None,
    out_dir: Path,
    *,
    dry_run: bool = False,
    seed: int = 0,
    running: Running = Running(),
) -> dict[str, Any]:
    """Transfer from a source checkpoint into a target, and save it with plan.json and diagnostics.json into `out_dir`.

    Args:
        source_before, source_after: the masked language model as downloaded, and as adapted; a mode that does not need
            one does not load it.
        text: what the source was adapted on; its token counts weigh the rows.
        dry_run: only plan, and write nothing.
        seed: of what a method draws at random.
        running: with the seed by which rows of the text are held out from everything, where that is another.

    Returns:
        {"method", "mode" of embeddings, "rows": {token class: count}, "flops" where any were counted, "diagnostics":
        {name: number}, "plan": "plan.json"}, of a method that trains also what `training.train` returns; of a dry run
        {"method", "mode", "rows", "plan": as plan.json has it}.

    Raises:
        TransferError: an input that the method needs is missing, the vocabularies do not match, the plan is incomplete.
    """
    work: Work = settings.load()
    inputs, warnings = load_inputs(settings, source_before, source_after, target, text, seed, running, out_dir)
    plan = work.plan(inputs)
    plan.warnings.extend(warnings)
    check_plan(plan, plan.tensors)
    for warning in plan.warnings:
        logger.warning("transfer: %s", warning)
    result: dict[str, Any] = {
        "method": settings.method,
        "mode": getattr(settings, "mode", None),
        "rows": plan.row_counts(),
    }
    if dry_run:
        return result | {"plan": plan.to_json()}
    fitted = work.fit(plan, inputs)
    changes = work.apply(plan, fitted, inputs)
    diagnostics = work.diagnose(plan, fitted, inputs, changes)
    if (ties := tied_names(changes.model)) != plan.tied:
        raise TransferError(f"the target ties {ties} after the transfer, planned were {plan.tied}.")
    checkpoints.save(changes.model, inputs.target_tokenizer, out_dir)
    if processes.is_main():
        write_atomically(out_dir / "diagnostics.json", json.dumps(diagnostics, indent=1) + "\n")
        write_atomically(out_dir / "plan.json", json.dumps(plan.to_json(), ensure_ascii=False) + "\n")
    spent = {"flops": fitted.flops} if hasattr(fitted, "flops") else {}
    return result | spent | changes.trained | {"diagnostics": diagnostics, "plan": "plan.json"}


def load_inputs(
    settings: Method,
    source_before: str | None,
    source_after: str | None,
    target: str,
    text: TextData | None,
    seed: int,
    running: Running = Running(),
    out_dir: Path = Path(),
) -> tuple[Inputs, list[str]]:
    """Load what the method needs; returns the inputs, and warnings."""
    given = {"source_before": source_before, "source_after": source_after, "text": text}
    wanted = [name for name in given if getattr(settings.needs, name)]
    if missing := [name for name in wanted if given[name] is None]:
        raise TransferError(
            f"{settings.title} needs {' and '.join(missing)}, which is not given: add it, or use mode: recentre."
        )
    texts, languages = texts_of(text, running.seed_of_data(seed)) if text else ((), ())
    names = {name: given[name] for name in wanted if name != "text"}
    sources = {name: checkpoints.load_masked_lm(str(path)) for name, path in names.items()}
    shapes = {name: tuple(embedding_matrix(model).shape) for name, model in sources.items()}
    if len(set(shapes.values())) > 1:
        raise TransferError(f"source_before and source_after are not one model: their embeddings are {shapes}.")
    model, tokenizer = checkpoints.load_seq2seq(target), checkpoints.load_tokenizer(target)
    if is_graft(model):
        raise TransferError(f"{target}: is the result of method encoder already. Transfer into an mBART.")
    rows = len(embedding_matrix(model))
    source_tokenizer = None
    if not sources:
        vocabulary, warnings = map_vocabularies(tokenizer, rows), []
    else:
        source_tokenizer = checkpoints.load_tokenizer(str(next(iter(names.values()))))
        vocabulary = map_vocabularies(tokenizer, rows, source_tokenizer, next(iter(shapes.values()))[0])
        # stripped: the two classes differ in what they make of a blank at the end, which says nothing on the pieces
        probe = [*(one[:PROBE_CHARACTERS].strip() for one in islice(texts, PROBE_TEXTS)), *SAMPLE_TEXTS]
        alike = alike_share(source_tokenizer, tokenizer, probe)
        warnings = check_vocabularies(vocabulary, alike)
    if text:
        for one in filter(None, (source_tokenizer, tokenizer)):
            count_unwritable(one, texts, label(text.train_file), text.text_column)
    counts = token_counts(tokenizer, texts, rows) if texts else np.zeros(rows, dtype=np.int64)
    tokens = tokens_by_id(tokenizer, rows, "target")
    adapter = Path(checkpoints.resolve(str(source_after))) / FOLDER if "source_after" in sources else None
    inputs = Inputs(
        settings=settings, target=model, vocabulary=vocabulary, tokens=tokens, counts=counts, **sources, texts=texts,
        languages=languages, source_tokenizer=source_tokenizer, target_tokenizer=tokenizer, seed=seed, running=running,
        adapter=adapter if adapter and adapter.is_dir() else None, out_dir=out_dir,
    )  # fmt: skip
    return inputs, warnings

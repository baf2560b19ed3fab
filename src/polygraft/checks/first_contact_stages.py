"""First contact: one step of every stage on a few sentences, with its time and the memory at its peak."""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polygraft import machine
from polygraft.checks.first_contact import Findings
from polygraft.checks.first_contact_vocabulary import SENTENCES
from polygraft.objectives import MLM, Denoising
from polygraft.recipe import Recipe
from polygraft.settings import Budget, Evaluate, Finetune, PairData, TextData
from polygraft.transfers.methods import EmbeddingsTransfer

KNOWS = 0.8  # a pretrained model's loss is well below that of guessing, ln V; published ones are at a third of it
LANGUAGE = "en"  # every mBART has it


def look_at_stages(findings: Findings, recipe: Recipe, folder: Path, say: Callable[[], None]) -> None:
    """Adapt, transfer, adapt_target, finetune, evaluate, generate; what a stage no longer needs is deleted."""
    from polygraft.inference.engine import generate_texts
    from polygraft.stages import adapt, evaluate, finetune, transfer

    file = folder / "sentences.jsonl"
    rows = [{"text": text, "summary": text.split()[0] or text, "lang": LANGUAGE} for _, text, _ in SENTENCES]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    text = TextData(train_file=str(file), lang=LANGUAGE)
    pairs = PairData(train_file=str(file), source_lang=LANGUAGE, target_lang=LANGUAGE)
    tested = pairs.model_copy(update={"test_file": str(file), "source_lang": None, "target_lang": None})
    one: dict[str, Any] = {"budget": Budget(steps=1), "per_device_train_batch_size": 4}
    decoding = Evaluate(num_beams=2, max_new_tokens=16)
    source, model = recipe.source, recipe.target

    def stage(name: str, work: Callable[[str], Any]) -> str | None:
        """Run a stage into its folder; return that, None where it failed."""
        out, started = folder / name, time.monotonic()
        with findings.guarded(name):
            result = work(str(out))
            _report(findings, name, result, time.monotonic() - started)
            gc.collect()
        say()
        return str(out) if (out / "config.json").is_file() else None

    if source:
        mlm = MLM(**one, max_length_tokens=64)
        adapted = stage("adapt", lambda out: adapt.run(mlm, source, text, 1, Path(out)))
        repair = EmbeddingsTransfer(mode="repair")
        moved = stage(
            "transfer", lambda out: transfer.run(repair, source, adapted or source, model, text, Path(out), seed=1)
        )
        model = moved or model
        shutil.rmtree(folder / "adapt", ignore_errors=True)
    denoising = Denoising(**one, max_length_tokens=64)
    model = stage("adapt_target", lambda out: adapt.run(denoising, model, text, 1, Path(out))) or model
    shutil.rmtree(folder / "transfer", ignore_errors=True)
    tune = Finetune(**one, max_source_length_tokens=64, max_target_length_tokens=32)
    tuned = stage("finetune", lambda out: finetune.run(tune, model, pairs, 1, Path(out)))
    shutil.rmtree(folder / "adapt_target", ignore_errors=True)
    if tuned is None:
        findings.add("evaluate", "there is no fine-tuned model", failed=True)
        return
    stage("evaluate", lambda out: evaluate.run(decoding, tuned, tested, Path(out)))
    stage("generate", lambda _: generate_texts(tuned, [rows[0]["text"]], None, None, decoding)[0])


def _report(findings: Findings, name: str, result: Any, seconds: float) -> None:
    spent = f"{seconds:.1f} s, memory so far {machine.peak_memory_bytes() / 1e9:.1f} GB"
    if isinstance(result, list):
        findings.add(name, f"{spent}, {sum(len(text.split()) for text in result)} words written")
        return
    loss, classes = _loss_of(result)
    if loss is None:
        findings.add(name, spent)
        return
    guess = math.log(classes) if classes else math.inf
    words = f"{spent}, loss {loss:.3f} nats per token" + (f" (guessing: {guess:.1f})" if classes else "")
    findings.add(name, words, surprising=loss > KNOWS * guess, failed=not math.isfinite(loss))


def _loss_of(result: dict[str, Any]) -> tuple[float | None, int | None]:
    """A stage's loss before its step, or an evaluation's, and over how many classes."""
    if "systems" in result:
        return result["systems"]["model"]["all"]["loss_per_token"]["score"], None
    first = result.get("eval_loss_first", result.get("eval_loss"))
    return first, result.get("classes")

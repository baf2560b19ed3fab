"""The stages in order, what each depends on, and what need not be run again.

A stage's fingerprint covers its settings and the contents of all its inputs. A stage folder whose `stage.json` says
"done" under the same fingerprint is never run again; "running" under the same fingerprint is resumed; anything else
is replaced. Arms that share a stage share its result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from polygraft import machine
from polygraft.budget import Cost, cost_of, target_denoising
from polygraft.data.files import write_atomically
from polygraft.data.reading import find_file
from polygraft.errors import PolygraftError
from polygraft.recipe import Recipe
from polygraft.recipe_io import arm_recipes
from polygraft.settings import AddLanguages, PairData, Settings, TextData
from polygraft.transfer_settings import depends_on_seed

STAGE_FILE = "stage.json"
TARGET = "target"  # the state of an arm before anything is done
FORMAT = 3  # raised when a stage's results change with the same settings


def run(recipe: Recipe, *, recipe_text: str) -> dict[str, Any]:
    """Run every arm with every seed, compare them, write the report.

    Returns {"verdict": the content of verdict.json or None, "report": path, "table": one row of mean scores per arm}.
    """
    from polygraft import diagnose, report, verdict

    folder = Path(recipe.output_dir) / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe_text, encoding="utf-8")
    arms = arm_recipes(recipe)
    if recipe.diagnose is not None:
        for judgement in diagnose.run(recipe)["arms"]:
            print(judgement["sentence"], file=sys.stderr, flush=True)
    for seed in recipe.seeds:  # seed by seed: an interrupted study has complete comparisons of the first seeds
        for arm, arm_recipe in arms.items():
            run_arm(arm_recipe, seed, folder / arm / f"seed-{seed}")
    outcome = None
    if recipe.verdict is not None:
        outcome = verdict.run(folder, recipe.verdict, list(arms), recipe.seeds)
    return {"verdict": outcome, "report": str(report.write(folder)), "table": score_table(folder, arms, recipe.seeds)}


def run_arm(recipe: Recipe, seed: int, folder: Path) -> None:
    """Run the stages of one arm in order; absent sections are skipped."""
    from polygraft import evaluate, finetune, report

    *_, model = adapt_arm(recipe, seed, folder).values()
    pairs, tuned, scored = recipe.pairs, folder / "finetune", folder / "evaluate"
    labelled = pairs.model_copy(update={"test_file": None})
    tune = partial(finetune.run, recipe.finetune, model, pairs, seed, tuned)
    run_stage("finetune", tuned, recipe.finetune, [model, labelled], seed, tune)
    score = partial(evaluate.run, recipe.evaluate, str(tuned), pairs, scored)
    run_stage("evaluate", scored, recipe.evaluate, [str(tuned), test_only(pairs)], None, score)
    report.write_model_card(tuned, scored)


def adapt_arm(recipe: Recipe, seed: int, folder: Path) -> dict[str, str]:
    """Run the stages of an arm that come before fine-tuning; returns the target as it was, and after each of them."""
    from polygraft import adapt, add_languages, transfer

    costs: dict[str, Cost] = {}

    def stage(
        name: str,
        settings: Settings,
        inputs: list[str | Settings | None],
        seed: int | None,
        work: Callable[[Path], dict[str, Any]],
    ) -> str:
        out = folder / name
        costs[name] = cost_of(run_stage(name, out, settings, inputs, seed, lambda: work(out)))
        return str(out)

    source, model, text = recipe.source, recipe.target, recipe.text
    if recipe.add_languages:
        new = AddLanguages(relatives=recipe.add_languages)
        model = stage("add_languages", new, [model], None, partial(add_languages.run, new.relatives, model))
    states = {TARGET: model}
    if recipe.adapt and source and text:
        work = partial(adapt.run, recipe.adapt, source, text, seed)
        source = stage("adapt", recipe.adapt, [source, text], seed, work)
    if recipe.transfer:
        # What a transfer does not need it must not depend on, or another source would run it again.
        needed = recipe.transfer.required_inputs
        before, after = (
            recipe.source if "source_before" in needed else None,
            source if "source_after" in needed else None,
        )
        drawn = seed if depends_on_seed(recipe.transfer, text) else None
        inputs = [before, after, model, text, getattr(recipe.transfer, "general", None)]
        work = partial(transfer.run, recipe.transfer, before, after, model, text, seed=seed)
        model = states["transfer"] = stage("transfer", recipe.transfer, inputs, drawn, work)
    if recipe.warm_up and text:
        work = partial(adapt.run, recipe.warm_up, model, text, seed)
        model = states["warm_up"] = stage("warm_up", recipe.warm_up, [model, text], seed, work)
    denoising = target_denoising(recipe, costs, where="/".join(folder.parts[-2:]))
    if denoising and text:
        work = partial(adapt.run, denoising, model, text, seed)
        model = states["adapt_target"] = stage("adapt_target", denoising, [model, text], seed, work)
    return states


def test_only(pairs: PairData) -> PairData:
    """Return the settings of the test pairs alone, so that other training pairs do not change the fingerprint twice."""
    update = {"train_file": pairs.test_file, "validation_file": None, "max_train_samples": None}
    return pairs.model_copy(update=update)


def run_stage(
    stage: str,
    out_dir: Path,
    settings: Settings,
    inputs: Sequence[str | Settings | None],
    seed: int | None,
    function: Callable[[], dict[str, Any]],
    *,
    replace: bool = True,
) -> dict[str, Any]:
    """Run `function` unless `out_dir` holds its result already; return the record in stage.json.

    `inputs` are checkpoints (names or folders) and data sections. With `replace=False` a finished stage with other
    settings, or a folder that is not a stage's, is left alone and a PolygraftError says so.
    """
    described = {name: fingerprint_of(name) for name in _flat(inputs)}
    data = [section.model_dump() for section in inputs if isinstance(section, Settings)]
    content = {
        "format": FORMAT, "stage": stage, "settings": settings.model_dump(), "seed": seed,
        "data": [{key: value for key, value in section.items() if not key.endswith("_file")} for section in data],
        "inputs": [described[name] for name in _flat(inputs)],  # contents count, not names
    }  # fmt: skip
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    found = read_record(out_dir)
    if found and found["fingerprint"] == fingerprint and found["status"] == "done":
        return found
    if not (found and found["fingerprint"] == fingerprint):
        _clear(out_dir, found, replace)
        shared = _same_stage(out_dir, fingerprint) if replace else None
        if shared:
            shutil.copytree(shared, out_dir, copy_function=_link)
            return read_record(out_dir) or {}
    record: dict[str, Any] = {
        "stage": stage, "status": "running", "fingerprint": fingerprint,
        "settings": {**settings.model_dump(), "seed": seed}, "inputs": described, "data": data,
        "versions": machine.versions(), "git_commit": git_commit(), "machine": machine.describe(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_record(out_dir, record)
    print(f"== {'/'.join(out_dir.parts[-3:]) if replace else stage}", file=sys.stderr, flush=True)
    started = time.monotonic()
    result = function()
    record |= {
        "status": "done", "seconds": round(time.monotonic() - started, 2),
        "peak_memory_bytes": machine.peak_memory_bytes(), "result": result,
    }  # fmt: skip
    write_record(out_dir, record)
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a stage folder, None where there is none that can be read."""
    try:
        record = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return record if {"fingerprint", "status"} <= set(record) else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write stage.json in one step: it is either the old record or the new one, never half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STAGE_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _clear(out_dir: Path, found: dict[str, Any] | None, replace: bool) -> None:
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return
    if found is None:
        raise PolygraftError(f"{out_dir} is not empty and was not written by polygraft. Name another output folder.")
    if found["status"] == "done" and not replace:
        raise PolygraftError(
            f"{out_dir} holds the finished result of '{found['stage']}' with other settings or inputs. "
            "Name another output folder, or delete this one."
        )
    shutil.rmtree(out_dir)


def _same_stage(out_dir: Path, fingerprint: str) -> Path | None:
    """Find the same finished stage in another arm or seed of this recipe: <name>/<arm>/seed-<n>/<stage>."""
    for path in sorted(out_dir.parents[2].glob(f"*/seed-*/{out_dir.name}/{STAGE_FILE}")):
        record = read_record(path.parent)
        if record and record["fingerprint"] == fingerprint and record["status"] == "done":
            return path.parent
    return None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _flat(inputs: Sequence[str | Settings | None]) -> list[str]:
    """List checkpoints and the files that data sections name."""
    names: list[str] = []
    for item in inputs:
        if isinstance(item, TextData | PairData):
            files = (item.train_file, item.validation_file, getattr(item, "test_file", None))
            names += [f"file:{name}" for name in files if name]
        elif isinstance(item, str):
            names.append(item)
    return names


def fingerprint_of(name: str) -> str:
    """Fingerprint a data file by its content, a stage folder by its record, a checkpoint by weights and tokenizer.

    A hub name that is no local folder stands for itself.
    """
    from polygraft.models.checkpoints import resolve

    if name.startswith("file:"):
        return _hash_files([find_file(name.removeprefix("file:"))])
    folder = Path(resolve(name))
    if not folder.is_dir():
        return name
    record = read_record(folder)
    if record and record["status"] == "done":
        return record["fingerprint"]
    patterns = ("*.safetensors", "*.bin", "*.model", "*.json", "adapter/*.safetensors", "adapter/*.json")
    return _hash_files(sorted(path for pattern in patterns for path in folder.glob(pattern)))


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Return the commit that is checked out where polygraft is run from source, None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def score_table(folder: Path, arms: dict[str, Recipe], seeds: list[int]) -> list[dict[str, Any]]:
    """Return one row per arm: mean scores over seeds, and the mean cost of adaptation and fine-tuning."""
    rows = []
    for arm in arms:
        runs = [folder / arm / f"seed-{seed}" for seed in seeds]
        scores = [json.loads((run / "evaluate" / "scores.json").read_text())["systems"] for run in runs]
        model = [score["model"]["all"] for score in scores]
        lead = scores[0]["lead"]["all"]
        records = [r for run in runs for path in run.iterdir() if (r := read_record(path))]
        row = {"arm": arm, "seeds": len(seeds), "seconds": sum(r["seconds"] for r in records) / len(seeds)}
        for metric in ("loss_per_token", "chrf++", "rougeL"):
            row[metric] = sum(m[metric]["score"] for m in model) / len(model)
        rows.append(row)
    rows.append({"arm": "lead baseline", "chrf++": lead["chrf++"]["score"], "rougeL": lead["rougeL"]["score"]})
    return rows

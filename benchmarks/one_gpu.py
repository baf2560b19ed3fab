"""Does recipes/one-gpu-16gb.yaml fit? Its stages at the real sizes, under a limit of memory, beside what `check` says.

Models of the published shapes with random weights, the real tokenizers, and Ukrainian texts joined until they fill the
recipe's lengths; two steps of `adapt`, one of what trains LoRA, each in a process of its own, whose address space is
limited (RLIMIT_AS). On a CPU in fp32, which takes more than fp16 or bf16 on a GPU: there is one memory, and loading and
saving are in it.

    python benchmarks/one_gpu.py --folder /tmp/one-gpu
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import page
import real_size
import side_by_side

RECIPE = Path(__file__).parents[1] / "recipes" / "one-gpu-16gb.yaml"
ARM, STAGES = "detour", ("adapt", "transfer", "adapt_target", "finetune")
LIMIT, GIB = 16, 2**30
CHARACTERS, SUMMARY = 3000, 600  # more than 512 and 128 tokens
ROWS = {"train": 48, "validation": 2, "test": 2}
SMALL = ["eval_steps=1e6", "save_steps=1e6", "precision=fp32"]


def create(folder: Path) -> dict[str, Any]:
    """Two checkpoints and the files that the recipe names."""
    from polygraft.data.reading import read_rows

    real_size.create(folder, "xlm-roberta-base", "mbart-large-50")
    texts = itertools.cycle([row["text"] for row in read_rows("polygraft/sample/uk/adapt.parquet", ["text"])])

    def long(characters: int) -> str:
        text = ""
        while len(text) < characters:
            text += " " + " ".join(next(texts).split())
        return text.strip()

    for split, count in ROWS.items():
        rows = [{"text": long(CHARACTERS), "summary": long(SUMMARY)} for _ in range(count)]
        side_by_side.write_rows(folder / f"{split}.jsonl", rows)
    (folder / "text.txt").write_text("\n".join(long(CHARACTERS) for _ in range(ROWS["train"])), encoding="utf-8")
    return {}


def recipe_of(folder: Path) -> Any:
    """The recipe's arm, on these models and files, for two steps."""
    from polygraft.recipe.reading import arm_recipes, load_recipe

    files = {"text.train_file": "text.txt"} | {f"pairs.{split}_file": f"{split}.jsonl" for split in ROWS}
    changes = [f"{key}={folder / name}" for key, name in files.items()]
    changes += [f"{side}={folder / side}" for side in ("source", "target")]
    for section in ("finetune", f"arms.{ARM}.adapt", f"arms.{ARM}.adapt_target"):
        changes += [f"{section}.{change}" for change in SMALL]
    # Adam's states are there from the second step on, gradients from a step's second pass; LoRA's are small
    changes += [f"arms.{ARM}.adapt.budget={{steps: 2}}"]
    for section in ("finetune", f"arms.{ARM}.adapt_target"):
        changes += [f"{section}.budget={{steps: 1}}", f"{section}.gradient_accumulation_steps=1"]
    changes += ["adaptation_budget=null", "arms.direct=null", "verdict=null"]
    return arm_recipes(load_recipe(RECIPE, changes))[ARM]


def estimate(folder: Path) -> dict[str, Any]:
    """What `polygraft check` says of the stages, in bytes."""
    from polygraft.checks.models import open_models
    from polygraft.checks.stages import Stages

    recipe = recipe_of(folder)
    needs = Stages(open_models({ARM: recipe})).of_arm(ARM, recipe)
    return {need.stage: [need.memory_bytes, need.batch_size, need.proposed_batch_size] for need in needs}


def run_stage(folder: Path, stage: str) -> dict[str, Any]:
    """One stage, on what the one before it left."""
    from polygraft import machine
    from polygraft.stages import adapt, finetune, transfer

    recipe, out = recipe_of(folder), folder / "out" / stage
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    adapted, model = str(folder / "out" / "adapt"), str(folder / "out" / "transfer")
    started = time.monotonic()
    if stage == "adapt":
        found = adapt.run(recipe.adapt, recipe.source, recipe.text, 1, out)
    elif stage == "transfer":
        found = transfer.run(recipe.transfer, recipe.source, adapted, recipe.target, recipe.text, out)
    elif stage == "adapt_target":
        found = adapt.run(recipe.adapt_target, model, recipe.text, 1, out)
    else:
        found = finetune.run(recipe.finetune, model, recipe.pairs, 1, out)
    figures = {key: value for key, value in found.items() if isinstance(value, int | float)}
    return {"seconds": time.monotonic() - started, "peak_memory_bytes": machine.peak_memory_bytes(), **figures}


def worker(args: argparse.Namespace) -> None:
    if args.worker == "create":
        print(json.dumps(create(args.folder)))
    elif args.worker == "estimate":
        print(json.dumps(estimate(args.folder)))
    else:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT * GIB, LIMIT * GIB))
        print(json.dumps(run_stage(args.folder, args.worker)))


def table(estimates: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"`python benchmarks/one_gpu.py`, {page.about()}; fp32, address space limited to {LIMIT} GiB.",
        "",
        "| stage | documents | classes | peak memory | estimated | ratio | seconds per step |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage, row in results.items():
        said, batch, _ = estimates[stage]
        step = f"{row['train_seconds'] / row['steps']:.0f}" if "steps" in row else ""
        peak, classes = row["peak_memory_bytes"], f"{row['classes']:,}" if "classes" in row else ""
        cells = [stage, f"{batch or ''}", classes, f"{peak / GIB:.1f} GiB", f"{said / GIB:.1f} GiB"]
        lines.append(f"| {' | '.join([*cells, f'{said / peak:.2f}', step])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints and results; needs 15 GB")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.worker:
        worker(args)
        return

    def measured(name: str) -> dict[str, Any]:
        return side_by_side.run_once(args.folder, name, [__file__, "--worker", name, "--folder", str(args.folder)])

    if not (args.folder / "text.txt").is_file():
        measured("create")
    estimates = measured("estimate")
    content = table(estimates, {stage: measured(stage) for stage in STAGES})
    shutil.rmtree(args.folder / "out", ignore_errors=True)
    print(content)


if __name__ == "__main__":
    main()

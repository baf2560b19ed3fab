"""Every transfer method at the real sizes: seconds and peak memory of the whole stage, each in its own process.

Checkpoints are those of real_size.py: published shapes, random weights, 40% of mBART's rows never learned, the real
tokenizers. The text is bundled documents in five languages. Checkpoints by name are taken as they are, which proves
the benchmark at a small size:

    python benchmarks/transfer.py --write docs/benchmarks.md
    python benchmarks/transfer.py --folder /tmp/small --source polygraft/nano-xlmr --target polygraft/nano-mbart
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import page
import real_size
import side_by_side

STEPS, DOCUMENTS = 3, 400  # in five languages; `distill` evaluates on a tenth
TRAINING = {"budget": {"steps": STEPS}, "per_device_train_batch_size": 8, "save_steps": 1e6, "eval_steps": 1.0}
CALIBRATION = {"calibration_tokens": 5_000}  # a twentieth of the default: seconds grow with them, memory does not
METHODS: dict[str, dict[str, Any]] = {
    "recentre": {"mode": "recentre"},
    "repair": {"mode": "repair"},
    "delta": {"mode": "delta"},
    "map": {"method": "map", "max_length_tokens": 128, **TRAINING},
    "bottleneck": {"method": "bottleneck", **CALIBRATION},
    "bottleneck, of LoRA": {"method": "bottleneck", **CALIBRATION},
    "encoder": {"method": "encoder", **CALIBRATION},
    "encoder, warmed up": {"method": "encoder", **CALIBRATION},
    "distill": {"method": "distill", "max_length_tokens": 128, **CALIBRATION, **TRAINING},
}
WARMED_UP = "encoder, warmed up"
ADAPTED = {"bottleneck": "bottleneck", "bottleneck, of LoRA": "lora"}  # method -> the adapter that it carries


def create(folder: Path, source: str, target: str) -> dict[str, Any]:
    """Checkpoints of published shapes where such are named, the source with each kind of adapter, and the text."""
    if is_published(source):
        real_size.create(folder, source, target)
    for kind in ADAPTED.values():
        create_adapted(folder, str(folder / "source") if is_published(source) else source, kind)
    texts = side_by_side.rows("adapt", DOCUMENTS, ["text"])
    side_by_side.write_rows(folder / "text.jsonl", texts)
    return {"documents": len(texts)}


def create_adapted(folder: Path, source: str, kind: str) -> None:
    """The source with an adapter that changes something, in `folder`/adapted-`kind`."""
    import torch

    from polygraft.models import adapters, checkpoints
    from polygraft.objectives import MLM

    model = checkpoints.load_masked_lm(source)
    lora = adapters.prepare(model, MLM.model_validate({"adapter": {"type": kind}, "budget": {"steps": 1}}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.endswith("up.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    out = folder / f"adapted-{kind}"
    adapters.finish(model, lora, out)
    checkpoints.save(model, checkpoints.load_tokenizer(source), out)


def is_published(name: str) -> bool:
    return (side_by_side.CONFIGS / f"{name}.json").is_file()


def run_method(folder: Path, name: str, source: str, target: str) -> dict[str, Any]:
    """One transfer, or the warm-up of the graft that the one before made."""
    from polygraft.recipe import Recipe
    from polygraft.stages import adapt, transfer
    from polygraft.transfers.states import bottleneck

    recipe = Recipe.model_validate({
        "name": "transfer", "text": {"train_file": str(folder / "text.jsonl"), "lang_column": "lang"},
        "pairs": {"train_file": "none"}, "finetune": TRAINING, "transfer": METHODS[name],
        "warm_up": {**TRAINING, "max_length_tokens": 128},
    })  # fmt: skip
    assert recipe.transfer and recipe.text and recipe.warm_up
    # layers of random weights are all like the first; those of real models match in order, which costs more
    bottleneck.match_layers = lambda scores: [
        round(layer * (len(scores) - 1) / (scores.shape[1] - 1)) for layer in range(scores.shape[1])
    ]
    source, target = (str(folder / n) if is_published(m) else m for n, m in (("source", source), ("target", target)))
    out = folder / "out" / name
    if name == WARMED_UP:
        return adapt.run(recipe.warm_up, str(folder / "out" / "encoder"), recipe.text, 1, out)
    after = str(folder / f"adapted-{ADAPTED[name]}") if name in ADAPTED else source  # elsewhere no matter what changed
    given = (None, None) if name == "recentre" else (source, after)
    return transfer.run(recipe.transfer, *given, target, recipe.text, out)


def worker(args: argparse.Namespace) -> None:
    from polygraft import machine

    started = time.monotonic()
    if args.worker == "create":
        result = create(args.folder, args.source[0], args.target)
    else:
        result = run_method(args.folder, args.worker, args.source[0], args.target)
    result |= result.pop("diagnostics", {})
    numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
    seconds = time.monotonic() - started
    print(json.dumps({**numbers, "seconds": seconds, "peak_memory_bytes": machine.peak_memory_bytes()}))


def measure_all(folder: Path, source: str, target: str, only: str | None) -> dict[str, dict[str, Any]]:
    """Every method for one source, each in a process of its own."""

    def measure(name: str) -> dict[str, Any]:
        given = ["--folder", str(folder), "--source", source, "--target", target]
        return side_by_side.run_once(folder, name, [__file__, "--worker", name, *given])

    folder.mkdir(parents=True, exist_ok=True)
    measure("create")
    results = {}
    for name in METHODS:
        if only in (None, name):
            results[name] = measure(name)
            if name != "encoder":  # whose result the next one warms up
                shutil.rmtree(folder / "out" / name, ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    return results


def table(source: str, target: str, results: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"{source} into {target}:", "",
        "| method | seconds | seconds per step | FLOPs | peak memory |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in results.items():
        cells = [name, f"{row['seconds']:.0f}"]
        cells += [f"{row['train_seconds'] / row['steps']:.1f}" if row.get("steps") else ""]
        cells += [f"{row['flops']:.2g}" if row.get("flops") else "", f"{row['peak_memory_bytes'] / 2**30:.1f} GiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("outputs/benchmarks/transfer")
    parser.add_argument("--folder", type=Path, default=default, help="for checkpoints and results; 20 GB a source")
    shapes = ["xlm-roberta-large", "xlm-roberta-base"]
    parser.add_argument("--source", nargs="+", default=shapes, help="published shapes, or a checkpoint")
    parser.add_argument("--target", default="mbart-large-50", help="a published shape, or a checkpoint")
    parser.add_argument("--method", help="only this method")
    parser.add_argument("--write", type=Path, help="a page whose part under '## transfer' is replaced")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if any(is_published(source) != is_published(args.target) for source in args.source):
        sys.exit("Name published shapes, or checkpoints, on both sides.")
    if args.worker:
        worker(args)
        return
    batch = TRAINING["per_device_train_batch_size"]
    parts = [
        f"`python benchmarks/transfer.py`, {page.about()}. Seconds of the whole stage: loading, saving, verifying the "
        "copy included; FLOPs are those of calibration and training. Methods on hidden states are calibrated on "
        f"{CALIBRATION['calibration_tokens']:,} tokens, a tenth of them held out; `distill` and the warm-up of "
        f"the graft train for {STEPS} steps of {batch} documents of up to 128 tokens, and evaluate before and after "
        "each."
    ]
    for source in args.source:
        folder = args.folder / source.replace("/", "-")
        parts.append(table(source, args.target, measure_all(folder, source, args.target, args.method)))
    print(content := "\n\n".join(parts))
    if args.write:
        page.write_section(args.write, "transfer", content)


if __name__ == "__main__":
    main()

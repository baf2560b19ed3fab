"""The whole way at the real sizes: XLM-R-large and mBART-large-50, a few steps per stage, each in its own process.

Weights are drawn at random, since figures of time and memory do not depend on them; so that the transfer has its full
work, 40% of mBART's rows are put where never-learned rows lie, on one common drift. Tokenizer and text are real:
Debian's package descriptions in five languages. Prints and writes peak memory and seconds of every stage, with the full
vocabulary and with a trimmed one.

    python benchmarks/real_size.py --folder /tmp/real-size --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import page
import side_by_side

DEAD_SHARE, DRIFT_LENGTH, NOISE = 0.4, 1.2, 0.01
STEPS, DOCUMENTS, TEST_DOCUMENTS = 3, 400, 10
TRAINING = {"per_device_train_batch_size": 8, "save_steps": 1e6, "eval_steps": 1e6}


def create_tokenizers(folder: Path) -> None:
    """The real tokenizers of both models, from the entries of XLM-R's."""
    from transformers import MBart50Tokenizer, XLMRobertaTokenizer
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    package = importlib.util.find_spec("semantra_multilingual")
    if package is None or package.origin is None:
        sys.exit("The real tokenizer is not installed: see REAL_TOKENIZER in the Makefile.")
    path = Path(package.origin).parent / "assets/multilingual-e5-small/tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    pieces = [(piece, score) for piece, score in content["model"]["vocab"]]
    charsmap = base64.b64decode(content["normalizer"]["normalizers"][0]["precompiled_charsmap"])
    codes = [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES]
    XLMRobertaTokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap, model_max_length=512).save_pretrained(
        folder / "source"
    )
    MBart50Tokenizer(
        vocab=[*pieces[:-1], *codes, pieces[-1]], _spm_precompiled_charsmap=charsmap, model_max_length=1024
    ).save_pretrained(folder / "target")


def create(folder: Path, source: str, target: str) -> dict[str, Any]:
    """Two checkpoints of the published shapes with random weights, and text files."""
    import torch

    for side, shape in (("source", source), ("target", target)):
        model = random_model(shape, side)
        if side == "target":
            with torch.no_grad():
                matrix = model.get_input_embeddings().weight
                dead = torch.rand(len(matrix)) < DEAD_SHARE
                drift = torch.nn.functional.normalize(torch.randn(matrix.shape[1]), dim=0) * DRIFT_LENGTH
                matrix[dead] = drift + NOISE * torch.randn(int(dead.sum()), matrix.shape[1])
                matrix[1] = drift  # <pad>, which starts at zero and is never a target, marks it
        model.save_pretrained(folder / side)
        del model
    create_tokenizers(folder)
    for split, documents in (("adapt", DOCUMENTS), ("train", DOCUMENTS), ("test", TEST_DOCUMENTS)):
        columns = ["text"] if split == "adapt" else ["text", "summary"]
        side_by_side.write_rows(folder / f"{split}.jsonl", side_by_side.rows(split, documents, columns))
    return {}


def random_model(shape: str, side: str) -> Any:
    """A model of a published shape with random weights: a `source` or a `target`."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    kind: Any = {"source": AutoModelForMaskedLM, "target": AutoModelForSeq2SeqLM}[side]
    return kind.from_config(AutoConfig.from_pretrained(side_by_side.CONFIGS / f"{shape}.json"))


def random_checkpoint(folder: Path, shape: str, side: str) -> Path:
    """A random model with the real tokenizer of its side, in `folder`/`shape`."""
    create_tokenizers(folder)
    random_model(shape, side).save_pretrained(folder / shape)
    for file in (folder / side).iterdir():
        shutil.copy(file, folder / shape)
    return folder / shape


def recipe_of(folder: Path, trimmed: bool) -> Any:
    """The recipe that all stages and the estimates follow."""
    from polygraft.recipe import Recipe

    how: dict[str, Any] = {"budget": {"steps": STEPS}, "trim_vocabulary": trimmed, **TRAINING}
    return Recipe.model_validate({
        "name": "real-size", "source": str(folder / "source"), "target": str(folder / "target"),
        "text": {"train_file": str(folder / "adapt.jsonl"), "lang_column": "lang"},
        "pairs": {
            "train_file": str(folder / "train.jsonl"), "test_file": str(folder / "test.jsonl"),
            "source_lang_column": "lang", "target_lang_column": "lang",
        },
        "adapt": how | {"max_length_tokens": 128}, "transfer": {}, "adapt_target": how | {"max_length_tokens": 128},
        "finetune": how | {"max_source_length_tokens": 128, "max_target_length_tokens": 32},
        "evaluate": {"max_source_length_tokens": 128, "max_new_tokens": 24, "per_device_eval_batch_size": 8},
    })  # fmt: skip


def estimate(folder: Path) -> dict[str, Any]:
    """What `polygraft check` says of the same stages, trimmed and not."""
    from polygraft.checks.models import open_models
    from polygraft.checks.stages import Stages

    found = {}
    for trimmed in (False, True):
        recipe = recipe_of(folder, trimmed)
        for need in Stages(open_models({"main": recipe})).of_arm("main", recipe):
            found[f"{need.stage} {trimmed}"] = asdict(need)
    return found


def run_stage(folder: Path, stage: str, trimmed: bool) -> dict[str, Any]:
    """One stage on the checkpoints in `folder`; what the stage itself returns."""
    from polygraft.stages import adapt, evaluate, finetune, transfer

    recipe, out = recipe_of(folder, trimmed), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if stage == "adapt":
        return adapt.run(recipe.adapt, recipe.source, recipe.text, 1, out)
    if stage == "transfer":
        return transfer.run(recipe.transfer, recipe.source, recipe.source, recipe.target, recipe.text, out)
    if stage == "adapt_target":
        denoising = recipe.adapt_target
        return adapt.run(denoising, recipe.target, recipe.text, 1, out)
    if stage == "finetune":
        return finetune.run(recipe.finetune, recipe.target, recipe.pairs, 1, out)
    return evaluate.run(recipe.evaluate, recipe.target, recipe.pairs, out)


def worker(args: argparse.Namespace) -> None:
    from polygraft import machine

    started = time.monotonic()
    if args.worker == "create":
        result = create(args.folder, args.source, args.target)
    elif args.worker == "estimate":
        print(json.dumps(estimate(args.folder)))
        return
    else:
        result = run_stage(args.folder, args.worker, args.trimmed)
    numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "peak_memory_bytes": machine.peak_memory_bytes(), **numbers}))


def measure(args: argparse.Namespace, stage: str, trimmed: bool = False) -> dict[str, Any]:
    given = ["--folder", str(args.folder), "--source", args.source, "--target", args.target]
    how = ["--trimmed"] if trimmed else []
    return side_by_side.run_once(args.folder, "-".join([stage, *["trimmed"] * trimmed]),
                                 [__file__, "--worker", stage, *given, *how])  # fmt: skip


STAGES = [
    ("adapt", False), ("adapt", True), ("transfer", False), ("adapt_target", False), ("adapt_target", True),
    ("finetune", False), ("finetune", True), ("evaluate", False),
]  # fmt: skip


def table(
    args: argparse.Namespace, results: list[tuple[str, bool, dict[str, Any]]], estimates: dict[str, dict[str, Any]]
) -> str:
    lines = [
        f"`python benchmarks/real_size.py`, {page.about()}. {args.source} and {args.target}, random weights, real "
        f"tokenizer and text; {STEPS} steps of {TRAINING['per_device_train_batch_size']} documents, {TEST_DOCUMENTS} "
        "documents decoded with 4 beams. Seconds of the whole stage: loading, saving, verifying the copy included. "
        "Beside the peak memory what `polygraft check` estimates.",
        "",
        "| stage | vocabulary | classes | parameters | seconds | seconds per step | peak memory | estimated | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for stage, trimmed, row in results:
        said = estimates[f"{stage} {trimmed}"]["memory_bytes"] / 2**30
        step = f"{row['train_seconds'] / row['steps']:.1f}" if "steps" in row else ""
        vocabulary = "trimmed" if trimmed else "full"
        classes = f"{row['classes']:,}" if "classes" in row else ""
        memory = row["peak_memory_bytes"] / 2**30
        parameters = f"{estimates[f'{stage} {trimmed}']['parameters'] / 1e6:,.0f}M"
        cells = [stage, vocabulary, classes, parameters, f"{row['seconds']:.0f}", step]
        cells += [f"{memory:.1f} GiB", f"{said:.1f} GiB", f"{said / memory:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints and results; needs 15 GB")
    parser.add_argument("--source", default="xlm-roberta-large")
    parser.add_argument("--target", default="mbart-large-50")
    parser.add_argument("--stage", help="only this stage; `estimate`: what `check` says, nothing is run")
    parser.add_argument("--write", type=Path, help="a page whose part under '## Real sizes' is replaced")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--trimmed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.worker:
        worker(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    if not (args.folder / "test.jsonl").is_file():
        measure(args, "create")
    estimates = measure(args, "estimate")
    if args.stage == "estimate":
        for name, need in estimates.items():
            print(f"{name}: {need['memory_bytes'] / 2**30:.1f} GiB, {need['seconds']:.0f} s")
        return
    results = [(s, trimmed, measure(args, s, trimmed)) for s, trimmed in STAGES if args.stage in (None, s)]
    shutil.rmtree(args.folder / "out", ignore_errors=True)
    print(content := table(args, results, estimates))
    if args.write:
        page.write_section(args.write, f"{args.source} and {args.target}", content)


if __name__ == "__main__":
    main()

"""Pretrain the nano models with polygraft's own `adapt`, from random weights; run again after an interruption to go on.

    python examples/nano/pretrain.py xlmr  --out outputs/nano
    python examples/nano/pretrain.py mbart --out outputs/nano
    python examples/nano/pretrain.py real  --out outputs/nano      # the target with the real vocabulary; mbart's text

The target learns in phases: first with few spans missing and the sentences in order, where the quickest way down is
to copy from the source, on whole documents, then on pieces so short that source and output all but line up, then on
longer ones; at last with mBART's own noise. Without the short pieces it stayed a language model that ignores its
source.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from polygraft.objectives import MLM, Denoising
from polygraft.settings import Budget, TextData, Training
from polygraft.stages import adapt

# fp32 on every machine, so that a run may go on elsewhere; a kill costs 200 steps, some 5 minutes of one core.
SHARED: dict[str, Any] = {
    "eval_steps": 0.05, "save_steps": 200, "warmup_steps": 0.02, "precision": "fp32", "per_device_train_batch_size": 32,
    "max_length_tokens": 128,
}  # fmt: skip
CONSTANT = SHARED | {"lr_scheduler_type": "constant"}
COPYING = CONSTANT | {"learning_rate": 2e-3, "mask_ratio": 0.15, "permute_sentences": False}


def tokens(millions: float) -> Budget:
    return Budget(tokens=round(millions * 1e6))


# The long phase at a constant rate can be ended early, or followed by another; what follows it lets the rate fall to 0.
PHASES: dict[str, list[Training]] = {
    "xlmr": [
        MLM(budget=tokens(50), learning_rate=1e-3, mlm_probability=0.3, **CONSTANT),
        MLM(budget=tokens(30), learning_rate=1e-3, mlm_probability=0.3, **SHARED),
    ],
    "mbart": [
        Denoising(budget=tokens(5), **COPYING),
        Denoising(budget=tokens(2.5), **COPYING | {"max_length_tokens": 24, "per_device_train_batch_size": 64}),
        Denoising(budget=tokens(2.5), **COPYING | {"max_length_tokens": 64}),
        Denoising(budget=tokens(25), learning_rate=2e-3, **CONSTANT),
        Denoising(budget=tokens(25), learning_rate=2e-3, **SHARED),
    ],
    "real": [
        Denoising(budget=tokens(4), **COPYING | {"learning_rate": 1.5e-3}),
        Denoising(
            budget=tokens(2),
            **COPYING | {"learning_rate": 1.5e-3, "max_length_tokens": 24, "per_device_train_batch_size": 64},
        ),
        Denoising(budget=tokens(2), **COPYING | {"learning_rate": 1.5e-3, "max_length_tokens": 64}),
        Denoising(budget=tokens(7), learning_rate=1.5e-3, **SHARED | {"per_device_train_batch_size": 16}),
    ],
}


TEXT = {"xlmr": "xlmr", "mbart": "mbart", "real": "mbart"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(PHASES))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    parser.add_argument("--threads", type=int, default=1, help="one per model, so that both fit on two cores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = TextData(
        train_file=str(args.out / f"{TEXT[args.model]}-train.jsonl"),
        validation_file=str(args.out / f"{TEXT[args.model]}-validation.jsonl"),
        lang_column="lang",
    )
    model = args.out / f"{args.model}-random"
    for number, settings in enumerate(PHASES[args.model], start=1):
        folder = args.out / f"{args.model}-phase{number}"
        done = folder / "result.json"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            result = adapt.run(settings, str(model), text, 1, folder)
            done.write_text(json.dumps(result) + "\n")
            print(f"{folder}: {result}", flush=True)
        model = folder


if __name__ == "__main__":
    main()

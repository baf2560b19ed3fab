"""Pretrain the nano models with polygraft's own `adapt`, from random weights; run again after an interruption to go on.

    python examples/nano/pretrain.py xlmr  --out outputs/nano
    python examples/nano/pretrain.py mbart --out outputs/nano

The target learns in phases: first with few spans missing and the sentences in order, where the quickest way down is
to copy from the source, on whole documents, then on pieces so short that source and output all but line up, then on
longer ones; at last with mBART's own noise. Without the short pieces it stayed a language model that ignores its
source.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from polygraft import adapt
from polygraft.settings import MLM, Budget, Denoising, TextData, Training

SHARED = {"eval_steps": 0.1, "save_steps": 0.05, "warmup_steps": 0.02}
COPYING = {**SHARED, "lr_scheduler_type": "constant", "mask_ratio": 0.15, "permute_sentences": False}
PHASES: dict[str, list[Training]] = {
    "xlmr": [
        MLM(
            budget=Budget(minutes=70), learning_rate=1.5e-3, mlm_probability=0.2, max_length_tokens=128,
            per_device_train_batch_size=32, **SHARED,
        ),
        MLM(
            budget=Budget(tokens=15_000_000), learning_rate=1e-3, mlm_probability=0.2, max_length_tokens=128,
            per_device_train_batch_size=32, **SHARED,
        ),
    ],
    "mbart": [
        Denoising(
            budget=Budget(minutes=20), learning_rate=2e-3, max_length_tokens=128, per_device_train_batch_size=32,
            **COPYING,
        ),
        Denoising(
            budget=Budget(minutes=6), learning_rate=2e-3, max_length_tokens=24, per_device_train_batch_size=64,
            **COPYING,
        ),
        Denoising(
            budget=Budget(minutes=6), learning_rate=2e-3, max_length_tokens=64, per_device_train_batch_size=32,
            **COPYING,
        ),
        Denoising(
            budget=Budget(minutes=34), learning_rate=2e-3, max_length_tokens=128, per_device_train_batch_size=16,
            **SHARED,
        ),
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(PHASES))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    parser.add_argument("--threads", type=int, default=1, help="one per model, so that both fit on two cores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = TextData(
        train_file=str(args.out / f"{args.model}-train.jsonl"),
        validation_file=str(args.out / f"{args.model}-validation.jsonl"),
        lang_column="lang",
    )
    model = args.out / f"{args.model}-random"
    for number, settings in enumerate(PHASES[args.model], start=1):
        folder = args.out / f"{args.model}-phase{number}"
        if not (folder / "metrics.jsonl").exists():  # written last
            folder.mkdir(parents=True, exist_ok=True)
            print(f"{folder}: {adapt.run(settings, str(model), text, 1, folder)}", flush=True)
        model = folder


if __name__ == "__main__":
    main()

"""Short runs of the source's second phase, one setting changed at a time: which masking rate, batch, learning rate?

    python examples/nano/explore.py --out outputs/nano --data data/debian

All go on from the first phase, where the model has left its plateau (from random weights that takes ten million tokens,
too long for a short run), for as many tokens, and are judged on the same held-out text at 15% masking. What is done
is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bundle import markdown, measure_source

from polygraft import adapt
from polygraft.settings import MLM, Budget, TextData

TOKENS = 1_500_000
BASE: dict[str, Any] = {
    "learning_rate": 1e-3, "mlm_probability": 0.2, "per_device_train_batch_size": 32, "max_length_tokens": 128,
    "warmup_steps": 0.02, "eval_steps": 1.0, "save_steps": 0.25,
}  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    {}, {"mlm_probability": 0.15}, {"mlm_probability": 0.3}, {"mlm_probability": 0.4}, {"learning_rate": 5e-4},
    {"learning_rate": 2e-3}, {"per_device_train_batch_size": 16}, {"per_device_train_batch_size": 64},
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    files = (str(args.out / f"xlmr-{split}.jsonl") for split in ("train", "validation"))
    text = TextData(train_file=next(files), validation_file=next(files), lang_column="lang")
    rows = []
    for changes in CHANGES:
        name = "-".join(f"{key}={value}" for key, value in changes.items()) or "as it is"
        folder = args.out / "explore" / name.replace(" ", "-")
        if not (folder / "metrics.jsonl").exists():  # written last
            folder.mkdir(parents=True, exist_ok=True)
            settings = MLM(budget=Budget(tokens=TOKENS), **(BASE | changes))
            adapt.run(settings, str(args.out / "xlmr-phase1"), text, 1, folder)
        losses = [row["MLM loss"] for row in measure_source(folder, args.data)]
        rows.append({"changed": name, "held-out loss at 15% masking": fmean(losses)})
        print(rows[-1], flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    main()

"""Short runs of the source's second phase, one setting changed at a time: which masking rate, batch, learning rate?

    python examples/nano/explore.py --out outputs/nano --data data/debian --into src/polygraft/nano

Adds its findings to the model's card. All go on from the first phase, where the model has left its plateau (from random
weights that takes ten million tokens, too long for a short run), for as many tokens, and are judged on the same
held-out text at 15% masking. What is done is kept.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from bundle import arguments, measure_source
from gates import add_to_card

from polygraft.objectives import MLM
from polygraft.settings import Budget, TextData
from polygraft.stages import adapt

TOKENS = 1_500_000
HEADING = "## Short runs of the second phase, one setting changed at a time"
LOSS = f"held-out MLM loss at 15% masking after {TOKENS / 1e6} million tokens"
BASE: dict[str, Any] = {
    "learning_rate": 1e-3, "mlm_probability": 0.2, "per_device_train_batch_size": 32, "max_length_tokens": 128,
    "warmup_steps": 0.02, "eval_steps": 0.5, "save_steps": 0.25,
}  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    {}, {"mlm_probability": 0.15}, {"mlm_probability": 0.3}, {"mlm_probability": 0.4}, {"learning_rate": 5e-4},
    {"learning_rate": 2e-3}, {"per_device_train_batch_size": 16}, {"per_device_train_batch_size": 64},
]  # fmt: skip


def main() -> None:
    args = arguments(__doc__)
    torch.set_num_threads(1)  # quicker at this size, and another run fits beside
    files = (str(args.out / f"xlmr-{split}.jsonl") for split in ("train", "validation"))
    text = TextData(train_file=next(files), validation_file=next(files), lang_column="lang")
    rows = []
    for changes in CHANGES:
        name = "-".join(f"{key}={value}" for key, value in changes.items()) or "as it is"
        folder = args.out / "explore" / name.replace(" ", "-")
        if not (folder / "model.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            settings = MLM(budget=Budget(tokens=TOKENS), **(BASE | changes))
            adapt.run(settings, str(args.out / "xlmr-phase1"), text, 1, folder)
        losses = [row["MLM loss"] for row in measure_source(folder, args.data)]
        rows.append({"changed": name.replace("=", " = "), LOSS: fmean(losses)})
        print(rows[-1], flush=True)
    add_to_card(args.into / "nano-xlmr", HEADING, rows)


if __name__ == "__main__":
    main()

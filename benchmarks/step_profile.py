"""What a training step of `polygraft finetune` spends its time on, at mBART-large-50's shape with a trimmed vocabulary.

Seconds of forward, backward, clipping and optimizer, and the shares of matrix products, attention and dropout by
torch's profiler; operations per real token by torch's flop counter. On the checkpoints and pairs of
finetune.py, in its folder.

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --adapter lora
    python benchmarks/step_profile.py --compile     # instead: steps as they are, then with every layer compiled
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import finetune

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_"),
    "attention": ("aten::bmm", "aten::_softmax", "aten::_softmax_backward_data"),
    "dropout": ("aten::random_", "aten::ge"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--adapter", choices=("none", "lora"), default="none")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args(namespace=argparse.Namespace(model="mbart-large-50", documents=24, tokens=1200))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    finetune.prepare(args)
    model, step, batch, tokens = training_step(args)
    step(batch)  # makes the optimizer's states
    if args.compile:
        compare_compiled(model, step, batch)
        return
    seconds = step(batch)
    print("seconds:", ", ".join(f"{name} {value:.2f}" for name, value in seconds.items()), f"for {tokens} tokens")
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(batch)
    print(f"operations per real token: {counter.get_total_flops() / tokens / 1e6:,.0f} million")
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(batch)
    times = Counter({event.key: event.self_cpu_time_total for event in found.key_averages()})
    for kind, names in KINDS.items():
        print(f"{kind}: {sum(times[name] for name in names) / times.total():.0%} of a step")


def compare_compiled(model: Any, step: Any, batch: dict[str, Any], rounds: int = 3) -> None:
    """Seconds of a step, as it is and with each layer through torch.compile, and of the compilation."""
    plain = statistics.median(sum(step(batch).values()) for _ in range(rounds))
    for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
        layer.compile(dynamic=True)
    first = sum(step(batch).values())
    compiled = statistics.median(sum(step(batch).values()) for _ in range(rounds))
    print(f"seconds of a step: {plain:.2f}, compiled {compiled:.2f} ({plain / compiled:.2f}x), the first {first:.0f}")


def training_step(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any], int]:
    """A model; a function that trains it on a batch as `polygraft finetune` does, for seconds; a batch; its tokens."""
    import torch

    from polygraft import machine
    from polygraft.data.batching import make_batches
    from polygraft.data.dataset import pair_dataset, read_pairs
    from polygraft.models import adapters, checkpoints
    from polygraft.objectives.seq2seq import Seq2Seq
    from polygraft.settings import Finetune, PairData
    from polygraft.training.dropout import FastDropout

    name = str(args.folder / finetune.TRIMMED)
    model, tokenizer = checkpoints.load_seq2seq(name), checkpoints.load_tokenizer(name)
    files = (str(args.folder / f"{part}.jsonl") for part in ("pairs", "held-out"))
    pairs = PairData(
        train_file=next(files), validation_file=next(files), source_lang_column="lang", target_lang_column="lang"
    )
    settings = Finetune.model_validate({
        "budget": {"epochs": 1}, "per_device_train_batch_tokens": args.tokens,
        "adapter": {"type": "lora"} if args.adapter == "lora" else None,
    })  # fmt: skip
    data = pair_dataset(read_pairs(pairs, 1)[0], pairs, tokenizer, finetune.SOURCE, finetune.TARGET)
    objective = Seq2Seq(tokenizer)
    batch = objective.collate([data[index] for index in next(iter(make_batches(settings, data.lengths, seed=1)))])
    adapters.prepare(model, settings)
    machine.keep_freed_memory(sum(p.numel() * p.element_size() for p in model.parameters()))
    model.set_attn_implementation("eager")
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=finetune.RATE, fused=True)

    def step(batch: dict[str, Any]) -> dict[str, float]:
        ends = [time.perf_counter()]
        with FastDropout():
            loss = objective.loss(model, **batch)
            ends.append(time.perf_counter())
            loss.backward()
            ends.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        ends.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
        names = ("forward", "backward", "clipping", "optimizer")
        return dict(zip(names, (b - a for a, b in itertools.pairwise(ends)), strict=True))

    return model, step, batch, int(objective.tokens(batch))


if __name__ == "__main__":
    main()

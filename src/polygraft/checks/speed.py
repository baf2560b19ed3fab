"""How fast this machine is: measured once per shape of layers, on a model of one layer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedConfig

from polygraft import machine
from polygraft.checks.counting import with_layers
from polygraft.checks.memory import BYTES, autocast, loss_of, make_batch, make_model
from polygraft.machine import Arithmetic
from polygraft.models.checkpoints import positions_of
from polygraft.models.recomputed import PassFlops
from polygraft.objectives.task import BatchShape

PROBE_ROWS, PROBE_TOKENS, PROBE_LENGTH = 2000, 1024, 128
PROBE_SECONDS, PROBE_RUNS = 0.4, 2  # passes are timed for so long, and at least so many; the fastest counts
TRAINER_BYTES = 90 * 2**20  # of transformers' Trainer and what it imports, for most of a second
BLOCK = 2**25  # values that are copied


@dataclass(frozen=True)
class Probe:
    """What this machine does, what is free on it, and what a process takes before there is any model."""

    flops_per_second: float
    bytes_per_second: float
    available_bytes: int
    baseline_bytes: int


def probe_machine(config: PreTrainedConfig, arithmetic: Arithmetic, baseline_bytes: int) -> Probe:
    """Time real passes of a model like `config`, but with one layer and 2,000 rows, and a large copy.

    The fastest of several is what a quiet machine does, whatever else runs meanwhile.
    """
    small = with_layers(config, 1)
    small.vocab_size = PROBE_ROWS
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = min(PROBE_LENGTH, positions_of(config))
    target = tokens if config.is_encoder_decoder else None
    shape = BatchShape(PROBE_TOKENS // tokens, tokens, target, PROBE_TOKENS // 8)
    model, batch = make_model(small).to(device), make_batch(shape, device)

    def train() -> None:
        with autocast(device, arithmetic):
            loss = loss_of(small)(model, **batch)
        loss.backward()

    with PassFlops() as counter:  # the first pass is slower than all others
        train()
    return Probe(counter.once / _fastest(train), bytes_per_second(), machine.available_bytes(), baseline_bytes)


def baseline_bytes() -> int:
    """What a process has resident that has imported what stages import, and has no model yet."""
    missing = "transformers.trainer" not in sys.modules and not torch.cuda.is_available()
    return machine.resident_bytes() + missing * TRAINER_BYTES


@cache
def bytes_per_second() -> float:
    """Bytes that a copy of a large block reads and writes."""
    block = torch.ones(BLOCK, device="cuda" if torch.cuda.is_available() else "cpu")
    there = torch.empty_like(block)
    return 2 * BYTES * BLOCK / _fastest(lambda: there.copy_(block))


def _fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest run."""
    best, runs, ends = float("inf"), 0, time.perf_counter() + PROBE_SECONDS
    while runs < PROBE_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best, runs = min(best, time.perf_counter() - started), runs + 1
    return best

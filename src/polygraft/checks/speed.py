"""How fast this machine is: measured once per shape of layers, on a model of one layer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from polygraft import machine
from polygraft.checks.counting import with_layers
from polygraft.checks.memory import BYTES, autocast, loss_of, make_batch, make_model
from polygraft.machine import Arithmetic
from polygraft.models.checkpoints import positions_of
from polygraft.models.recomputed import PassFlops
from polygraft.objectives.task import BatchShape

PROBE_ROWS, PROBE_LENGTH = 2000, 128
PROBE_FLOPS, FEWEST, MOST = 5e10, 2, 16  # of a pass, by its number of documents: wide layers are at their best with two
SHARED_OUT = 0.6  # n threads do n^0.6 times what one does: two 1.3 times with small models, 1.9 with large ones
PROBE_SECONDS, PROBE_RUNS = 0.2, 2  # passes are timed for so long, and at least so many; the fastest counts
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

    What a quiet machine does: the fastest of several passes counts, and where other work takes turns on the cores, so
    that threads wait for each other, what one thread does in its own time.
    """
    small = with_layers(config, 1)
    small.vocab_size = PROBE_ROWS
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, loss = make_model(small).to(device), loss_of(small)
    tokens = min(PROBE_LENGTH, positions_of(config))
    one = BatchShape(1, tokens, tokens if config.is_encoder_decoder else None, tokens // 8)

    def train(batch: dict[str, Tensor]) -> None:
        with autocast(device, arithmetic):
            total = loss(model, **batch)
        total.backward()

    with PassFlops() as counter:
        train(make_batch(one, device))
    documents = int(min(MOST, max(FEWEST, PROBE_FLOPS / counter.once)))
    work = partial(train, make_batch(one.scaled(documents), device))
    speed = _per_second(work) * documents * counter.once
    return Probe(speed, bytes_per_second(), machine.available_bytes(), baseline_bytes)


def baseline_bytes() -> int:
    """What a process has resident that has imported what stages import, and has no model yet."""
    missing = "transformers.trainer" not in sys.modules and not torch.cuda.is_available()
    return machine.resident_bytes() + missing * TRAINER_BYTES


@cache
def bytes_per_second() -> float:
    """Bytes that a copy of a large block reads and writes."""
    block = torch.ones(BLOCK, device="cuda" if torch.cuda.is_available() else "cpu")
    there = torch.empty_like(block)
    return 2 * BYTES * BLOCK * _per_second(lambda: there.copy_(block))


def _per_second(work: Callable[[], Any]) -> float:
    """How often a quiet machine does something in a second."""
    if torch.cuda.is_available():
        return 1 / _fastest(work, time.perf_counter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shared_out = threads**SHARED_OUT / _fastest(work, time.thread_time)
    torch.set_num_threads(threads)
    if os.getloadavg()[0] > machine.cores():  # then threads would wait for each other, and the clock tell nothing
        return shared_out
    return max(shared_out, 1 / _fastest(work, time.perf_counter))


def _fastest(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of some runs, by a clock."""
    best, runs, ends = float("inf"), 0, time.perf_counter() + PROBE_SECONDS
    while runs < PROBE_RUNS or time.perf_counter() < ends:
        started = clock()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best, runs = min(best, clock() - started), runs + 1
    return best

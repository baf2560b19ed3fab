"""What of the machine a job gets: threads by its model's size, memory by `check`'s estimates, a device of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from polygraft import machine
from polygraft.checks.models import open_models
from polygraft.checks.needs import SAFE_SHARE, Need
from polygraft.checks.stages import Stages
from polygraft.recipe import Recipe

THREADS_PAY = 20_000_000  # parameters of a model from which on two threads are worth more than one (docs/scale.md)
DEVICES = "CUDA_VISIBLE_DEVICES"


def estimate(arms: Mapping[str, Recipe]) -> dict[str, dict[str, Need]]:
    """Return the needs of each arm's stages by name.

    Raises:
        PolygraftError: checkpoints or data that cannot be used.
    """
    estimated = Stages(open_models(arms))
    return {arm: {need.stage: need for need in estimated.of_arm(arm, recipe)} for arm, recipe in arms.items()}


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What a job takes while it runs."""

    threads: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Room:
    """What jobs share: `jobs` of them at most, each on one of the `devices` where there are any.

    Attributes:
        named_threads: what OMP_NUM_THREADS says that each job has.
    """

    jobs: int
    cores: int
    memory_bytes: int
    devices: tuple[str, ...] = ()
    named_threads: int | None = None

    @classmethod
    def here(cls, jobs: int | None, most: int) -> Room:
        """Look at this machine; without a number of jobs, as many as it has devices or else cores, `most` at most."""
        named = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(named) if named.isdecimal() else None
        cores, count = machine.cores(), torch.cuda.device_count()
        visible = os.environ.get(DEVICES) or ",".join(map(str, range(count)))
        return cls(
            jobs=min(most, jobs or count or max(1, cores // (threads or 1))),
            cores=cores,
            memory_bytes=0 if count else round(SAFE_SHARE * machine.available_bytes()),
            devices=tuple(visible.split(",")[:count]),
            named_threads=threads,
        )

    def portion(self, need: Need) -> Portion:
        """Return what a stage gets. Jobs of small models have one thread each; several would wait for one another."""
        if self.devices:  # each has one of its own, with its memory
            return Portion(threads=self.named_threads or max(1, self.cores // self.jobs), memory_bytes=0)
        beside = min(self.jobs, max(1, self.memory_bytes // need.memory_bytes))
        threads = max(1, self.cores // beside) if need.parameters >= THREADS_PAY else 1
        return Portion(threads=self.named_threads or threads, memory_bytes=need.memory_bytes)

    def lacks(self, portion: Portion, running: Iterable[Portion]) -> str | None:
        """Say what is too little for a job beside others; None if it can run. Alone it always can."""
        others = list(running)
        if not others:
            return None
        threads = max(self.cores, self.jobs * (self.named_threads or 1))
        if len(others) == self.jobs or portion.threads + sum(one.threads for one in others) > threads:
            return "cores"
        left = self.memory_bytes - sum(one.memory_bytes for one in others)
        if portion.memory_bytes > left:
            return (
                f"memory: it needs about {portion.memory_bytes / 1e9:.1f} GB, and {max(0, left) / 1e9:.1f} GB are left"
            )
        return None

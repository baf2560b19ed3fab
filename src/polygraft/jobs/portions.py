"""What of the machine a job gets: threads by its model's size, memory by `check`'s estimates, a device of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from polygraft import machine
from polygraft.checks.models import open_models
from polygraft.checks.needs import SAFE_SHARE, Need
from polygraft.checks.stages import Stages
from polygraft.jobs.calls import Portion
from polygraft.jobs.workers import DEVICES
from polygraft.recipe import Recipe

THREADS_PAY = 20_000_000  # parameters from which on two threads are taken to be worth more than one; not measured


def estimate(arms: Mapping[str, Recipe]) -> dict[str, dict[str, Need]]:
    """Return the needs of each arm's stages by name.

    Raises:
        PolygraftError: checkpoints or data that cannot be used.
    """
    estimated = Stages(open_models(arms))
    return {arm: {need.stage: need for need in estimated.of_arm(arm, recipe)} for arm, recipe in arms.items()}


@dataclass(frozen=True, kw_only=True)
class Room:
    """What jobs share: `jobs` of them at most, each on one of the `devices` where there are any.

    Attributes:
        widest: cores of the largest machine among them.
        named_threads: what OMP_NUM_THREADS says that each job has.
    """

    jobs: int
    cores: int
    widest: int
    memory_bytes: int
    devices: tuple[str, ...] = ()
    named_threads: int | None = None

    @classmethod
    def here(cls, jobs: int | None, most: int) -> Room:
        """Look at this machine; without a number of jobs, as many as it has devices or else cores, `most` at most."""
        threads = named_threads()
        cores, count = machine.cores(), torch.cuda.device_count()
        visible = os.environ.get(DEVICES) or ",".join(map(str, range(count)))
        return cls(
            jobs=min(most, jobs or count or max(1, cores // (threads or 1))),
            cores=cores,
            widest=cores,
            memory_bytes=0 if count else round(SAFE_SHARE * machine.available_bytes()),
            devices=tuple(visible.split(",")[:count]),
            named_threads=threads,
        )

    def portion(self, need: Need) -> Portion:
        """Return what a stage gets. Jobs of small models have one thread each; several would wait for one another."""
        if self.devices:  # each has one of its own, with its memory
            return Portion(threads=self.named_threads or self._threads(self.jobs), memory_bytes=0)
        beside = min(self.jobs, max(1, self.memory_bytes // need.memory_bytes))
        threads = self._threads(beside) if need.parameters >= THREADS_PAY else 1
        return Portion(threads=self.named_threads or threads, memory_bytes=need.memory_bytes)

    def _threads(self, jobs: int) -> int:
        """As many as each of so many jobs has cores."""
        return min(self.widest, max(1, self.cores // jobs))

    def has_cores(self, portion: Portion, beside: Sequence[Portion]) -> bool:
        """Whether one more job can run beside others."""
        threads = max(self.cores, self.jobs * (self.named_threads or 1))
        return len(beside) < self.jobs and portion.threads + sum(one.threads for one in beside) <= threads

    def memory_left(self, beside: Sequence[Portion]) -> int:
        """Return the bytes that jobs leave."""
        return max(0, self.memory_bytes - sum(one.memory_bytes for one in beside))


def named_threads() -> int | None:
    """Return what OMP_NUM_THREADS says."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() else None

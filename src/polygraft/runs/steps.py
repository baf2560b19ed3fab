"""A stage that is to be run, as it can be sent to any process, and arms as rows of such steps.

Who runs a step, where, and beside which others, is not decided here: `in_order` runs them one by one in this process,
jobs/ side by side in others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from polygraft.runs.records import Task, run_stage
from polygraft.settings import Running, Settings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage with all that it takes: run anywhere that has the same files, it does the same.

    `work` returns the stage's result; it is made of functions of modules, so that it can be pickled. The rest is what
    `run_stage` wants.
    """

    stage: str
    out_dir: Path
    settings: Settings
    inputs: Sequence[str | Settings | None]
    seed: int | None
    work: Callable[[], dict[str, Any]]
    running: Running

    @property
    def name(self) -> str:
        """What people call it: direct/seed-1/finetune."""
        return "/".join(self.out_dir.parts[-3:])

    def task(self) -> Task:
        """Take the fingerprints of its inputs, which must be there."""
        return Task.of(self.stage, self.settings, self.inputs, self.seed, self.running.data_seed)

    def run(self) -> dict[str, Any]:
        """Run it unless its result is there already; returns its record."""
        return run_stage(
            self.stage, self.out_dir, self.settings, self.inputs, self.seed, self.work, running=self.running
        )  # fmt: skip


Steps = Generator[Step, dict[str, Any], T]
"""Steps that follow from one another: each is asked for with the record of the one before."""


def in_order(steps: Steps[T]) -> T:
    """Run steps one after the other in this process."""
    try:
        step = next(steps)
        while True:
            step = steps.send(step.run())
    except StopIteration as end:
        return end.value

"""Where the chains of a recipe stand: which step comes next, which are the same, what is left of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraft.checks.needs import Need
from polygraft.recipe import Recipe
from polygraft.runs.records import is_done
from polygraft.runs.steps import Step, Steps

LOG = "log.txt"


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """Steps that follow from one another: an arm with a seed.

    Attributes:
        rank: chains of a lower one are begun first, whatever they take.
        arm, recipe: whose needs its steps have.
        stages: the names of those that it will come to, in order.
        folder: of its results, and of the file that takes what is said on the way.
    """

    rank: int
    arm: str
    recipe: Recipe
    stages: Sequence[str]
    folder: Path
    steps: Steps[Any]

    @property
    def name(self) -> str:
        """What people call it: direct/seed-1."""
        return "/".join(self.folder.parts[-2:])

    @property
    def log(self) -> Path:
        return self.folder / LOG


class Course:
    """A chain on its way: `step` comes next, None at the end; what failed has an `error` and no next step."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.step: Step | None = None
        self.fingerprint = ""
        self.result: Any = None
        self.error: Exception | None = None

    def begin(self) -> None:
        """Go to the first step whose result is not there."""
        self._follow(lambda: next(self.chain.steps))

    def go_on(self, record: dict[str, Any]) -> None:
        """Go to the next such step, from the record of the one before."""
        self._follow(lambda: self.chain.steps.send(record))

    def look_again(self) -> None:
        """Go on if the result of its step is there by now."""
        if (step := self.step) is not None:
            self._follow(lambda: step)

    def _follow(self, ask: Callable[[], Step]) -> None:
        try:
            self.step = ask()
            while self._is_there(self.step):
                self.step = self.chain.steps.send(self.step.run())
        except StopIteration as end:
            self.step, self.result = None, end.value
        except Exception as error:
            self.fail(error)

    def _is_there(self, step: Step) -> bool:
        task = step.task()
        self.fingerprint = task.fingerprint
        return is_done(step.out_dir, task)

    def run_here(self) -> None:
        """Run what is left in this process."""
        while self.step is not None:
            self.go_on(self.step.run())

    def fail(self, error: Exception) -> None:
        """End it: nothing that comes after a step can be without it."""
        self.step, self.error = None, error

    def seconds_left(self, needs: Mapping[str, Mapping[str, Need]]) -> float:
        """Estimate how long it has yet to run."""
        stages = list(self.chain.stages)
        if self.step is None or self.step.stage not in stages:
            return 0.0
        return sum(self.seconds_of(stage, needs) for stage in stages[stages.index(self.step.stage) :])

    def seconds_of(self, stage: str, needs: Mapping[str, Mapping[str, Need]]) -> float:
        """Estimate how long a stage takes: one second where that cannot be told, none beside the chain's stages."""
        need = needs.get(self.chain.arm, {}).get(stage)
        known = need.seconds if need else None
        return 0.0 if stage not in self.chain.stages else 1.0 if known is None else known

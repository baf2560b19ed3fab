"""Arms and seeds side by side: each chain's next step is a job of a process of its own, as far as the machine has room.

Which stages are the same is told by their fingerprints once their inputs are there: the first computes, the others wait
for it and share its result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from polygraft.checks.needs import Need
from polygraft.jobs.courses import LOG, Chain, Course
from polygraft.jobs.dispatcher import Dispatcher, describe
from polygraft.jobs.portions import DEVICES, Room, estimate
from polygraft.jobs.workers import Call, Ended, Workers
from polygraft.progress import Overview
from polygraft.recipe import Recipe
from polygraft.runs.steps import in_order


def run_chains(chains: Sequence[Chain], jobs: int | None, folder: Path) -> list[Any]:
    """Run chains of steps, `jobs` side by side (None: what the machine has room for); returns what each returns.

    With one job, or as one of the processes of a launcher (torchrun), they run one after the other in this process.

    Args:
        folder: of the recipe's results.

    Raises:
        PolygraftError, OSError: the first error; side by side the other chains have gone on to their ends.
    """
    if jobs == 1 or "WORLD_SIZE" in os.environ:
        return [in_order(chain.steps) for chain in chains]
    courses = [Course(chain) for chain in chains]
    for course in courses:
        course.begin()
    left = [course for course in courses if course.step]
    room = Room.here(jobs, len(chains))  # not of those that are left: threads are the same when run again
    beside = jobs is None and room.jobs > 1 and not room.devices
    if beside and any(has_minutes(course.chain.recipe) for course in left):
        room = replace(room, jobs=1)
        _say("One job at a time, since a budget in minutes buys less beside others (--jobs changes that).")
    failures = _side_by_side(left, room, folder) if left and room.jobs > 1 else []
    for course in left:
        course.run_here()
    failures += [course.error for course in courses if course.error]
    if failures:
        raise failures[0]
    return [course.result for course in courses]


def _side_by_side(courses: Sequence[Course], room: Room, folder: Path) -> list[Exception]:
    """Run the courses in workers; returns what failed, in order. Where needs cannot be told they run one by one."""
    count = min(room.jobs, len(courses))
    environments = [{DEVICES: room.devices[n % len(room.devices)]} if room.devices else {} for n in range(count)]
    _say(f"Jobs: {count} side by side; what each says is in {folder}/<arm>/seed-<n>/{LOG}.")
    with Workers(environments) as workers:
        needs = _needs(workers, courses, folder / LOG)
        dispatcher = Dispatcher(courses, needs, room if needs else replace(room, jobs=1))
        with Overview(folder.name) as view:
            dispatcher.run(workers, view)
        return dispatcher.failures


def _needs(workers: Workers, courses: Sequence[Course], log: Path) -> Mapping[str, Mapping[str, Need]]:
    """Have a worker estimate what stages need, which loads much that this process can do without."""
    arms = {course.chain.arm: course.chain.recipe for course in courses}
    workers.call(Call(function=partial(estimate, arms), threads=1, log=log))
    while True:
        for _, said in workers.hear():
            if isinstance(said, Ended) and said.error:
                _say(f"What jobs need cannot be told, so they run one by one: {describe(said.error)}")
            if isinstance(said, Ended):
                return said.value or {}


def has_minutes(recipe: Recipe) -> bool:
    """Whether a budget of a recipe is a time by the clock."""
    sections = (recipe.adapt, recipe.transfer, recipe.warm_up, recipe.adapt_target, recipe.finetune)
    budgets = [recipe.adaptation_budget, *(getattr(section, "budget", None) for section in sections)]
    return any(budget is not None and budget.unit == "minutes" for budget in budgets)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

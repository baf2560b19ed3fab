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
from polygraft.jobs import SideBySide
from polygraft.jobs.calls import Call, Ended, Portion
from polygraft.jobs.cluster import Cluster
from polygraft.jobs.courses import LOG, Chain, Course
from polygraft.jobs.dispatcher import Dispatcher, Launcher, describe
from polygraft.jobs.portions import Room, estimate
from polygraft.jobs.workers import Workers
from polygraft.progress import Overview
from polygraft.recipe import Recipe
from polygraft.runs.steps import in_order


def run_chains(chains: Sequence[Chain], how: SideBySide, folder: Path) -> list[Any]:
    """Run chains of steps, some side by side; returns what each returns.

    With one job, or as one of the processes of torchrun, they run one after the other in this process.

    Args:
        folder: of the recipe's results.

    Raises:
        PolygraftError, OSError: the first error; side by side the other chains have gone on to their ends.
    """
    if "WORLD_SIZE" in os.environ or (how.jobs == 1 and how.launcher == "local"):
        return [in_order(chain.steps) for chain in chains]
    courses = [Course(chain) for chain in chains]
    for course in courses:
        course.begin()
    left = [course for course in courses if course.step]
    failures = _run_left(left, how, len(chains), folder) if left else []
    failures += [course.error for course in courses if course.error]
    if failures:
        raise failures[0]
    return [course.result for course in courses]


def _run_left(courses: Sequence[Course], how: SideBySide, most: int, folder: Path) -> list[Exception]:
    """Run what is left of `most` chains, by whose number threads are shared out, as they will be when run again."""
    if how.launcher == "ray":
        with Cluster() as cluster:
            return _side_by_side(courses, cluster, _of_minutes(cluster.room(how.jobs, most), courses, how), folder)
    room = _of_minutes(Room.here(how.jobs, most), courses, how)
    if room.jobs == 1:
        for course in courses:
            course.run_here()
        return []
    with Workers(min(room.jobs, len(courses)), room.devices) as workers:
        return _side_by_side(courses, workers, room, folder)


def _of_minutes(room: Room, courses: Sequence[Course], how: SideBySide) -> Room:
    """The room; for one job where a budget is in minutes that several would share out unequally."""
    if how.jobs or room.jobs == 1 or room.devices or not any(has_minutes(course.chain.recipe) for course in courses):
        return room
    _say("One job at a time, since a budget in minutes buys less beside others (--jobs changes that).")
    return replace(room, jobs=1)


def _side_by_side(courses: Sequence[Course], launcher: Launcher, room: Room, folder: Path) -> list[Exception]:
    """Have courses run; returns what failed, in order. Where needs cannot be told they run one by one."""
    count = min(room.jobs, len(courses))
    _say(f"Jobs: {count} side by side; what each says is in {folder}/<arm>/seed-<n>/{LOG}.")
    needs = _needs(launcher, courses, folder / LOG)
    dispatcher = Dispatcher(courses, needs, room if needs else replace(room, jobs=1))
    with Overview(folder.name) as view:
        dispatcher.run(launcher, view)
    return dispatcher.failures


def _needs(launcher: Launcher, courses: Sequence[Course], log: Path) -> Mapping[str, Mapping[str, Need]]:
    """Have a worker estimate what stages need, which loads much that this process can do without."""
    arms = {course.chain.arm: course.chain.recipe for course in courses}
    launcher.call(Call(function=partial(estimate, arms), portion=Portion(threads=1, memory_bytes=0), log=log))
    while True:
        for _, said in launcher.hear():
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

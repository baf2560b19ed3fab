"""Who gives out jobs: a chain's next step as soon as there is room for it, and tells how far all of them are."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from polygraft.checks.needs import Need
from polygraft.errors import PolygraftError
from polygraft.jobs.calls import Call, Ended, Portion
from polygraft.jobs.courses import Course
from polygraft.jobs.portions import THREADS_PAY, Room
from polygraft.progress import Overview
from polygraft.runs.steps import Step

UNKNOWN = Need(
    stage="", parameters=THREADS_PAY, memory_bytes=1, disk_bytes=0, disk_peak_bytes=0, seconds=None, flops=None
)  # fmt: skip


class Launcher(Protocol):
    """What has processes for jobs: those of this machine (workers.py), a cluster's (cluster.py)."""

    def call(self, call: Call) -> Hashable:
        """Have something done; returns a name for it."""

    def hear(self) -> list[tuple[Hashable, float | Ended]]:
        """Wait a moment; returns what was heard of each: the share that is done, or what it came to."""


@dataclass(kw_only=True)
class Job:
    """A step that runs, by estimate for so many seconds; `share` of it is done."""

    course: Course
    step: Step
    portion: Portion
    seconds: float
    share: float = 0.0


class Dispatcher:
    """Gives the steps of all courses to a launcher, until none is left or can be run."""

    def __init__(self, courses: Sequence[Course], needs: Mapping[str, Mapping[str, Need]], room: Room) -> None:
        self.courses, self.needs, self.room = courses, needs, room
        self.running: dict[Hashable, Job] = {}
        self.failed: dict[str, Exception] = {}  # by fingerprint
        self.failures: list[Exception] = []  # each once, the first one first
        self.told: set[str] = set()  # of which steps it was said that they wait
        self.seconds_done = 0.0

    def run(self, launcher: Launcher, view: Overview) -> None:
        """Run all that can be run; courses that fail have their error."""
        self._start(launcher)
        while self.running:
            for place, said in launcher.hear():
                if isinstance(said, Ended):
                    self._end(self.running.pop(place), said)
                else:
                    self.running[place].share = said
            self._start(launcher)
            view.show(self._share(), {job.step.name: job.share for job in self.running.values()})

    def _start(self, launcher: Launcher) -> None:
        """Start what there is room for: the first seeds before the others, of a seed what has longest to go."""

        def order(course: Course) -> tuple[int, float]:
            return course.chain.rank, -course.seconds_left(self.needs)

        busy = {job.course for job in self.running.values()}
        for course in sorted((one for one in self.courses if one.step and one not in busy), key=order):
            if course.fingerprint in self.failed:
                course.fail(self.failed[course.fingerprint])
            elif course.step and not any(course.fingerprint == job.course.fingerprint for job in self.running.values()):
                self._start_one(course, course.step, launcher)

    def _start_one(self, course: Course, step: Step, launcher: Launcher) -> None:
        portion = self.room.portion(self._need(course, step))
        if not self._has_room(step, portion):
            return
        _say(f"== {step.name}")
        call = Call(function=step.run, portion=portion, log=course.chain.log)
        seconds = course.seconds_of(step.stage, self.needs)
        self.running[launcher.call(call)] = Job(course=course, step=step, portion=portion, seconds=seconds)

    def _has_room(self, step: Step, portion: Portion) -> bool:
        """Whether a job can run beside those that do, as alone it always can; says it once where memory is short."""
        beside = [job.portion for job in self.running.values()]
        if not beside:
            return True
        if not self.room.has_cores(portion, beside):
            return False
        left = self.room.memory_left(beside)
        if portion.memory_bytes > left and step.name not in self.told:
            self.told.add(step.name)
            needed, free = portion.memory_bytes / 1e9, left / 1e9
            _say(f"{step.name} waits for memory: it needs about {needed:.1f} GB, and {free:.1f} GB are left.")
        return portion.memory_bytes <= left

    def _need(self, course: Course, step: Step) -> Need:
        """What a step needs; one that is not estimated needs what its arm's hungriest stage does."""
        needs = self.needs.get(course.chain.arm, {})
        hungriest = max(needs.values(), key=lambda need: need.memory_bytes, default=UNKNOWN)
        return needs.get(step.stage) or hungriest

    def _end(self, job: Job, ended: Ended) -> None:
        course, same = job.course, job.course.fingerprint
        if ended.error is not None:
            course.fail(ended.error)
            self.failed[same] = ended.error
            self._tell(course, job.step.name)
            return
        self.seconds_done += job.seconds
        course.go_on(ended.value)
        for other in self.courses:
            if other.step and other.fingerprint == same:
                other.look_again()
            if other.error:
                self._tell(other, other.chain.name)

    def _tell(self, course: Course, name: str) -> None:
        """Say once what failed."""
        if course.error is not None and course.error not in self.failures:
            self.failures.append(course.error)
            course.error.add_note(f"What was said on the way: {course.chain.log}")
            _say(f"{name} failed; the others go on. {describe(course.error)}\nWhat it said: {course.chain.log}")

    def _share(self) -> float:
        """The share of all that is to be done, by the estimated times: these need only be right beside each other."""
        left = sum(course.seconds_left(self.needs) for course in self.courses)
        whole, running = self.seconds_done + left, sum(job.share * job.seconds for job in self.running.values())
        return (self.seconds_done + running) / whole if whole else 0.0


def describe(error: Exception) -> str:
    """The error in words, its kind too where it is none of ours."""
    return str(error) if isinstance(error, PolygraftError) else f"{type(error).__name__}: {error}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

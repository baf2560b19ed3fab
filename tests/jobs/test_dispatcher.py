"""What runs when: steps with what they follow from done, within cores and memory, equal ones once, failures told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polygraft.checks.needs import Need
from polygraft.errors import DataError, PolygraftError
from polygraft.jobs import SideBySide, together
from polygraft.jobs.calls import Ended, Portion
from polygraft.jobs.courses import Chain, Course
from polygraft.jobs.dispatcher import Dispatcher
from polygraft.jobs.portions import Room
from polygraft.progress import Overview
from polygraft.recipe.reading import parse_recipe
from polygraft.runs.records import read_record
from polygraft.runs.steps import Step
from polygraft.settings import Evaluate, Running

GB = 10**9
STAGES = ("transfer", "finetune", "evaluate")


def need(stage, *, seconds=1.0, memory=1, parameters=1000):
    return Need(
        stage=stage, parameters=parameters, memory_bytes=memory, disk_bytes=0, disk_peak_bytes=0, seconds=seconds,
        flops=None,
    )  # fmt: skip


class Hands:
    """Workers that do a call when they are heard, the one that was begun first before the others."""

    def __init__(self):
        self.calls, self.most, self.count = {}, 0, 0

    def call(self, call):
        self.count += 1
        self.calls[self.count] = call
        self.most = max(self.most, len(self.calls))
        return self.count

    def hear(self):
        worker = min(self.calls)
        call = self.calls.pop(worker)
        try:
            return [(worker, Ended(value=call.function()))]
        except Exception as error:
            return [(worker, Ended(error=error))]


class World:
    """Arms of trivial stages; `ran` has the steps that did something, in order."""

    def __init__(self, folder):
        self.folder, self.ran = folder, []

    def chain(self, arm, seed=1, *, rank=0, fails=None, **settings):
        folder = self.folder / arm / f"seed-{seed}"

        def work(stage):
            if stage == fails:
                raise DataError(f"{stage} is bad")
            self.ran.append(f"{arm}/{seed}/{stage}")
            return {"value": arm}

        def steps():
            for stage in STAGES:
                numbers = seed if stage != "transfer" else None  # a transfer that all seeds share
                yield Step(
                    stage=stage, out_dir=folder / stage, settings=Evaluate(**settings), inputs=[], seed=numbers,
                    work=lambda stage=stage: work(stage), running=Running(),
                )  # fmt: skip
            return arm

        return Chain(rank=rank, arm=arm, recipe=None, stages=STAGES, folder=folder, steps=steps())

    def run(self, chains, needs=None, **room):
        self.ran.clear()
        courses = [Course(chain) for chain in chains]
        for course in courses:
            course.begin()
        arms = {chain.arm: {stage: need(stage) for stage in STAGES} | (needs or {}) for chain in chains}
        dispatcher = Dispatcher(courses, arms, Room(**{"jobs": 2, "cores": 2, "widest": 2, "memory_bytes": GB} | room))
        self.hands = Hands()
        with Overview("r") as view:
            dispatcher.run(self.hands, view)
        return courses, dispatcher


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "out" / "r")


def test_each_step_follows_those_before_it_and_first_seeds_come_first(world):
    chains = [world.chain(arm, seed, rank=seed, num_beams=n) for seed in (1, 2) for n, arm in enumerate("abc", 1)]
    courses, _ = world.run(chains)
    assert [course.result for course in courses] == [*"abcabc"]
    for arm in "abc":
        for seed in (1, 2):
            mine = [name for name in world.ran if name.startswith(f"{arm}/{seed}/")]
            assert mine == [f"{arm}/{seed}/{stage}" for stage in STAGES if (stage, seed) != ("transfer", 2)]
    assert world.hands.most == 2
    first = max(place for place, name in enumerate(world.ran) if "/1/" in name)
    assert all("/2/" in name for name in world.ran[first + 1 :])
    assert sum("/2/" in name for name in world.ran[:first]) <= 2, "only where the first seed leaves a core idle"
    chains = [world.chain(arm, seed, rank=seed, num_beams=n) for seed in (1, 2) for n, arm in enumerate("abc", 1)]
    assert [course.result for course in world.run(chains)[0]] == [*"abcabc"]
    assert world.ran == [], "nothing is done twice"


def test_the_longest_is_begun_first(world):
    short, long = world.chain("short", num_beams=1), world.chain("long", num_beams=2)
    courses = [Course(short), Course(long)]
    for course in courses:
        course.begin()
    needs = {arm: {stage: need(stage, seconds=s) for stage in STAGES} for arm, s in (("short", 1.0), ("long", 2.0))}
    with Overview("r") as view:
        Dispatcher(courses, needs, Room(jobs=1, cores=1, widest=1, memory_bytes=GB)).run(Hands(), view)
    left_then = ["long 6", "long 4", "short 3", "short 2, and long 2", "long 2", "short 1"]
    assert [name.split("/")[0] for name in world.ran] == [left.split()[0] for left in left_then]


def test_equal_stages_are_computed_once_and_shared(world):
    courses, _ = world.run([world.chain("one"), world.chain("twin"), world.chain("third", seed=2)])
    assert world.ran == ["one/1/transfer", "one/1/finetune", "third/2/finetune", "one/1/evaluate", "third/2/evaluate"]
    assert all(course.result for course in courses)
    for stage in STAGES:
        records = [read_record(world.folder / arm / "seed-1" / stage) for arm in ("one", "twin")]
        assert records[0] == records[1]


def test_what_fails_ends_its_chain_and_those_that_are_the_same(world, capsys):
    chains = [world.chain("bad", fails="finetune"), world.chain("same", fails="finetune"), world.chain("good", 2)]
    courses, dispatcher = world.run(chains)
    assert [course.result for course in courses] == [None, None, "good"]
    (error,) = dispatcher.failures
    assert isinstance(error, DataError)
    assert courses[0].error is courses[1].error is error
    log = world.folder / "bad" / "seed-1" / "log.txt"
    assert error.__notes__ == [f"What was said on the way: {log}"]
    said = capsys.readouterr().err
    assert said.count(f"bad/seed-1/finetune failed; the others go on. finetune is bad\nWhat it said: {log}\n") == 1
    assert "same/seed-1/finetune" not in said


def test_what_fails_between_steps_ends_its_chain(world, capsys):
    def steps(chain):
        yield next(chain.steps)
        raise PolygraftError("nothing is left for it")

    chain = world.chain("spent")
    chain = replace(chain, steps=steps(chain))
    courses, dispatcher = world.run([chain, world.chain("good", num_beams=2)])
    assert courses[1].result == "good"
    assert [str(error) for error in dispatcher.failures] == ["nothing is left for it"]
    assert "spent/seed-1 failed; the others go on. nothing is left for it" in capsys.readouterr().err


def test_two_that_do_not_fit_run_one_after_the_other_and_it_is_said(world, capsys):
    large = {"finetune": need("finetune", memory=600_000_000)}
    world.run([world.chain("a", num_beams=1), world.chain("b", num_beams=2)], large)
    said = capsys.readouterr().err
    told = "b/seed-1/finetune waits for memory: it needs about 0.6 GB, and 0.4 GB are left.\n"
    assert said.count(told) == 1
    at_once = {"finetune": need("finetune", memory=500_000_000)}
    world.run([world.chain("c", num_beams=3), world.chain("d", num_beams=4)], at_once)
    assert "waits" not in capsys.readouterr().err
    too_large = {"finetune": need("finetune", memory=2 * GB)}  # alone it is tried, as ever
    assert world.run([world.chain("e", num_beams=5)], too_large)[0][0].result == "e"


SMALL, LARGE = need("finetune", memory=GB), need("finetune", memory=6 * GB, parameters=560_000_000)
PORTIONS = [  # jobs, cores, memory in GB, OMP_NUM_THREADS: threads of a small model's job, of a large one's
    (2, 2, 16, None, 1, 1),
    (2, 2, 8, None, 1, 2),  # only one fits at a time: it has all cores
    (3, 16, 64, None, 1, 5),
    (9, 4, 64, None, 1, 1),
    (2, 8, 64, 3, 3, 3),
]


@pytest.mark.parametrize(("jobs", "cores", "memory", "named", "small", "large"), PORTIONS)
def test_threads_by_the_size_of_the_model(jobs, cores, memory, named, small, large):
    room = Room(jobs=jobs, cores=cores, widest=cores, memory_bytes=memory * GB, named_threads=named)
    assert room.portion(SMALL) == Portion(threads=small, memory_bytes=GB)
    assert room.portion(LARGE) == Portion(threads=large, memory_bytes=6 * GB)


def test_a_device_each():
    room = Room(jobs=4, cores=16, widest=16, memory_bytes=GB, devices=("0", "1", "2", "3"))
    portion = room.portion(LARGE)
    assert portion == Portion(threads=4, memory_bytes=0), "a device's memory is not shared"
    assert [room.has_cores(portion, [portion] * n) for n in range(5)] == [True] * 4 + [False]


BESIDE = [  # jobs, cores, what runs (threads, GB), threads of another: whether there are cores, GB that are left
    (2, 2, [(1, 4)], 1, True, 6),
    (2, 2, [(1, 4), (1, 7)], 1, False, 0),
    (2, 2, [(2, 4)], 1, False, 6),
    (2, 4, [(2, 4)], 2, True, 6),
    (4, 2, [(1, 0)] * 3, 1, True, 10),  # more jobs than cores were asked for
]


@pytest.mark.parametrize(("jobs", "cores", "running", "threads", "fits", "left"), BESIDE)
def test_what_there_is_beside_others(jobs, cores, running, threads, fits, left):
    room = Room(jobs=jobs, cores=cores, widest=cores, memory_bytes=10 * GB)
    beside = [Portion(threads=of, memory_bytes=size * GB) for of, size in running]
    assert room.has_cores(Portion(threads=threads, memory_bytes=0), beside) == fits
    assert room.memory_left(beside) == left * GB


def test_as_many_jobs_as_cores_or_as_are_named(monkeypatch):
    monkeypatch.setattr("polygraft.machine.cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for threads, asked, most, jobs in ((None, None, 20, 8), (None, None, 3, 3), ("2", None, 20, 4), (None, 12, 20, 12)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert Room.here(asked, most).jobs == jobs
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    found = Room.here(None, 20)
    assert (found.jobs, found.devices) == (2, ("GPU-a", "GPU-b"))


MINUTES = ({"adapt": {"budget": {"minutes": 1}}}, {"finetune": {"budget": {"minutes": 0.5}}})


@pytest.mark.parametrize("changes", MINUTES)
def test_a_budget_in_minutes_is_not_shared_unless_asked(world, base_data, capsys, monkeypatch, changes):
    monkeypatch.setattr(together.Workers, "__init__", lambda *_: pytest.fail("processes"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("polygraft.machine.cores", lambda: 2)
    recipe = parse_recipe(base_data | changes, "r")
    chains = [replace(world.chain(arm, num_beams=n), recipe=recipe) for n, arm in enumerate("ab", 1)]
    assert together.run_chains(chains, SideBySide(None), world.folder) == ["a", "b"]
    assert capsys.readouterr().err.count("One job at a time, since a budget in minutes buys less beside others") == 1
    assert not together.has_minutes(parse_recipe(base_data, "r"))
    again = [replace(world.chain(arm, 2), recipe=recipe) for arm in "ab"]
    with pytest.raises(pytest.fail.Exception, match="processes"):
        together.run_chains(again, SideBySide(2), world.folder)

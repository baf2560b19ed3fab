"""Jobs in real processes: what they leave is what one process leaves, bit by bit; nothing of them outlives the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from polygraft import pipeline
from polygraft.diagnosis import run as diagnose
from polygraft.errors import CheckpointError
from polygraft.recipe.reading import dump_recipe, parse_recipe
from polygraft.runs.records import read_record

TIMES = {"seconds", "train_seconds", "started", "peak_memory_bytes", "part_started", "minutes", "machine"}


@pytest.fixture
def study(tiny_study, monkeypatch):
    """Three arms, two seeds; the transfer of `direct` depends on no seed, since nothing is held out at random."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    short = tiny_study["finetune"]
    tiny_study["text"]["validation_file"] = tiny_study["text"]["train_file"]
    arms = {
        "plain": {},
        "direct": {"transfer": {"mode": "recentre"}, "adapt_target": short},
        "detour": {"adapt": short, "transfer": {"mode": "repair"}, "adapt_target": short},
    }
    return tiny_study | {"arms": arms, "seeds": [1, 2], "verdict": {"treatment": "detour", "control": "direct"}}


def run(data, jobs):
    recipe = parse_recipe(data, "test")
    return pipeline.run(recipe, recipe_text=dump_recipe(recipe), jobs=jobs)


def untimed(value):
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in TIMES}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def results(folder: Path) -> dict:
    """All that a run leaves in its stages' folders, times aside."""
    found = {}
    for path in sorted(folder.glob("*/seed-*/*/**/*")):
        if path.is_file():
            name = str(path.relative_to(folder))
            found[name] = path.read_bytes()
            if path.name == "metrics.jsonl":
                found[name] = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
            elif path.suffix == ".json":
                found[name] = untimed(json.loads(path.read_text()))
            elif path.name == "README.md":
                del found[name]  # says how long it took
    return found


TWINS = {"plain": None, "direct": {"transfer": {"mode": "recentre"}}, "twin": {"transfer": {"mode": "recentre"}}}


@pytest.mark.parametrize(
    ("changes", "seeds", "models", "transfers"),
    [(TWINS, [1], 2 + 2 + 4, 2), pytest.param({}, [1, 2], 2 * (1 + 3 + 4), 1 + 2, marks=pytest.mark.slow)],
    ids=["twins", "seeds"],
)
def test_two_jobs_leave_what_one_process_leaves(study, tmp_path, capsys, changes, seeds, models, transfers):
    arms = {arm: how for arm, how in (study["arms"] | changes).items() if how is not None}
    study |= {"arms": arms, "seeds": seeds}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(study | {"output_dir": str(tmp_path / "one")}, jobs=1)
    finally:
        torch.set_num_threads(threads)
    capsys.readouterr()
    study["output_dir"] = str(tmp_path / "two")
    found = run(study, jobs=2)
    one, two = results(tmp_path / "one" / "tiny"), results(tmp_path / "two" / "tiny")
    assert len([name for name in one if name.endswith("/model.safetensors")]) == models
    assert list(one) == list(two)
    assert str(one).replace(f"{tmp_path}/one", f"{tmp_path}/two") == str(two)

    said = capsys.readouterr().err
    folder = tmp_path / "two" / "tiny"
    logs = "".join(path.read_text() for path in folder.glob("*/seed-*/log.txt"))
    assert logs.count("/transfer\n") == said.count("/transfer\n") == transfers, "what is the same is made once"
    assert len({path.stat().st_ino for path in folder.glob("*/seed-*/transfer/model.safetensors")}) == transfers
    assert "tiny: 100%" in said
    assert Path(found["report"]).is_file()

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed-*/*/stage.json")}
    run(study, jobs=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("needs_can_be_told", [True, False])
def test_an_arm_fails_and_the_others_go_on(study, tmp_path, capsys, needs_can_be_told):
    study["seeds"] = [1]
    study["arms"]["plain"] = {"finetune": study["finetune"] | {"learning_rate": 1e30}}
    if not needs_can_be_told:
        study["arms"]["worse"] = {"pairs": study["pairs"] | {"test_file": str(tmp_path / "none.jsonl")}}
    with pytest.raises(CheckpointError, match="training diverged"):
        run(study, jobs=2)
    said = capsys.readouterr().err
    assert ("run one by one: " in said) != needs_can_be_told
    assert ("worse/seed-1 failed; the others go on. " in said) != needs_can_be_told
    folder = tmp_path / "out" / "tiny"
    assert "plain/seed-1/finetune failed; the others go on. training diverged" in said
    assert f"What it said: {folder / 'plain' / 'seed-1' / 'log.txt'}" in said
    assert "Traceback" in (folder / "plain" / "seed-1" / "log.txt").read_text()
    for arm in ("direct", "detour"):
        assert read_record(folder / arm / "seed-1" / "evaluate")["status"] == "done"
    assert not (folder / "verdict.json").exists()


@pytest.mark.slow
def test_diagnose_side_by_side(study, tmp_path):
    torch.set_num_threads(1)
    found = [diagnose(parse_recipe(study | {"output_dir": str(tmp_path / n)}, n), int(n)) for n in ("1", "2")]
    aside = {"report", "machine"}
    one, two = ({key: value for key, value in untimed(each).items() if key not in aside} for each in found)
    assert one == two


def start(study, tmp_path, *options):
    """The command in a process group of its own, as a shell starts it."""
    (tmp_path / "r.yaml").write_text(json.dumps(study))
    return subprocess.Popen(
        [sys.executable, "-m", "polygraft", "run", str(tmp_path / "r.yaml"), "--jobs", "2", *options],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def children(process) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def long_study(study):
    """Two chains whose fine-tuning takes long, with checkpoints far apart: only being stopped saves one."""
    long = study["finetune"] | {"budget": {"steps": 3000}, "save_steps": 100000, "eval_steps": 100000}
    return study | {"arms": {"a": {"finetune": long}, "b": {"finetune": long | {"learning_rate": 1e-4}}}, "seeds": [1],
                    "verdict": None}  # fmt: skip


def training(folder: Path, arm: str) -> bool:
    return (folder / arm / "seed-1" / "finetune" / "metrics.jsonl").exists()


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/seed-1/finetune/checkpoints/checkpoint-*"))


ENDS = {  # what is sent to whom: exit code
    "Ctrl-C": (signal.SIGINT, os.killpg, 130),
    "SIGTERM": (signal.SIGTERM, os.kill, 143),
    "SIGKILL": (signal.SIGKILL, os.kill, -9),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_ended_it_leaves_no_process_and_goes_on(long_study, tmp_path, how):
    folder = tmp_path / "out" / "tiny"
    process = start(long_study, tmp_path)
    wait_for(lambda: training(folder, "a") and training(folder, "b"))
    workers = children(process)
    assert len(workers) == 2
    number, send, code = ENDS[how]
    send(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    wait_for(lambda: all(map(gone, workers)))
    assert len(checkpoints(folder)) == 2, "both saved where they were"
    steps = {path.parents[1]: int(path.name.split("-")[1]) for path in checkpoints(folder)}
    if how != "SIGKILL":
        assert "Run the same command again to resume" in said
        assert "Traceback" not in said

    for arm in ("a", "b"):  # the rest is short, for the test's sake: what was done is more than one step
        assert steps[folder / arm / "seed-1" / "finetune"] > 1
    process = start(long_study, tmp_path)
    wait_for(lambda: len(checkpoints(folder)) == 2 and all(map(os.path.exists, steps)) and training(folder, "a"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    again = {path.parents[1]: int(path.name.split("-")[1]) for path in checkpoints(folder)}
    assert all(again[place] >= step for place, step in steps.items()), "it went on where it was"


@pytest.mark.slow
def test_a_killed_job_is_told_and_the_other_goes_on(long_study, tmp_path):
    folder = tmp_path / "out" / "tiny"
    long_study["arms"]["b"]["finetune"]["budget"] = {"steps": 60}
    process = start(long_study, tmp_path)
    wait_for(lambda: training(folder, "a"))
    log = folder / "a" / "seed-1" / "log.txt"
    (victim,) = [one for one in children(process) if os.readlink(f"/proc/{one}/fd/2") == str(log)]
    os.kill(victim, signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "a/seed-1/finetune failed; the others go on. its process was ended by SIGKILL, as where memory is" in said
    assert said.rstrip().endswith(f"What was said on the way: {log}")
    assert read_record(folder / "b" / "seed-1" / "evaluate")["status"] == "done"
    assert read_record(folder / "a" / "seed-1" / "finetune")["status"] == "running"

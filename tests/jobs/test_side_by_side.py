"""Jobs in real processes: what they leave is what one process leaves, bit by bit; nothing of them outlives the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polygraft.diagnosis import run as diagnose
from polygraft.errors import CheckpointError
from polygraft.jobs import SideBySide
from polygraft.recipe.reading import parse_recipe
from polygraft.runs.records import read_record


@pytest.fixture
def one_thread():
    """In this process; jobs have one each in any case, since the models are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TWINS = {"plain": None, "direct": {"transfer": {"mode": "recentre"}}, "twin": {"transfer": {"mode": "recentre"}}}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("changes", "seeds", "models", "transfers"),
    [(TWINS, [1], 2 + 2 + 4, 2), ({}, [1, 2], 2 * (1 + 3 + 4), 1 + 2)],
    ids=["twins", "seeds"],
)
def test_two_jobs_leave_what_one_process_leaves(
    study, run, results, tmp_path, capsys, changes, seeds, models, transfers
):
    arms = {arm: how for arm, how in (study["arms"] | changes).items() if how is not None}
    study |= {"arms": arms, "seeds": seeds}
    run(study | {"output_dir": str(tmp_path / "one")}, SideBySide(1))
    capsys.readouterr()
    study["output_dir"] = str(tmp_path / "two")
    found = run(study, SideBySide(2))
    folder = tmp_path / "two" / "tiny"
    assert len(list(folder.glob("*/*/*/model.safetensors"))) == models
    assert results(tmp_path / "one" / "tiny") == results(folder)

    said = capsys.readouterr().err
    logs = "".join(path.read_text() for path in folder.glob("*/seed-*/log.txt"))
    assert logs.count("/transfer\n") == said.count("/transfer\n") == transfers, "what is the same is made once"
    assert len({path.stat().st_ino for path in folder.glob("*/seed-*/transfer/model.safetensors")}) == transfers
    assert "tiny: 100%" in said
    assert Path(found["report"]).is_file()

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed-*/*/stage.json")}
    run(study, SideBySide(2))
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("needs_can_be_told", [True, False])
def test_an_arm_fails_and_the_others_go_on(study, run, tmp_path, capsys, needs_can_be_told):
    study["seeds"] = [1]
    study["arms"]["plain"] = {"finetune": study["finetune"] | {"learning_rate": 1e30}}
    if not needs_can_be_told:
        study["arms"]["worse"] = {"pairs": study["pairs"] | {"test_file": str(tmp_path / "none.jsonl")}}
    with pytest.raises(CheckpointError, match="training diverged"):
        run(study, SideBySide(2))
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
@pytest.mark.usefixtures("one_thread")
def test_diagnose_side_by_side(study, tmp_path, untimed):
    def found(jobs):
        data = study | {"output_dir": str(tmp_path / str(jobs))}
        all_of_it = untimed(diagnose(parse_recipe(data, "test"), SideBySide(jobs)))
        return {key: value for key, value in all_of_it.items() if key not in ("report", "machine")}

    assert found(1) == found(2)


def start(study, tmp_path):
    """The command in a process group of its own, as a shell starts it."""
    (tmp_path / "r.yaml").write_text(json.dumps(study))
    command = [sys.executable, "-m", "polygraft", "run", str(tmp_path / "r.yaml"), "--jobs", "2"]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def children(process) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/seed-1/finetune/checkpoints/checkpoint-*"))


ENDS = {  # what is sent to whom: exit code
    "Ctrl-C": (signal.SIGINT, os.killpg, 130),
    "SIGTERM": (signal.SIGTERM, os.kill, 143),
    "SIGKILL": (signal.SIGKILL, os.kill, -9),
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", ENDS)
def test_ended_it_leaves_no_process_and_goes_on(long_study, run, results, tmp_path, how, training, wait_for):
    folder = tmp_path / "out" / "tiny"
    process = start(long_study, tmp_path)
    wait_for(lambda: training(folder, "a") and training(folder, "b"))
    workers = children(process)
    assert len(workers) == 2
    number, send, code = ENDS[how]
    send(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert ("Run the same command again to resume" in said) == (how != "SIGKILL")
    assert "Traceback" not in said
    wait_for(lambda: all(map(gone, workers)))
    assert len(checkpoints(folder)) == 2, "both saved where they were"
    if how == "SIGKILL":  # the hardest; after the others it is no different
        run(long_study, SideBySide(2))
        logs = [(folder / arm / "seed-1" / "log.txt").read_text() for arm in ("a", "b")]
        assert all(log.count("/finetune\n") == 2 for log in logs)
        run(long_study | {"output_dir": str(tmp_path / "whole")}, SideBySide(1))
        assert results(tmp_path / "whole" / "tiny") == results(folder)


@pytest.mark.slow
def test_a_killed_job_is_told_and_the_other_goes_on(long_study, tmp_path, training, wait_for):
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

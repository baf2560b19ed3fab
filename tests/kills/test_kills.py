"""Ended anywhere, a stage goes on under the same command and ends as if nothing had happened, bit by bit.

POLYGRAFT_KILLS=20 python -m pytest tests/kills -m slow     what docs/reliability.md reports
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))  # the fork server imports it by name
import killed_work

KILLS = int(os.environ.get("POLYGRAFT_KILLS", "6"))
STAGES = ("adapt", "adapt_target", "finetune", "transfer", "distill", "evaluate")
INSIDE = ("open", "tensors", "written")  # a save
TRAINS = ("adapt", "adapt_target", "finetune", "distill")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, write_tiny_models, sentences):
    folder = tmp_path_factory.mktemp("kills")
    write_tiny_models(folder)
    shutil.copytree(folder / "xlmr", folder / "xlmr-tuned")
    torch.manual_seed(5)
    moved = {name: t + 0.01 * torch.randn_like(t) for name, t in load_file(folder / "xlmr/model.safetensors").items()}
    save_file(moved, folder / "xlmr-tuned" / "model.safetensors", metadata={"format": "pt"})
    (folder / "text.txt").write_text("\n".join(sentences * 2))
    rows = [{"text": f"{a} {b}"[:120], "summary": b} for a in sentences for b in sentences[:2]]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def server():
    """Processes that begin with everything imported; before Python 3.13 the server takes its path from here alone."""
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_work"])
    return context


@pytest.fixture
def run(server, inputs):
    """Runs a stage in a process of its own; gives back its exit code and what happened in it."""

    def _run(stage, out, end_at=None, how="", **changes):
        process = server.Process(target=killed_work.work, args=(stage, inputs, out, end_at, how, changes))
        process.start()
        process.join(timeout=120)
        assert not process.is_alive(), "it hangs"
        points = Path(f"{out}.points.json")
        found = json.loads(points.read_text()) if points.exists() else {"names": [], "steps": 0}
        points.unlink(missing_ok=True)
        return process.exitcode, found

    return _run


def result(out):
    """All that a stage leaves behind, but for times and what machines do not repeat."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    record = json.loads(found.pop("stage.json"))
    assert record["status"] == "done"
    numbers = {key: value for key, value in record["result"].items() if "seconds" not in key}
    lines = [json.loads(line) for line in found.pop("metrics.jsonl", b"").splitlines()]
    return found, numbers, [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def points_of(names, count, seed):
    """Draw points of killing: `count`, of them at least a quarter inside saves."""
    generator, count = random.Random(seed), min(count, len(names))
    inside = [n for n, name in enumerate(names) if name in INSIDE]
    chosen = set(generator.sample(inside, min(len(inside), -(-count // 4))))
    while len(chosen) < count:
        chosen.add(generator.randrange(len(names)))
    return sorted(chosen)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_and_run_again(run, tmp_path, stage):
    code, whole = run(stage, tmp_path / "whole")
    assert code == 0, Path(f"{tmp_path / 'whole'}.said").read_text()
    names = whole["names"]
    kinds, inside, twice, ended = ("SIGKILL", "torn", "SIGTERM", "SIGINT", "ENOSPC"), 0, 0, Counter()
    for number, place in enumerate(points_of(names, KILLS, seed=stage)):
        out, how = tmp_path / f"cut-{place}", kinds[number % len(kinds)]
        code, first = run(stage, out, place, how)
        expected = {"SIGKILL": -9, "torn": -9, "SIGTERM": 143, "SIGINT": 130, "ENOSPC": 1}[how]
        where = f"{stage}, point {place} of {len(names)} ({names[place]}), {how}"
        # a full disk while old things are cleared away is no matter
        assert code == expected or (how == "ENOSPC" and code == 0), where
        inside += names[place] in INSIDE
        ended[how] += 1
        if code:
            code, second = run(stage, out)
            assert code == 0, where
            if stage in TRAINS:
                done_twice = first["steps"] + second["steps"] - whole["steps"]
                most = 0 if how in ("SIGTERM", "SIGINT") else killed_work.INTERVAL
                assert 0 <= done_twice <= most, where
                twice = max(twice, done_twice)
        assert result(out) == result(tmp_path / "whole"), where
        left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert not left, where
    kills = ", ".join(f"{how} {number}" for how, number in ended.items())
    steps = f"{twice} of {whole['steps']}" if stage in TRAINS else "-"
    print(
        f"| {stage} | {len(names)} | {sum(ended.values())} of {min(KILLS, len(names))} | {inside} | {kills} | {steps} |"
    )


def test_no_memory_is_said_and_goes_on_with_more(run, tmp_path):
    run("adapt", tmp_path / "whole")
    for megabytes in (1, 20, 200):
        code, _ = run("adapt", tmp_path / "cut", megabytes * 2**20, "memory")
        assert code in (0, 1)
        if code:
            assert "out of memory" in Path(f"{tmp_path / 'cut'}.said").read_text()
    assert run("adapt", tmp_path / "cut")[0] == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB where one can be mounted (root, Linux)."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    with contextlib.suppress(OSError):
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield place if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("stage", ["adapt", "finetune"])
def test_a_full_disk_costs_nothing(run, tmp_path, small_disk, stage):
    """In 100 kB the rehearsal has no room: nothing is trained. In 1 MB no checkpoint has. Given room, it goes on."""
    if small_disk is None:
        return  # ENOSPC as such is among the points above
    code, found = run(stage, small_disk / "out")
    assert code == 1
    assert found["steps"] == 0
    assert "the disk is full" in Path(f"{small_disk / 'out'}.said").read_text()
    assert sorted(path.name for path in (small_disk / "out").rglob("*")) == ["stage.json"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    code, found = run(stage, small_disk / "out")
    assert code == 1
    assert found["steps"] > 0
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert run(stage, small_disk / "out")[0] == 0
    assert run(stage, tmp_path / "whole")[0] == 0
    assert result(small_disk / "out") == result(tmp_path / "whole")


def test_two_runs_in_one_folder(server, inputs, run, tmp_path):
    """The second is refused while the first lives; a dead one holds nothing."""
    code, whole = run("adapt", tmp_path / "out")
    place = whole["names"].index("step")
    first = server.Process(target=killed_work.work, args=("adapt", inputs, tmp_path / "held", place, "SIGSTOP", {}))
    first.start()
    while not (tmp_path / "held" / "stage.json").exists():
        first.join(0.05)
    code, found = run("adapt", tmp_path / "held")
    assert (code, found["steps"]) == (1, 0)
    assert "another run of polygraft is working in it" in Path(f"{tmp_path / 'held'}.said").read_text()
    first.kill()
    first.join()
    assert run("adapt", tmp_path / "held")[0] == 0
    assert result(tmp_path / "held") == result(tmp_path / "out")

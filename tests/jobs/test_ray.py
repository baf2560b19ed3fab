"""The same jobs on a cluster of Ray: a head without cores and two machines of one core each, all of them processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from polygraft.errors import RecipeError
from polygraft.jobs import SideBySide

SIZE = {"object_store_memory": 80 * 2**20}


@pytest.fixture
def cluster(monkeypatch) -> Iterator:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SIZE})
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_lost_machine_costs_nothing_but_time(cluster, long_study, run, results, tmp_path, training, wait_for):
    machines = [cluster.add_node(num_cpus=1, **SIZE) for _ in range(2)]
    for arm in ("a", "b"):
        long_study["arms"][arm]["finetune"] |= {"budget": {"steps": 600}, "save_steps": 100}
    (tmp_path / "r.yaml").write_text(json.dumps(long_study))
    process = subprocess.Popen(
        [sys.executable, "-m", "polygraft", "run", str(tmp_path / "r.yaml"), "--launcher", "ray", "--jobs", "2"],
        env=os.environ | {"RAY_ADDRESS": cluster.address}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "out" / "tiny"
    wait_for(lambda: training(folder, "a") and training(folder, "b"))
    cluster.remove_node(machines[0], allow_graceful=False)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    logs = [(folder / arm / "seed-1" / "log.txt").read_text() for arm in ("a", "b")]
    assert sorted(log.count("/finetune\n") for log in logs) == [1, 2], "one of the two was begun again"
    torch.set_num_threads(1)
    run(long_study | {"output_dir": str(tmp_path / "whole")}, SideBySide(1))
    assert results(tmp_path / "whole" / "tiny") == results(folder)


def test_without_ray_it_is_said(study, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"--launcher ray: Ray is not installed. Run `pip install 'polygraft\[ray"):
        run(study, SideBySide(None, "ray"))

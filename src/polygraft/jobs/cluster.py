"""Jobs on a cluster of Ray: whatever RAY_ADDRESS names, or this machine.

All its machines see the same files under the same names, and have this package. A job whose machine is lost is begun
again on another, where it goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Hashable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from polygraft.errors import PolygraftError, RecipeError
from polygraft.jobs.calls import ENVIRONMENT, Call, Ended, answer
from polygraft.jobs.portions import Room, named_threads
from polygraft.training.stopping import Stopped

RETRIES = 3
SECONDS_BETWEEN_LOOKS = 1.0
TOLD = ("POLYGRAFT_", "HF_", "TRANSFORMERS_", "OMP_NUM_THREADS", "PYTHONPATH")  # variables that jobs have from here


def do(call: Call, folder: Path, number: int, reports: Any) -> Ended:
    """Do a call in a process of the cluster, in the folder that the run was started in."""
    os.chdir(folder)
    return answer(call, lambda share: reports.put_nowait((number, share)))


class Cluster:
    """The cluster, as jobs' launcher; use as a context manager.

    Raises:
        RecipeError: Ray is not installed.
    """

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            from ray.util.queue import Queue
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError:
            raise RecipeError("--launcher ray: Ray is not installed. Run `pip install 'polygraft[ray]'`.") from None
        told = {name: value for name, value in os.environ.items() if name.startswith(TOLD)}
        ray.init(runtime_env={"env_vars": ENVIRONMENT | told}, log_to_driver=False, logging_level=logging.ERROR)
        self.stopped: Stopped | None = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._stop)  # Ray has put its own there, which exits with code 15
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.ray, self.reports = ray, Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self.function = ray.remote(max_retries=RETRIES)(do)
        self.running: dict[Any, int] = {}
        self.count = 0

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Ask what runs to stop, which trainings hear as Ctrl-C, and wait until it has."""
        for job in self.running:
            self.ray.cancel(job)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running))
        self.ray.shutdown()
        if self.stopped is not None and isinstance(value, KeyboardInterrupt):
            raise self.stopped from None  # of what was raised in its calls Ray makes a plain KeyboardInterrupt

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = Stopped(number)
        raise self.stopped

    def room(self, jobs: int | None, most: int) -> Room:
        """What the cluster has; without a number of jobs, as many as it has GPUs or else cores, `most` at most."""
        machines = [machine["Resources"] for machine in self.ray.nodes() if machine["Alive"]]
        whole = self.ray.cluster_resources()
        cores, gpus, threads = int(whole.get("CPU", 1)), int(whole.get("GPU", 0)), named_threads()
        return Room(
            jobs=min(most, jobs or gpus or max(1, cores // (threads or 1))),
            cores=cores,
            widest=int(max(machine.get("CPU", 0) for machine in machines)) or 1,
            memory_bytes=0 if gpus else int(whole.get("memory", 0)),
            devices=tuple(map(str, range(gpus))),
            named_threads=threads,
        )

    def call(self, call: Call) -> Hashable:
        """Have a machine with room for it do something."""
        largest = max(int(machine["Resources"].get("memory", 0)) for machine in self.ray.nodes() if machine["Alive"])
        takes = {
            "num_cpus": call.portion.threads, "memory": min(call.portion.memory_bytes, largest),
            "num_gpus": int("GPU" in self.ray.cluster_resources()),
        }  # fmt: skip
        self.count += 1
        self.running[self.function.options(**takes).remote(call, Path.cwd(), self.count, self.reports)] = self.count
        return self.count

    def hear(self) -> list[tuple[Hashable, float | Ended]]:
        """Wait a moment for what jobs say."""
        done, _ = self.ray.wait(list(self.running), timeout=SECONDS_BETWEEN_LOOKS)
        shares = self.reports.get_nowait_batch(self.reports.qsize())
        heard: list[tuple[Hashable, float | Ended]] = [one for one in shares if one[0] in self.running.values()]
        for job in done:
            heard.append((self.running.pop(job), self._result(job)))
        return heard

    def _result(self, job: Any) -> Ended:
        try:
            return self.ray.get(job)
        except self.ray.exceptions.RayError as error:
            why = f"Ray lost it {RETRIES + 1} times: {error}"
            return Ended(error=PolygraftError(f"{why}\nRun again to go on."))

"""Trackers that training is shown in while it goes on (`report_to`), by transformers' own callbacks for them.

The main process tells them what metrics.jsonl gets, and nothing else is sent. A training that goes on from a checkpoint
goes on in the same curve: `runs/` beside the results holds TensorBoard's files, and in trackers.json the identities of
the runs of the others. A tracker that fails is told nothing more of this training, which goes on without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, integrations

from polygraft import processes
from polygraft.data.files import write_atomically
from polygraft.settings import Running
from polygraft.training.trackers import chosen

FOLDER, IDENTITIES = "runs", "trackers.json"
PROJECT = "polygraft"


@contextlib.contextmanager
def telling(trainer: Trainer, running: Running, out_dir: Path) -> Iterator[None]:
    """Tell the trackers, in the block, how a training goes on; the main process does."""
    reporters = [REPORTERS[name](out_dir) for name in chosen(running.report_to)] if processes.is_main() else []
    for reporter in reporters:
        trainer.add_callback(reporter)
    try:
        yield
    finally:
        for reporter in reporters:
            reporter.close()


class Reporter(TrainerCallback, ABC):
    """One tracker, which begins when it first hears of something.

    `begin` makes ready what transformers' callback finds, and returns this; `end` closes it.
    """

    name: str

    def __init__(self, out_dir: Path) -> None:
        self.folder, self.run_name = out_dir / FOLDER, "/".join(out_dir.parts[-4:])
        self.callback: Any = None
        self.failed = False

    @abstractmethod
    def begin(self, args: Any, step: int) -> Any: ...

    @abstractmethod
    def end(self) -> None: ...

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_train_begin", args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_log", args, state, control, **kwargs)

    def _tell(self, event: str, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            if self.callback is None:
                self.callback = self.begin(args, state.global_step)
            getattr(self.callback, event)(args, state, control, **kwargs)
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """End the tracker's run, be the training done or not."""
        try:
            if self.callback is not None:
                self.end()
        except Exception as error:
            self._give_up(error)
        self.callback = None

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        said = f"{type(error).__name__}: {error}"
        print(f"report_to: {self.name} failed ({said}). It hears no more of {self.run_name}, which goes on; "
              "metrics.jsonl has all figures.", file=sys.stderr, flush=True)  # fmt: skip

    def identity(self, new: str | None = None) -> str | None:
        """Return the identity of the tracker's run, kept for when it goes on; `new` is that of one that begins."""
        path = self.folder / IDENTITIES
        known = json.loads(path.read_text()) if path.exists() else {}
        if new is not None and self.name not in known:
            known[self.name] = new
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(known) + "\n")
        return known.get(self.name)


class TensorBoard(Reporter):
    """Event files in the stage's folder."""

    name = "tensorboard"

    def begin(self, args: Any, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # what a killed part logged after its last checkpoint is logged again
        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else 0)
        return integrations.TensorBoardCallback(self.writer)

    def end(self) -> None:
        self.writer.close()


class Wandb(Reporter):
    """A run of Weights & Biases."""

    name = "wandb"

    def begin(self, args: Any, step: int) -> Any:
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        identity = self.identity(new=secrets.token_hex(4))
        self.run = wandb.init(
            project=project, name=self.run_name, id=identity, resume="allow", reinit="finish_previous"
        )
        return integrations.WandbCallback()

    def end(self) -> None:
        self.run.finish()


class Trackio(Reporter):
    """A run of Trackio, found again by its name."""

    name = "trackio"

    def begin(self, args: Any, step: int) -> Any:
        args.project, args.run_name = os.environ.get("TRACKIO_PROJECT", PROJECT), self.run_name
        return integrations.TrackioCallback()

    def end(self) -> None:
        import trackio

        trackio.finish()


class MLflow(Reporter):
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names."""

    name = "mlflow"

    def begin(self, args: Any, step: int) -> Any:
        import mlflow

        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        run = mlflow.start_run(run_id=self.identity(), run_name=self.run_name)
        self.identity(new=run.info.run_id)
        return integrations.MLflowCallback()

    def end(self) -> None:
        import mlflow

        mlflow.end_run()


REPORTERS: dict[str, type[Reporter]] = {one.name: one for one in (TensorBoard, Wandb, Trackio, MLflow)}

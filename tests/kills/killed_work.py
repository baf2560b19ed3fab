"""Stages of tiny models in processes of their own, ended at a chosen point. Imported by a fork server and by the tests.

Points are counted: every file that is opened for writing, renamed, removed or made below the stage's folder, every file
of tensors before and after it is written, and every optimizer step.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from polygraft.cli.errors import explain
from polygraft.objectives import MLM, Denoising
from polygraft.runs.records import run_stage
from polygraft.settings import Evaluate, Finetune, Lora, PairData, TextData
from polygraft.stages import adapt, evaluate, finetune, transfer
from polygraft.training import stopping
from polygraft.training.spending import Spending
from polygraft.transfers.methods import DistillTransfer, EmbeddingsTransfer

STEPS, INTERVAL = 9, 3
SHORT: dict[str, Any] = {
    "budget": {"steps": STEPS}, "save_steps": INTERVAL, "eval_steps": INTERVAL, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2, "precision": "fp32", "learning_rate": 1e-3,
}  # fmt: skip
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.move"}


def stages(folder: Path, out: Path) -> dict[str, tuple]:
    """The arguments of `run_stage` by stage."""
    xlmr, tuned, mbart = (str(folder / name) for name in ("xlmr", "xlmr-tuned", "mbart"))
    text = TextData(train_file=str(folder / "text.txt"), lang="uk")
    files = {f"{part}_file": str(folder / "pairs.jsonl") for part in ("train", "test")}
    pairs = PairData(**files, source_lang="uk", target_lang="uk")
    rows, moved = EmbeddingsTransfer(mode="repair"), DistillTransfer(**SHORT, general=text)
    scoring = Evaluate(num_beams=2, max_new_tokens=4, max_samples=8)
    tune = Finetune(**SHORT, adapter=Lora(r=2))
    return {
        "adapt": (MLM(**SHORT), [xlmr, text], lambda s: adapt.run(s, xlmr, text, 1, out)),
        "adapt_target": (
            Denoising(**SHORT, trim_vocabulary=True), [mbart, text], lambda s: adapt.run(s, mbart, text, 1, out)
        ),
        "finetune": (tune, [mbart, pairs], lambda s: finetune.run(s, mbart, pairs, 1, out)),
        "transfer": (rows, [tuned, mbart, text], lambda s: transfer.run(s, xlmr, tuned, mbart, text, out, seed=1)),
        "distill": (moved, [tuned, mbart, text], lambda s: transfer.run(s, xlmr, tuned, mbart, text, out, seed=1)),
        "evaluate": (scoring, [mbart, pairs], lambda s: evaluate.run(s, mbart, pairs, out)),
    }  # fmt: skip


class Points:
    """Counts what happens, writes it down, and ends the process at the chosen point."""

    def __init__(self, out: Path, end_at: int | None, how: str) -> None:
        self.out, self.end_at, self.how = str(out), end_at, how
        self.names: list[str] = []
        self.steps = 0

    def happened(self, what: str, path: str = "") -> None:
        self.names.append(what)
        if len(self.names) - 1 != self.end_at:
            return
        if self.how == "torn" and what == "written":
            os.truncate(path, os.path.getsize(path) // 2)
        if self.how in ("torn", "SIGKILL"):
            self.report()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "ENOSPC":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        else:
            os.kill(os.getpid(), getattr(signal, self.how))

    def report(self) -> None:
        self.out_of_the_way.write_text(json.dumps({"names": self.names, "steps": self.steps}))

    @property
    def out_of_the_way(self) -> Path:
        return Path(self.out + ".points.json")

    def install(self) -> None:
        """Watch Python's file operations, the writing of tensors, and steps."""
        from transformers import modeling_utils

        def hook(event: str, args: tuple) -> None:
            if event == "open":
                path, flags = str(args[0]), args[2] or 0
                if path.startswith(self.out + "/") and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    self.happened("open" if "/.new" in path or ".new/" in path else "open, outside a save", path)
            elif event in WRITES and str(args[0]).startswith(self.out):
                self.happened(event, str(args[0]))

        save, step = modeling_utils.safe_save_file, Spending.add_step

        def saving(tensors: Any, path: Any, **kwargs: Any) -> None:
            self.happened("tensors")
            save(tensors, path, **kwargs)
            self.happened("written", str(path))

        def stepping(spending: Spending, minutes: float) -> None:
            step(spending, minutes)
            self.steps += 1
            self.happened("step")

        modeling_utils.safe_save_file, Spending.add_step = saving, stepping
        sys.addaudithook(hook)


def work(stage: str, folder: Path, out: Path, end_at: int | None, how: str, changes: dict[str, Any]) -> None:
    """Run a stage into `out`; what happened goes into `out`.points.json, what was said into `out`.said."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, stopping.raise_stopped)  # as the command line does
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background would not hear
    sys.stderr = sys.stdout = open(f"{out}.log", "a")  # noqa: SIM115 (as long as the process lives)
    if how == "memory":
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + end_at, now + end_at))
        end_at = None
    points = Points(out, end_at, how)
    points.install()
    settings, inputs, function = stages(folder, out)[stage]
    settings = settings.model_copy(update=changes)
    seed = None if stage == "evaluate" else 1
    code = 0
    try:
        run_stage(stage, out, settings, inputs, seed, lambda: function(settings), replace=False)
    except BaseException as error:
        message, code = explain(error)
        Path(f"{out}.said").write_text(message)
    points.report()
    sys.stdout.flush()
    os._exit(code)

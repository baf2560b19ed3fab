"""What several processes train, and one alone: run by torchrun as a script, and by the tests as a module.

    torchrun --nproc-per-node 2 worker.py FOLDER

FOLDER holds the tiny models and texts that the tests made. Each task is trained there; what happened in every step goes
into FOLDER/<name>-<rank>.json, the model into FOLDER/<name>. In `wrong` the loss is not multiplied by the number of
processes, over which gradients are averaged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from polygraft import processes
from polygraft.objectives import CLM, MLM, Denoising
from polygraft.settings import Finetune, PairData, TextData
from polygraft.stages import adapt, finetune
from polygraft.training import spending
from polygraft.training import train as training
from polygraft.training.train import StageTrainer

STEPS = 8  # the epoch has six
HOW = {
    "budget": {"steps": STEPS}, "per_device_train_batch_size": 2, "precision": "fp32", "learning_rate": 1e-3,
    "eval_steps": 3, "warmup_steps": 2, "max_grad_norm": 1000.0,  # gradients are compared as they are
}  # fmt: skip
AMOUNTS = {"flops": 3e8, "minutes": 0.01, "tokens": 1200}
TASKS = {  # the task's settings and its model
    "mlm": (MLM, "xlmr"), "denoising": (Denoising, "mbart"), "target-mlm": (MLM, "mbart"), "clm": (CLM, "mbart"),
    "seq2seq": (Finetune, "mbart"),
}  # fmt: skip
MICRO_BATCHES = 4  # of a step, over all processes


class Recorder(StageTrainer):
    """Writes down every step's learning rate, gradient and spending."""

    reverse = wrong = False
    steps: list[dict] = []  # noqa: RUF012 (one run at a time)

    def get_batch_samples(self, *args, **kwargs):
        batches, count = super().get_batch_samples(*args, **kwargs)
        return (batches[::-1] if self.reverse else batches), count

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        return loss / self.accelerator.num_processes if self.wrong else loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        self.steps.append({
            "gradient": gradient[:: max(1, len(gradient) // 500)].tolist(), "norm": float(norm),
            "learning_rate": self._get_learning_rate(),
        })  # fmt: skip
        return norm


def train(task: str, folder: Path, name: str, reverse: bool = False, wrong: bool = False, **changes) -> dict:
    """Train a task into folder/name and return {"steps", "lines" of metrics.jsonl, "result"}."""
    out = folder / name
    out.mkdir(exist_ok=True)
    Recorder.steps, Recorder.reverse, Recorder.wrong = [], reverse, wrong
    how = HOW | {"gradient_accumulation_steps": MICRO_BATCHES // processes.count()} | changes
    files = {f"{part}_file": str(folder / f"{part}.jsonl") for part in ("train", "validation")}
    text, pairs = TextData(**files, lang="uk"), PairData(**files, source_lang="uk")
    kind, model = TASKS[task]
    stage, data = (finetune, pairs) if kind is Finetune else (adapt, text)
    training.StageTrainer = Recorder
    try:
        result = stage.run(kind(**how), str(folder / model), data, 1, out)
    finally:
        training.StageTrainer = StageTrainer
    log = (out / "metrics.jsonl").read_text().splitlines() if processes.is_main() else []
    return {"steps": Recorder.steps, "lines": [json.loads(line) for line in log], "result": result}


def main() -> None:
    folder = Path(sys.argv[1])
    runs = [(task, f"{task}-2", {}) for task in TASKS] + [("mlm", "wrong", {"wrong": True})]
    runs += [("mlm", unit, {"budget": {unit: amount}}) for unit, amount in AMOUNTS.items()]
    for task, name, how in runs:
        found = train(task, folder, name, **how)
        (folder / f"{name}-{processes.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    spending.LOGS_PER_BUDGET = 10**6  # a line for every step
    main()

"""The trainer's invariants: accumulation = large batch, resumed = uninterrupted, budgets mean what they say."""

import json
import math
import shutil
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from polygraft.data.dataset import TextDataset
from polygraft.errors import CheckpointError
from polygraft.models import checkpoints
from polygraft.objectives import MLM
from polygraft.objectives.labels import find_labels
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.settings import Budget
from polygraft.training import train as training
from polygraft.training.train import StageTrainer, train

DOCUMENTS, TOKENS = 64, 14


@pytest.fixture
def data(xlmr_tokenizer):
    random = np.random.default_rng(0)
    documents = [random.integers(4, 200, TOKENS).astype(np.int32) for _ in range(DOCUMENTS + 16)]
    return TextDataset((d, -1) for d in documents[:DOCUMENTS]), TextDataset((d, -1) for d in documents[DOCUMENTS:])


def settings(**changes):
    base = {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "precision": "fp32", "budget": Budget(steps=6)}
    return MLM(**{**base, **changes})


def run(model, tokenizer, data, out_dir, objective=None, **changes):
    objective = objective or MaskedLM(tokenizer, 0.15, Noise(0))
    validation = MaskedLM(tokenizer, 0.15, Noise(1, fixed=True))
    torch.manual_seed(0)
    how = settings(**changes)
    result = train(model, tokenizer, how, objective, validation, data, seed=0, out_dir=out_dir)
    checkpoints.save(model, tokenizer, out_dir)
    shutil.rmtree(out_dir / training.CHECKPOINTS)
    return result


def weights(folder):
    return checkpoints.load_masked_lm(str(folder)).state_dict()


def largest_difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@dataclass
class FixedMasks(MaskedLM):
    """Mask the same positions of a document in whatever batch it is, so that batches can be compared."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, 0.15, Noise(0))

    def collate(self, rows):
        batches = []
        for row in rows:
            self.noise = Noise(int(row["input_ids"].sum()))
            batches.append(super().collate([row]))
        names = ("input_ids", "attention_mask", "labels")  # documents of one length: nothing is padding
        joined = {name: torch.cat([batch[name] for batch in batches]) for name in names}
        positions = {"token_positions": torch.arange(joined["labels"].numel())}
        return joined | positions | {"label_positions": find_labels(joined["labels"])}


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (1, 8)])
def test_accumulation_equals_one_large_batch(tiny_xlmr, xlmr_tokenizer, data, tmp_path, batch, accumulation):
    """The plain Trainer's gradients grow with accumulation (1.73, 6.94, 13.87 measured); here they are equal."""
    objective = FixedMasks(xlmr_tokenizer)
    reference = objective.collate([data[0][i] for i in range(8)])
    loss = tiny_xlmr(**{name: reference[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    expected = torch.autograd.grad(loss, tiny_xlmr.roberta.embeddings.word_embeddings.weight)[0]

    first_eight = TextDataset((data[0][i]["input_ids"], -1) for i in range(8))
    seen = {}

    class Recording(StageTrainer):
        def _clip_grad_norm(self, model, *args, **kwargs):
            seen["gradient"] = model.roberta.embeddings.word_embeddings.weight.grad.clone()
            return super()._clip_grad_norm(model, *args, **kwargs)

    original, training.StageTrainer = training.StageTrainer, Recording
    try:
        result = run(
            tiny_xlmr, xlmr_tokenizer, (first_eight, data[1]), tmp_path / "out", objective, budget=Budget(steps=1),
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
    finally:
        training.StageTrainer = original
    assert result["train_loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    assert float((seen["gradient"] - expected).abs().max()) < 1e-6  # measured: 3e-8
    assert float(expected.abs().max()) > 1e-3


@pytest.mark.parametrize("broken_at", [4, 10])  # in the first epoch and in the second
def test_resumed_equals_uninterrupted(tiny_xlmr, xlmr_tokenizer, data, tmp_path, monkeypatch, broken_at):
    start = {name: tensor.clone() for name, tensor in tiny_xlmr.state_dict().items()}
    how = {"save_steps": 2, "budget": Budget(steps=12)}
    whole = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "whole", **how)

    tiny_xlmr.load_state_dict(start)
    real_step = StageTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.spending.spent["steps"] == broken_at:
            raise KeyboardInterrupt
        return real_step(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "cut", **how)
    monkeypatch.setattr(StageTrainer, "training_step", real_step)
    assert training.last_checkpoint(tmp_path / "cut").name == f"checkpoint-{broken_at}"

    tiny_xlmr.load_state_dict(start)  # the resumed run must take its weights from the checkpoint
    resumed = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "cut", **how)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "cut")) == 0.0
    assert largest_difference(start, weights(tmp_path / "cut")) > 1e-4
    for key in ("steps", "tokens", "train_loss", "eval_loss", "eval_loss_first"):
        assert resumed[key] == whole[key]
    assert resumed["flops"] == pytest.approx(whole["flops"], rel=1e-9)
    assert not (tmp_path / "cut" / training.CHECKPOINTS).exists()


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(steps=3), 3),
        (Budget(epochs=0.5), 4),  # 64 documents in batches of 8
        (Budget(epochs=1), 8),
        (Budget(tokens=5 * 8 * (TOKENS + 2)), 5),
        (Budget(tokens=5 * 8 * (TOKENS + 2) + 1), 6),
    ],
)
def test_budgets_in_every_unit(tiny_xlmr, xlmr_tokenizer, data, tmp_path, budget, steps):
    result = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out", budget=budget)
    assert result["steps"] == steps
    assert result["tokens"] == steps * 8 * (TOKENS + 2)


def test_flops_are_those_of_the_formula(tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    """Independent reference: 6 flops per weight and token in matrices, 12 T² D per layer and document in attention.

    In the last layer all but keys and values is computed for the masked tokens only.
    """
    result = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out")
    config = tiny_xlmr.config
    width, length = config.hidden_size, TOKENS + 2
    masked = 0.15 * result["steps"] * 8 * TOKENS
    keys_values, rest = 2 * width**2, 2 * width**2 + 2 * width * config.intermediate_size
    last = 6 * (result["tokens"] * keys_values + masked * rest)
    body = 6 * result["tokens"] * (config.num_hidden_layers - 1) * (keys_values + rest) + last
    body += 12 * result["tokens"] * config.num_hidden_layers * length * width
    head = 6 * masked * (width**2 + width * len(xlmr_tokenizer))
    assert result["flops"] == pytest.approx(body + head, rel=0.12)  # masks are drawn; measured within 6%


def test_flops_and_minutes_end_the_training(tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    steps = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "a")
    halves = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "b", budget=Budget(flops=steps["flops"] / 2))
    assert halves["steps"] == 3
    timed = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "c", budget=Budget(minutes=0.02))
    assert 1.2 <= timed["train_seconds"] < 6


class Bad(MaskedLM):
    """Has a loss or a gradient that is not a number from some batch on."""

    def __init__(self, tokenizer, what, after):
        super().__init__(tokenizer, 0.15, Noise(0))
        self.what, self.after, self.calls = what, after, 0

    @property
    def loss(self):
        def _loss(model, **batch):
            self.calls += 1
            value = MaskedLM.loss(model, **batch)
            if self.calls <= self.after:
                return value
            if self.what == "loss":
                return value * float("nan")
            value.register_hook(lambda gradient: gradient * float("inf"))
            return value

        return _loss


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_stops_at_the_first_number_that_is_none(tiny_xlmr, xlmr_tokenizer, data, tmp_path, what):
    """Three micro-batches of the second step are read; the checkpoint of the first step stays, with what was logged."""
    objective = Bad(xlmr_tokenizer, what, after=4 + 2)
    data[0].names = lambda numbers: [f"row {number}" for number in numbers]
    how = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "save_steps": 1, "learning_rate": 0.01}
    with pytest.raises(CheckpointError) as caught:
        run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out", objective, **how)
    assert objective.calls == 4 + (3 if what == "loss" else 4)
    said = str(caught.value)
    assert "training diverged in step 2: " in said
    assert ("the loss is nan" if what == "loss" else "the norm of the gradient is") in said
    assert said.count("row ") == (2 if what == "loss" else 8)
    assert "Lower learning_rate (it is 0.01)" in said
    assert [path.name for path in training.checkpoints_in(tmp_path / "out")] == ["checkpoint-1"]
    assert f"What was learned before is in {tmp_path / 'out' / 'checkpoints' / 'checkpoint-1'}." in said
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


def test_weights_that_are_no_numbers_are_not_kept(tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    """The first step goes beyond what a float holds; its loss and gradient were fine."""
    with pytest.raises(CheckpointError, match=r"weights are no longer numbers|the loss on the validation data is nan"):
        run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out", learning_rate=1e40, warmup_steps=0, save_steps=1)
    assert training.checkpoints_in(tmp_path / "out") == []


def test_saved_model_is_the_best_one(tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    """A learning rate that shakes the model: the best evaluation is not the last, and no other rule would save it."""
    result = run(
        tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out", load_best_model_at_end=True, learning_rate=0.3,
        warmup_steps=0.0, lr_scheduler_type="constant", eval_steps=1, save_steps=1000, budget=Budget(steps=5),
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    evals = [line["eval_loss"] for line in lines if line["step"] and "eval_loss" in line]
    assert len(evals) == 5
    assert result["eval_loss"] == min(evals) != evals[-1]
    model = checkpoints.load_masked_lm(str(tmp_path / "out"))
    objective = MaskedLM(xlmr_tokenizer, 0.15, Noise(1, fixed=True))
    batch = objective.collate([data[1][i] for i in range(16)])
    total, count = objective.eval_sums(model.eval(), batch)["eval_loss"]
    assert float(total.detach() / count) == pytest.approx(min(evals), abs=1e-4)


def test_log_counts_what_was_spent(tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert lines[0]["eval_loss"] == pytest.approx(math.log(len(xlmr_tokenizer)), rel=0.05)
    tokens = [line["tokens"] for line in lines]
    assert tokens == sorted(tokens)
    assert tokens[-1] == 6 * 8 * (TOKENS + 2)


def test_interrupted_checkpoint_is_not_trusted(tmp_path):
    for step, complete in ((2, True), (10, True), (12, False)):
        folder = tmp_path / training.CHECKPOINTS / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if complete:
            (folder / "trainer_state.json").write_text("{}")
    assert training.last_checkpoint(tmp_path).name == "checkpoint-10"
    shutil.rmtree(tmp_path / training.CHECKPOINTS)
    assert training.last_checkpoint(tmp_path) is None


def test_the_optimizer_is_gone_when_the_model_is_saved(tiny_xlmr, xlmr_tokenizer, data, tmp_path, monkeypatch):
    """Its states are twice the size of the model, and saving holds a second copy of that."""
    made, create = [], torch.optim.AdamW.__init__

    def remembered(self, *args, **kwargs):
        create(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(torch.optim.AdamW, "__init__", remembered)
    save = checkpoints.save
    alive = []
    monkeypatch.setattr(checkpoints, "save", lambda *a: (alive.extend(o() is not None for o in made), save(*a)))
    run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "out", budget=Budget(steps=2))
    assert alive == [False]

"""fp16 with a gradient scaler: steps that overflow are skipped and counted, and resuming changes no bit.

accelerate has no scaler for a CPU. Here it is given torch's own for one, so that autocast, scaler, skipping and
checkpoints are the real ones; what only a GPU has is tested where there is one.
"""

from __future__ import annotations

import copy
import itertools
import json
import math

import accelerate
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from polygraft import machine
from polygraft.data.dataset import TextDataset
from polygraft.errors import CheckpointError, RecipeError
from polygraft.objectives import MLM
from polygraft.objectives.linear_loss import linear_cross_entropy
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.settings import Budget
from polygraft.training import train as training
from polygraft.training.train import StageTrainer, train

STEPS = 8


@pytest.fixture
def scaling_cpu(monkeypatch):
    made, settings = Accelerator.__init__, {"growth_interval": 3}

    def with_scaler(self, *args, **kwargs):
        made(self, *args, **kwargs)
        if self.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", **settings)

    monkeypatch.setattr(Accelerator, "__init__", with_scaler)
    monkeypatch.setattr(machine, "scales_gradients", lambda: True)
    return settings


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    documents = [random.integers(4, 200, 14).astype(np.int32) for _ in range(80)]
    return TextDataset((d, -1) for d in documents[:64]), TextDataset((d, -1) for d in documents[64:])


class Overflowing(MaskedLM):
    """Has, in some steps, a gradient or a loss that is not a number."""

    def __init__(self, tokenizer, gradients=(), losses=()):
        super().__init__(tokenizer, 0.15, Noise(0))
        self.calls, self.gradients, self.losses, self.dtypes = 0, gradients, losses, set()
        self.record = lambda model: None

    @property
    def loss(self):
        def _loss(model, **batch):
            self.calls += 1
            self.record(model)
            dense = model.roberta.encoder.layer[0].intermediate.dense
            self.dtypes.add(dense(torch.zeros(1, 32, device=model.device)).dtype)
            value = MaskedLM.loss(model, **batch)
            if self.calls in self.losses:
                return value * float("inf")
            if self.calls in self.gradients:
                value.register_hook(lambda gradient: gradient * float("inf"))
            return value

        return _loss


def run(model, tokenizer, data, out, objective, **changes):
    how = {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "precision": "fp16", "budget": Budget(steps=STEPS),
           "save_steps": 1, "eval_steps": 4}  # fmt: skip
    torch.manual_seed(0)
    validation = MaskedLM(tokenizer, 0.15, Noise(1, fixed=True))
    return train(model, tokenizer, MLM(**how | changes), objective, validation, data, seed=0, out_dir=out)


def scaler_of(out):
    return torch.load(training.last_checkpoint(out) / "scaler.pt", weights_only=True)


def losses_of(out):
    return [json.loads(line).get("loss") for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_without_a_gpu_fp16_is_refused(tiny_xlmr, xlmr_tokenizer, data, tmp_path, monkeypatch):
    """accelerate would train in fp32 and say nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"^precision: fp16: fp16 is trained on a GPU only"):
        run(tiny_xlmr, xlmr_tokenizer, data, tmp_path, Overflowing(xlmr_tokenizer))


def test_it_learns_what_fp32_learns(scaling_cpu, tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    scaling_cpu["growth_interval"] = 2000  # the usual one
    other, objective = copy.deepcopy(tiny_xlmr), Overflowing(xlmr_tokenizer)
    for name in ("fp16", "fp32"):
        (tmp_path / name).mkdir()
    result = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / "fp16", objective)
    plain = run(other, xlmr_tokenizer, data, tmp_path / "fp32", Overflowing(xlmr_tokenizer), precision="fp32")
    assert objective.dtypes == {torch.float16}
    assert all(parameter.dtype == torch.float32 for parameter in tiny_xlmr.parameters())
    assert result["steps"] == STEPS and result["skipped_steps"] == 0
    assert "skipped_steps" not in plain
    assert result["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-3)  # measured: 2e-5
    assert scaler_of(tmp_path / "fp16")["scale"] == 2**16


def test_steps_that_overflow_are_skipped_and_counted(scaling_cpu, tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    objective, seen = Overflowing(xlmr_tokenizer, gradients={3}, losses={5}), []
    objective.record = lambda model: seen.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
    result = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path, objective)
    assert [torch.equal(a, b) for a, b in itertools.pairwise(seen)] == [n in (3, 5) for n in range(1, STEPS)]
    assert result["steps"] == objective.calls == STEPS
    assert result["skipped_steps"] == 2
    assert result["tokens"] == STEPS * 8 * 16
    assert all(loss is None or math.isfinite(loss) for loss in losses_of(tmp_path))
    assert scaler_of(tmp_path)["scale"] == 2.0**15  # halved twice, doubled once: steps 6 to 8


@pytest.mark.parametrize("broken_at", [4, 6])
def test_resumed_is_uninterrupted(scaling_cpu, tiny_xlmr, xlmr_tokenizer, data, tmp_path, monkeypatch, broken_at):
    """The scaler's scale and its count of good steps go on: after step 4, one of three; steps 3 and 5 overflow.

    Products are in fp32: a CPU's in fp16 depend on where in memory their factors are, so that no two runs are equal.
    """
    in_fp32 = lambda *args, **kwargs: torch.autocast("cpu", enabled=False)  # noqa: E731
    monkeypatch.setattr(accelerate.accelerator, "get_mixed_precision_context_manager", in_fp32)
    start = copy.deepcopy(tiny_xlmr.state_dict())
    results = {}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        tiny_xlmr.load_state_dict(start)
        objective = Overflowing(xlmr_tokenizer, gradients={3, 5})
        if name == "cut":
            real = StageTrainer.training_step

            def interrupted(self, *args, real=real, **kwargs):
                if self.spending.spent["steps"] == broken_at:
                    raise KeyboardInterrupt
                return real(self, *args, **kwargs)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(StageTrainer, "training_step", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / name, objective)
            tiny_xlmr.load_state_dict(start)
            objective.calls = broken_at
        result = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path / name, objective)
        results[name] = (result | {"train_seconds": 0}, copy.deepcopy(tiny_xlmr.state_dict()))
    assert results["whole"][0] == results["cut"][0]
    assert results["whole"][0]["skipped_steps"] == 2
    assert all(torch.equal(tensor, results["cut"][1][name]) for name, tensor in results["whole"][1].items())
    assert scaler_of(tmp_path / "whole") == scaler_of(tmp_path / "cut")
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "cut")


def test_a_model_that_always_overflows_is_told(scaling_cpu, tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    objective = Overflowing(xlmr_tokenizer, losses=range(3, 1000))
    with pytest.raises(CheckpointError) as caught:
        run(tiny_xlmr, xlmr_tokenizer, data, tmp_path, objective, budget=Budget(steps=100), save_steps=50)
    assert "training diverged in step 33: the norm of the gradient is" in str(caught.value)  # 2^16 to below 1e-4
    assert str(caught.value).endswith("leaves the range of fp16: give precision: bf16 or fp32.")


def test_output_loss_in_fp16_is_as_exact_as_the_plain_way():
    """Its gradients are made before the scaler's factor; what that flushes to zero is below Adam's epsilon."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(64, 32, requires_grad=True), (0.3 * torch.randn(5000, 32)).requires_grad_()
    labels, scale = torch.randint(5000, (64,)), 2.0**16

    def gradients(loss):
        return torch.autograd.grad(loss, (hidden, weight))

    exact = gradients(torch.nn.functional.cross_entropy(hidden @ weight.T, labels))
    with torch.autocast("cpu", torch.float16):
        ours = linear_cross_entropy(hidden, weight, None, labels) / 64
        plain = torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels)
    ours, plain = ([g / scale for g in gradients(scale * loss)] for loss in (ours, plain))
    for mine, theirs, true in zip(ours, plain, exact, strict=True):
        error = float((mine - true).norm() / true.norm())
        assert error < 1.1 * float((theirs - true).norm() / true.norm())  # measured: 3.3e-4, both


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tiny_xlmr, xlmr_tokenizer, data, tmp_path):
    """accelerate's own scaler, and the fused optimizer, which skips inside its kernel."""
    weights, objective = [], Overflowing(xlmr_tokenizer, gradients={3})
    objective.record = lambda model: weights.append(model.lm_head.bias.detach().clone())
    result = run(tiny_xlmr, xlmr_tokenizer, data, tmp_path, objective)
    assert objective.dtypes == {torch.float16}
    assert result["skipped_steps"] >= 1 and result["steps"] == STEPS
    assert torch.equal(weights[2], weights[3]) and not torch.equal(weights[-2], weights[-1])
    assert result["eval_loss"] < result["eval_loss_first"]

"""Two processes of torchrun train what one trains: the same losses, gradients, learning rates, steps and weights."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from polygraft.training import spending

pytestmark = pytest.mark.slow
WORKER = Path(__file__).parent / "worker.py"
spec = importlib.util.spec_from_file_location("worker", WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_tiny_models, sentences, torchrun):
    folder = tmp_path_factory.mktemp("processes")
    write_tiny_models(folder)
    rows = [{"text": f"{a} {b}"[:150], "summary": b} for a in sentences for b in sentences[:5]]
    for name, part in {"train": rows[:48], "validation": rows[48:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    run = torchrun(WORKER, folder, folder=folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def of(folder, name, rank=0):
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def figures(found):
    """What was logged and measured, as arrays: gradients, their norms, losses, evaluations."""
    return {
        "gradient": np.array([step["gradient"] for step in found["steps"]]),
        "norm": np.array([step["norm"] for step in found["steps"]]),
        "loss": np.array([line["loss"] for line in found["lines"] if "loss" in line]),
        "eval_loss": np.array([line["eval_loss"] for line in found["lines"] if "eval_loss" in line]),
    }


def difference(a, b):
    """Largest differences in units of the largest value."""
    return {name: float(np.abs(a[name] - b[name]).max() / np.abs(a[name]).max()) for name in a}


def weight_difference(a, b):
    a, b = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.parametrize("task", worker.TASKS)
def test_two_processes_equal_one(folder, task, monkeypatch):
    """One process reads the same batches, accumulated, in two orders: how far these differ is the error of floats."""
    monkeypatch.setattr(spending, "LOGS_PER_BUDGET", 10**6)
    one = worker.train(task, folder, f"{task}-one")
    turned = worker.train(task, folder, f"{task}-turned", reverse=True)
    two, other = of(folder, f"{task}-2"), of(folder, f"{task}-2", rank=1)
    assert len(one["steps"]) == len(two["steps"]) == worker.STEPS
    for key in ("learning_rate", "norm", "gradient"):
        assert [s[key] for s in two["steps"]] == [s[key] for s in other["steps"]], "both ranks are of one mind"
    assert [s["learning_rate"] for s in two["steps"]] == [s["learning_rate"] for s in one["steps"]]
    for key in ("steps", "tokens", "classes"):
        assert two["result"][key] == other["result"][key] == one["result"][key]
    assert two["result"]["flops"] == pytest.approx(one["result"]["flops"], rel=1e-6)
    assert [line["step"] for line in two["lines"]] == [line["step"] for line in one["lines"]]

    allowed, found = difference(figures(one), figures(turned)), difference(figures(one), figures(two))
    assert allowed["gradient"] > 0.0, "another order has to make some difference, or this measures nothing"
    for name in found:
        assert found[name] <= max(5 * allowed[name], 1e-6), (name, found, allowed)
    weights = weight_difference(folder / f"{task}-one", folder / f"{task}-2")
    reordered = weight_difference(folder / f"{task}-one", folder / f"{task}-turned")
    assert 0.0 < weights <= max(5 * reordered, 1e-6), (weights, reordered)


def test_a_wrong_factor_would_be_seen(folder, monkeypatch):
    """Without the number of processes in the loss, gradients are half as large: far beyond what is allowed above."""
    monkeypatch.setattr(spending, "LOGS_PER_BUDGET", 10**6)
    one, wrong = worker.train("mlm", folder, "mlm-again"), of(folder, "wrong")
    found = difference(figures(one), figures(wrong))
    assert found["gradient"] > 0.1
    assert wrong["steps"][0]["norm"] == pytest.approx(one["steps"][0]["norm"] / 2, rel=1e-4)


@pytest.mark.parametrize("unit", worker.AMOUNTS)
def test_one_decision_for_all_in_every_unit(folder, unit):
    """Each rank used to count for itself: other learning rates, other ends, other weights."""
    first, second = of(folder, unit), of(folder, unit, rank=1)
    assert len(first["steps"]) > 2
    for key in ("learning_rate", "norm"):
        assert [s[key] for s in first["steps"]] == [s[key] for s in second["steps"]]
    assert first["result"] == second["result"]

"""Estimates against measurements, and what is proposed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from transformers import AutoConfig, XLMRobertaConfig, XLMRobertaForMaskedLM

from polygraft import machine
from polygraft.check.needs import Lengths, Probe, largest_batch, probe_machine, training_need, transfer_need
from polygraft.models.checkpoints import load_tokenizer
from polygraft.models.graft import graft_config
from polygraft.settings import MLM, Budget, Denoising
from polygraft.transfer_settings import Transfer

MEASURED = """
import json, sys
from pathlib import Path
from polygraft import adapt, machine
from polygraft.settings import MLM, TextData
settings, model, file, out = sys.argv[1:]
adapt.run(MLM.model_validate_json(settings), model, TextData(train_file=file), 1, Path(out))
print(machine.peak_memory_bytes())
"""
BASELINE = "from polygraft import machine; from polygraft.check import stages; print(machine.resident_bytes())"
GB = 10**9


def shape(width, layers, rows):
    return XLMRobertaConfig(
        vocab_size=rows, hidden_size=width, num_hidden_layers=layers, num_attention_heads=8,
        intermediate_size=4 * width, max_position_embeddings=258, type_vocab_size=1,
    )  # fmt: skip


# Large models first: their freed blocks go back to the system, so that what they take can be counted. Small ones keep
# theirs, for speed, with gaps between. The real sizes: benchmarks/real_size.py.
@pytest.mark.parametrize(
    ("config", "batch", "tolerance"),
    [(shape(512, 1, 130_000), 4, 0.15), (shape(256, 2, 80_000), 4, 0.25), (shape(256, 2, 9000), 32, 0.25)],
    ids=["large", "small, mostly weights", "small, mostly activations"],
)
def test_memory_is_what_a_stage_takes(config, batch, tolerance, tmp_path):
    XLMRobertaForMaskedLM(config).save_pretrained(tmp_path / "model")
    load_tokenizer("polygraft/nano-xlmr").save_pretrained(tmp_path / "model")
    words = ["Die", "Bibliothek", "liest", "und", "schreibt", "viele", "Dateien", "in", "allen", "Formaten", "."]
    text = [" ".join(words[i % len(words) :] + words * 30) for i in range(40)]
    (tmp_path / "text.txt").write_text("\n".join(text), encoding="utf-8")
    (tmp_path / "out").mkdir()
    settings = MLM(budget=Budget(steps=3), per_device_train_batch_size=batch)
    command = [sys.executable, "-c", MEASURED, settings.model_dump_json(), str(tmp_path / "model")]
    run = subprocess.run(
        [*command, str(tmp_path / "text.txt"), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    measured = int(run.stdout.split()[-1])
    baseline = int(subprocess.run([sys.executable, "-c", BASELINE], capture_output=True, text=True, check=True).stdout)
    probe = probe_machine(config, machine.use_bf16("auto"), baseline)
    need = training_need("adapt", settings, config, None, Lengths([256] * 40, None, 40), probe)
    assert need.memory_bytes == pytest.approx(measured, rel=tolerance), json.dumps(need.to_json())


@pytest.fixture
def probe():
    return Probe(flops_per_second=1e11, bytes_per_second=1e10, available_bytes=8 * GB, baseline_bytes=GB // 2)


def test_budgets_become_operations_and_seconds(probe):
    config, lengths = shape(64, 1, 1000), Lengths([100] * 50, None, 5000)
    needs = {
        unit: training_need(
            "adapt", MLM(budget=Budget(**{unit: amount}), per_device_train_batch_size=10), config, None, lengths, probe
        )
        for unit, amount in {"steps": 1000, "epochs": 2, "tokens": 10**6, "minutes": 3}.items()
    }
    assert needs["steps"].flops == needs["epochs"].flops == needs["tokens"].flops  # 2 x 5,000 documents of 100 tokens
    assert needs["steps"].seconds == pytest.approx(needs["tokens"].seconds)
    assert needs["minutes"].seconds == pytest.approx(180, rel=1e-12)
    assert needs["steps"].tokens == needs["epochs"].tokens == needs["tokens"].tokens == 10**6
    assert [needs[unit].budget for unit in ("epochs", "tokens")] == ["2 epochs", "1e+06 tokens"]
    budget = Budget(flops=needs["steps"].flops)
    again = training_need("adapt", MLM(budget=budget, per_device_train_batch_size=10), config, None, lengths, probe)
    assert again.seconds == pytest.approx(needs["steps"].seconds)


def test_proposed_batch_is_the_largest_that_fits(probe):
    config, lengths = shape(256, 4, 9000), Lengths([256] * 600, None, 600)

    def need(batch, available):
        settings = MLM(budget=Budget(steps=1), per_device_train_batch_size=batch)
        narrow = Probe(probe.flops_per_second, probe.bytes_per_second, available, 0)
        return training_need("adapt", settings, config, None, lengths, narrow)

    proposed = need(1, 4 * GB).proposed_batch_size
    assert proposed is not None and 1 < proposed < 512
    assert need(proposed, 4 * GB).memory_bytes <= 0.85 * 4 * GB < need(2 * proposed, 4 * GB).memory_bytes
    assert need(1, GB // 10).proposed_batch_size is None
    assert need(1, 500 * GB).proposed_batch_size == 512


def test_trimming_saves_memory_but_the_full_model_has_to_fit(probe):
    config, lengths = shape(64, 1, 250_002), Lengths([32] * 50, None, 50)
    settings = MLM(budget=Budget(steps=1), per_device_train_batch_size=2)
    full, trimmed = (training_need("adapt", settings, config, kept, lengths, probe) for kept in (None, 20_000))
    assert trimmed.memory_bytes < full.memory_bytes
    assert trimmed.disk_bytes == full.disk_bytes
    assert trimmed.parameters == full.parameters - 64 * 230_002 - 230_002  # rows, and the head's bias


def test_a_small_trimmed_model_still_needs_room_for_the_full_one(probe):
    config, lengths = shape(256, 1, 250_002), Lengths([16] * 4, None, 4)
    settings = MLM(budget=Budget(steps=1), per_device_train_batch_size=1)
    need = training_need("adapt", settings, config, 1000, lengths, probe)
    assert need.memory_bytes >= probe.baseline_bytes + 3 * need.disk_bytes


def test_largest_batch_is_that_of_the_longest_documents():
    lengths = Lengths([10, 50, 20], None, 3)
    assert largest_batch(MLM(budget=Budget(steps=1)), lengths, 16).source == 50
    shape = largest_batch(Denoising(budget=Budget(steps=1)), lengths, 2)
    assert (shape.batch, shape.source, shape.target, shape.labels) == (2, 50, 50, 100)


BENCHMARKED: dict[str, dict] = {
    "recentre": {"mode": "recentre"}, "repair": {"mode": "repair"}, "delta": {"mode": "delta"},
    "map": {"method": "map"}, "bottleneck": {"method": "bottleneck"}, "bottleneck, of LoRA": {"method": "bottleneck"},
    "encoder": {"method": "encoder"}, "distill": {"method": "distill"},
}  # fmt: skip


def benchmarked():
    """What docs/benchmarks.md says of transfers at real size: source, method, FLOPs if counted, peak in GB."""
    section = Path("docs/benchmarks.md").read_text(encoding="utf-8").partition("\n## transfer\n")[2]
    source = ""
    for line in section.partition("\n## ")[0].splitlines():
        if line.endswith("into mbart-large-50:"):
            source = line.split()[0]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in BENCHMARKED:
            yield source, cells[0], float(cells[3] or 0), float(cells[4].removesuffix(" GiB")) * 2**30


@pytest.mark.parametrize(("source", "method", "flops", "measured"), benchmarked())
def test_transfers_at_real_size_take_what_the_benchmark_measured(source, method, flops, measured):
    configs = Path("tests/fixtures/published")
    one, target = (AutoConfig.from_pretrained(configs / f"{name}.json") for name in (source, "mbart-large-50"))
    training = {"budget": {"steps": 3}, "per_device_train_batch_size": 8, "max_length_tokens": 128}
    trained = training if method in ("map", "distill") else {}
    calibrated = {"calibration_tokens": 5000} if method.startswith(("bottleneck", "encoder", "distill")) else {}
    settings = TypeAdapter(Transfer).validate_python(BENCHMARKED[method] | trained | calibrated)
    sources = [one] * len({"source_before", "source_after"} & set(settings.required_inputs))
    result = graft_config(one, target, 512) if method == "encoder" else target
    need = transfer_need(settings, sources, target, result, Probe(10**11, 10**9, 24 * GB, round(0.4 * GB)))
    assert 0.9 < need.memory_bytes / measured < 1.3  # measured: 0.97 to 1.25
    if flops and not trained:
        assert 0.75 < (need.flops or 0.0) / flops < 1.25  # of calibration alone; measured: 0.81 to 1.21


def test_the_benchmark_has_been_run_for_every_method():
    assert {method for _, method, *_ in benchmarked()} == set(BENCHMARKED)
    assert {source for source, *_ in benchmarked()} == {"xlm-roberta-large", "xlm-roberta-base"}

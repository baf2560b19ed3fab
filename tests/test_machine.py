"""machine.py: figures of this process, not of another, on Linux and macOS; what `precision: auto` means."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys

import pytest
import torch

from polygraft import machine
from polygraft.errors import RecipeError

BIG = 800_000_000
CHILD = "from polygraft import machine; print(machine.peak_memory_bytes())"
PARENT = f"""
import subprocess, sys
block = b"x" * {BIG}
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""
ON_MAC = """
import importlib, os, pkgutil, sys
import torch, transformers, peft  # which have files of their own for macOS
del os.sched_getaffinity
sys.platform = "darwin"
import polygraft
names = [m.name for m in pkgutil.walk_packages(polygraft.__path__, "polygraft.") if m.name != "polygraft.__main__"]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
ON_WINDOWS = {
    "import": "import sys; sys.platform = 'win32'; import polygraft",
    "command": "import sys; sys.platform = 'win32'; from polygraft.cli import main; main()",
}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    assert 0 < int(python(PARENT).stdout) < BIG  # 0.23 GB: Python with torch; 0.51 GB with torch for CUDA


@pytest.mark.parametrize("how", ON_WINDOWS)
def test_windows_is_told_what_to_do(how):
    done = python(ON_WINDOWS[how])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("polygraft runs on Linux and macOS. On Windows use") and done.stderr.count("\n") == 1


def test_every_module_can_be_imported_on_macos():
    done = python(ON_MAC)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 80


def test_figures_without_what_only_linux_has(monkeypatch):
    real = builtins.open

    def without_proc(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = machine.peak_memory_bytes(), machine.available_bytes()
    monkeypatch.setattr(builtins, "open", without_proc)
    for name, unit in (("linux", 1), ("darwin", 1 / 1024)):  # where ru_maxrss counts kilobytes, or bytes
        monkeypatch.setattr(sys, "platform", name)
        assert machine.peak_memory_bytes() == machine.resident_bytes() >= 0.9 * expected[0] * unit
    assert machine.available_bytes() >= expected[1]
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.describe()["cpus"] == os.cpu_count()
    machine.keep_freed_memory(1)
    machine.return_freed_memory()


@pytest.fixture
def device(monkeypatch):
    """Makes machine.py believe in a GPU with or without bf16, emulated or real, or in a CPU of a kind."""

    def _device(gpu, real_bf16):
        def supported(including_emulation=True):
            return real_bf16 or including_emulation

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: real_bf16)
        monkeypatch.delenv("POLYGRAFT_PRECISION", raising=False)

    return _device


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [("auto", "fp32", "fp32"), ("auto", "bf16", "bf16"), ("auto", "fp16", "fp16"), ("fp32", "bf16", "fp32"),
     ("bf16", "fp32", "bf16"), ("fp16", "fp32", "fp16")],
)  # fmt: skip
def test_what_auto_means_can_be_said(monkeypatch, device, asked, variable, expected):
    device(gpu=True, real_bf16=True)
    monkeypatch.setenv("POLYGRAFT_PRECISION", variable)
    assert machine.arithmetic(asked) == expected


@pytest.mark.parametrize("variable", ["", "auto"])
@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(("real_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_else_auto_is_the_machines(monkeypatch, device, gpu, real_bf16, expected, variable):
    """A T4 and a V100 emulate bf16 more slowly than they compute in fp32; and nobody gets fp16 without asking."""
    device(gpu, real_bf16)
    monkeypatch.setenv("POLYGRAFT_PRECISION", variable)
    assert machine.arithmetic("auto") == expected


def test_a_precision_that_there_is_not_is_refused(monkeypatch, device):
    device(gpu=False, real_bf16=True)
    monkeypatch.setenv("POLYGRAFT_PRECISION", "fp8")
    with pytest.raises(RecipeError, match=r"^POLYGRAFT_PRECISION=fp8 in .*: give fp32, bf16, fp16 or auto\.$"):
        machine.arithmetic("auto")
    assert machine.arithmetic("bf16") == "bf16"
    monkeypatch.setenv("POLYGRAFT_PRECISION", "fp16")
    for asked, named in (("auto", "POLYGRAFT_PRECISION=fp16"), ("fp16", "precision: fp16")):
        with pytest.raises(RecipeError, match=f"^{named}: fp16 is trained on a GPU only, and there is none here"):
            machine.arithmetic(asked)


V2, V1 = "0::/a/b\n", "3:memory:/a/b\n2:cpu,cpuacct:/a/b\n0::/\n"
GROUPS = [  # /proc/self/cgroup, files of groups: cores of 4 that are allowed, bytes left of 1000
    ("", {}, 4, 1000),
    (V2, {"a/cpu.max": "max 100000"}, 4, 1000),
    (V2, {"a/b/cpu.max": "250000 100000", "a/cpu.max": "800000 100000"}, 2, 1000),
    (V2, {"a/cpu.max": "50000 100000"}, 1, 1000),
    (V2, {"cpu.max": "300000 100000"}, 3, 1000),  # the container's own is the root of what it sees
    (V2, {"a/b/memory.max": "max", "a/b/memory.current": "9"}, 4, 1000),
    (V2, {"a/memory.max": "900", "a/memory.current": "500", "a/memory.stat": "anon 1\ninactive_file 100"}, 4, 500),
    (V1, {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 4, 1000),
    (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2, 1000),
    (V1, {"memory/memory.limit_in_bytes": "600", "memory/memory.usage_in_bytes": "200"}, 4, 400),
    (V1, {"memory/a/b/memory.limit_in_bytes": "1", "memory/a/b/memory.usage_in_bytes": "9"}, 4, 0),
]


@pytest.mark.parametrize(("own", "files", "cores", "left"), GROUPS)
def test_cores_and_memory_that_control_groups_leave(monkeypatch, tmp_path, own, files, cores, left):
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content + "\n")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine.cores() == cores
    assert min([1000, *machine._left_to_groups()]) == left


def test_a_peak_can_be_forgotten():
    """Where the kernel lets it be."""
    block = b"x" * 200_000_000
    before = machine.peak_memory_bytes()
    del block
    machine.forget_peak()
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert machine.peak_memory_bytes() < before - 100_000_000

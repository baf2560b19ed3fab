"""What this machine is and can do: device, arithmetic, memory, versions."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import math
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from polygraft.errors import RecipeError

KEPT_MODEL_BYTES = 2**28
MAPPED_BLOCK_BYTES = 2**22
OWN_GROUPS, CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
Arithmetic = Literal["fp32", "bf16", "fp16"]
PACKAGES = (
    "polygraft",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "sacrebleu",
)


def arithmetic(precision: str) -> Arithmetic:
    """Decide on the arithmetic: as asked, or with "auto" bf16 where the device multiplies in it, else fp32.

    POLYGRAFT_PRECISION says what "auto" means, so that runs on unlike machines use one arithmetic. fp16 is never chosen
    for anyone: its range is small, and a model that was trained in another arithmetic may leave it.

    Raises:
        RecipeError: POLYGRAFT_PRECISION is something else; or fp16 without a GPU.
    """
    import torch

    named = named_precision() if precision == "auto" else precision
    if named == "fp16" and not scales_gradients():
        where = "POLYGRAFT_PRECISION=fp16" if precision == "auto" else "precision: fp16"
        raise RecipeError(f"{where}: fp16 is trained on a GPU only, and there is none here. Give fp32, bf16 or auto.")
    if named != "auto":
        return cast(Arithmetic, named)
    if torch.cuda.is_available():
        # the cards before Ampere (T4, V100, RTX 20) emulate it, slower than fp32
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def scales_gradients() -> bool:
    """Whether accelerate has a gradient scaler for the device; without one it trains in fp32 and does not say so."""
    import torch

    return torch.cuda.is_available()


def named_precision() -> str:
    """Return what POLYGRAFT_PRECISION says that "auto" means; "auto" if nothing.

    Raises:
        RecipeError: it is neither fp32, bf16, fp16 nor auto.
    """
    precision = os.environ.get("POLYGRAFT_PRECISION") or "auto"
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise RecipeError(f"POLYGRAFT_PRECISION={precision} in the environment: give fp32, bf16, fp16 or auto.")
    return precision


def keep_freed_memory(model_bytes: int) -> None:
    """Have glibc keep freed blocks instead of returning them to the kernel (Linux; elsewhere nothing happens).

    By default every block over 32 MB is mapped afresh and zeroed page by page: each step's logits are such a block,
    and on a CPU those page faults take longer than the arithmetic of a small model. Large models compute for longer
    than they fault, and their blocks of gigabytes would leave gaps as large (mBART-large: 5 GB): theirs are mapped,
    down to the blocks of one layer, which glibc by itself keeps once it has seen some freed.
    """
    mallopt = _glibc("mallopt")
    m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4
    if mallopt is not None and model_bytes <= KEPT_MODEL_BYTES:
        mallopt(m_mmap_max, 0)  # glibc refuses an mmap threshold over 32 MB, so no mmap at all
        mallopt(m_trim_threshold, (1 << 31) - 1)
    elif mallopt is not None:
        mallopt(m_mmap_threshold, MAPPED_BLOCK_BYTES)


def return_freed_memory() -> None:
    """Give the blocks that `keep_freed_memory` kept back to the kernel."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc(function: str) -> Any | None:
    """Return a function of glibc, None where there is no glibc (macOS, Windows, musl)."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


def forget_peak() -> None:
    """Have `peak_memory_bytes` count from now on (Linux, and GPUs; elsewhere nothing happens)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Return the most resident memory this process ever had, or on a GPU the most allocated there."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:  # not ru_maxrss, in which a process starts with the peak of the one that started it
        with open("/proc/self/status") as file:
            return int(dict(line.split(":", 1) for line in file)["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Return what the process has resident now; on a GPU, what is allocated there."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux
        return peak_memory_bytes()


def available_bytes() -> int:
    """Return the memory that is free for a run: of the GPU, or of the machine."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *_left_to_groups()])


def cores() -> int:
    """Return how many cores the process may use: those that it may run on, or fewer by its control groups' quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups("cpu"):
        quota = _numbers(group / "cpu.max")
        quota = quota or [*_numbers(group / "cpu.cfs_quota_us"), *_numbers(group / "cpu.cfs_period_us")]
        if len(quota) == 2 and 0 < quota[0] < math.inf:
            allowed = min(allowed, int(quota[0] / quota[1]))
    return max(1, allowed)


def _left_to_groups() -> Iterator[int]:
    """The bytes that each control group of the process leaves it; caches of files, which can go, count as left."""
    for group in _control_groups("memory"):
        limit = _numbers(group / "memory.max") or _numbers(group / "memory.limit_in_bytes")
        used = _numbers(group / "memory.current") or _numbers(group / "memory.usage_in_bytes")
        if limit and used and limit[0] < math.inf:
            words = _words(group / "memory.stat")
            figures = dict(zip(words[::2], words[1::2], strict=False))
            cached = figures.get("total_inactive_file", figures.get("inactive_file", "0"))
            yield max(0, int(limit[0] - used[0]) + int(cached))


def _control_groups(controller: str) -> Iterator[Path]:
    """The process's control groups (version 2, or 1), from its own to the root; in containers some cannot be seen."""
    words = (line.split(":", 2) for line in _words(OWN_GROUPS))
    for _, controllers, path in (found for found in words if len(found) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        root = CONTROL_GROUPS / (controller if controllers else "")
        own = root / path.lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _numbers(path: Path) -> list[float]:
    return [math.inf if word == "max" else float(word) for word in _words(path)]


def describe() -> dict[str, Any]:
    """Return platform, processor count and device."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"platform": platform.platform(), "python": platform.python_version(), "cpus": cpus, "device": device}


def versions() -> dict[str, str]:
    """Return the versions of polygraft and of what its results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

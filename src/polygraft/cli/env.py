"""`polygraft env`: versions and machine, for a bug report. It names no person, machine or folder."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from polygraft import machine

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
SHOWN = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
         "CUDA_VISIBLE_DEVICES", "TOKENIZERS_PARALLELISM")  # fmt: skip
HARMLESS = re.compile(r"[\d,:]{1,24}|true|false|on|off|fp32|bf16|fp16|auto", re.I)
SECONDS = 3  # for what a driver is asked

AsJson = Annotated[bool, typer.Option("--json", help="Print the same as JSON.")]


@dataclass(frozen=True)
class Environment:
    """What results, speed and errors may depend on.

    Attributes:
        cpu_flags: of the processor, those that matter to speed and to what `precision: auto` means.
        memory_bytes, free_memory_bytes: of the machine; what is free for a run, of the GPU where there is one.
        gpus: name, driver and memory of each, as its driver says.
        torch: the build (CUDA's version, or cpu), threads, the instructions that it uses, and `auto`'s precision.
        variables: environment variables that are set; only of switches and numbers their values.
    """

    versions: dict[str, str]
    commit: str | None
    python: str
    platform: str
    cpu: str
    cpus: int
    cpu_flags: tuple[str, ...]
    memory_bytes: int
    free_memory_bytes: int
    gpus: tuple[str, ...]
    torch: dict[str, str | int]
    variables: dict[str, str]

    @classmethod
    def here(cls) -> Environment:
        """Look at this machine and this process."""
        from polygraft.runs.records import git_commit

        name, flags = processor()
        return cls(
            versions=machine.versions(),
            commit=git_commit(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            platform=platform.platform(),
            cpu=name,
            cpus=machine.describe()["cpus"],
            cpu_flags=flags,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            free_memory_bytes=machine.available_bytes(),
            gpus=gpus(),
            torch=torch_build(),
            variables=variables(),
        )


def env(json_: AsJson = False) -> None:
    """Show versions and machine: what to paste into a bug report."""
    found = Environment.here()
    typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False) if json_ else text(found))


def text(found: Environment) -> str:
    """Write one line per kind of fact."""
    ours, *others = found.versions.items()
    lines = {
        ours[0]: ours[1] + (f", commit {found.commit[:10]}" if found.commit else ""),
        "with": ", ".join(f"{name} {version}" for name, version in others),
        "python": found.python,
        "platform": found.platform,
        "cpu": f"{found.cpu}, {found.cpus} usable; {' '.join(found.cpu_flags) or 'no flags known'}",
        "memory": f"{found.memory_bytes / 1e9:.1f} GB, {found.free_memory_bytes / 1e9:.1f} GB free for a run",
        "gpu": "; ".join(found.gpus) or "none",
        "torch": ", ".join(f"{name} {value}" for name, value in found.torch.items()),
        "variables": " ".join(f"{name}={value}" for name, value in found.variables.items()) or "none",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name + ':':{width}}{value}" for name, value in lines.items())


def processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name, and those of CPU_FLAGS that it has."""
    if sys.platform == "darwin":
        return _said_by("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine(), ()
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine(), ()
    facts = dict(line.replace("\t", "").split(":", 1) for line in content.splitlines() if ":" in line)
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return facts.get("model name", platform.machine()).strip(), tuple(flag for flag in CPU_FLAGS if flag in flags)


def gpus() -> tuple[str, ...]:
    """Describe each GPU: as NVIDIA's driver does, whatever torch is built for, or Apple's."""
    import torch

    rows = _said_by("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()
    found = [", driver ".join(row.rsplit(", ", 1)) for row in rows]
    return tuple(found or ["Apple MPS"] * torch.backends.mps.is_available())


def torch_build() -> dict[str, str | int]:
    """Return what torch is built for, and how it computes here."""
    import torch

    return {
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "cpu",
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "auto": machine.arithmetic("auto"),
    }


def variables() -> dict[str, str]:
    """Return the variables that are set; for a value that is more than a switch or a number, only that it is."""
    names = sorted(name for name in os.environ if name in SHOWN or name.startswith("POLYGRAFT_"))
    values = {name: os.environ[name] for name in names}
    shown = {name: value for name, value in values.items() if HARMLESS.fullmatch(value) and not name.endswith("_TOKEN")}
    return {name: shown.get(name, "(set)") for name in names}


def _said_by(*command: str) -> str:
    """Return what a program prints; nothing where there is none, or where it fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

"""machine.py: figures of this process, not of another."""

from __future__ import annotations

import subprocess
import sys

BIG = 800_000_000
CHILD = "from polygraft import machine; print(machine.peak_memory_bytes())"
PARENT = f"""
import subprocess, sys
block = b"x" * {BIG}
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    found = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True).stdout
    assert 0 < int(found) < BIG / 2  # 0.23 GB: Python with torch

"""Starts several processes as torchrun does."""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def torchrun():
    def _torchrun(*arguments, folder, processes=2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return _torchrun

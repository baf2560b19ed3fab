"""`polygraft env`: what a bug report needs, and nothing that names a person, a machine or a folder."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import re
import socket
from pathlib import Path

import pytest
import torch

VARIABLES = {
    "POLYGRAFT_PRECISION": ("fp32", "fp32"),
    "OMP_NUM_THREADS": ("1", "1"),
    "CUDA_VISIBLE_DEVICES": ("0,1", "0,1"),
    "HF_HUB_OFFLINE": ("1", "1"),
    "POLYGRAFT_CACHE": ("/home/zaphod/cache", "(set)"),
    "POLYGRAFT_NOTE": ("zaphod", "(set)"),
    "POLYGRAFT_TOKEN": ("1234567890123456", "(set)"),
    "TOKENIZERS_PARALLELISM": ("", "(set)"),
    "HF_TOKEN": ("hf_secret", None),
    "HF_HOME": ("/home/zaphod/hub", None),
    "PATH": (os.environ["PATH"], None),
}


@pytest.fixture
def printed(invoke, monkeypatch):
    """What the command prints for somebody else, on a machine with a name of its own."""
    for name, (value, _) in VARIABLES.items():
        monkeypatch.setenv(name, value)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "zaphod")
    monkeypatch.setenv("HOME", "/home/zaphod")
    monkeypatch.setattr(socket, "gethostname", lambda: "magrathea")
    monkeypatch.setattr(platform, "node", lambda: "magrathea")

    def _printed(*options):
        result = invoke("env", *options)
        assert result.exit_code == 0, result.output
        return result.stdout

    return _printed


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_nothing_is_said_of_people_machines_and_folders(printed, options):
    home, user, host = Path.home(), getpass.getuser(), platform.uname().node
    text = printed(*options)
    words = set(re.findall(r"[\w.-]+", text))
    assert not words & {"zaphod", "magrathea", "hf_secret", str(home), user, host}
    assert not re.findall(r"(?<!\w)/\w+", text)  # an absolute path


def test_what_it_says_is_so(printed):
    found = json.loads(printed("--json"))
    assert found["versions"]["transformers"] == importlib.metadata.version("transformers")
    assert 1 <= found["cpus"] <= (os.cpu_count() or 1)
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["torch"]["auto"] == "fp32"  # by POLYGRAFT_PRECISION
    assert found["free_memory_bytes"] <= found["memory_bytes"] or torch.cuda.is_available()
    shown = {name: shown for name, (_, shown) in VARIABLES.items()}
    assert {name: found["variables"].get(name) for name in shown} == shown


def test_text_has_what_json_has(printed):
    found, text = json.loads(printed("--json")), printed()
    for value in (*found["versions"].values(), found["python"], found["platform"], found["cpu"], *found["cpu_flags"]):
        assert value in text

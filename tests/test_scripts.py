"""Scripts that no other test runs: each can at least be imported, so that none names what is gone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_imports_what_there_is(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        for name in set(sys.modules) - before:  # scripts of two folders have the same names
            if not name.startswith(("polygraft", "torch", "transformers")):
                del sys.modules[name]

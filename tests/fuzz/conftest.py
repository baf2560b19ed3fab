"""Good files of every kind, which the tests of this folder break: polygraft's own, of tiny models."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kinds

from polygraft.settings import Export, PairData
from polygraft.stages import export

MODELS = ("tokenizer", "config", "weights")


def _of_report() -> Any:
    """How the report's tests make their run."""
    spec = importlib.util.spec_from_file_location("report_run", Path(__file__).parents[1] / "report" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def good(tmp_path_factory, write_tiny_models, sentences) -> Path:
    """A folder for each of `kinds.KINDS`; POLYGRAFT_FUZZ_GOOD is where they are kept."""
    given = os.environ.get("POLYGRAFT_FUZZ_GOOD")
    if given and Path(given).is_dir():
        return Path(given)
    folder = tmp_path_factory.mktemp("good")
    kinds.write_plain(folder)
    work = tmp_path_factory.mktemp("work")
    write_tiny_models(work)
    for name in MODELS:
        shutil.copytree(work / "mbart", folder / name)
    report = _of_report()
    report.forget_rows(work / "mbart")
    run = report.make(work, sentences)
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("*.safetensors", "checkpoints"))
    pairs = PairData(validation_file=str(work / "pairs.jsonl"), source_lang="uk", target_lang="uk")
    tuned = run / "detour" / "seed-1" / "finetune"
    export.run(Export(num_beams=1, max_new_tokens=4, max_samples=2), str(tuned), pairs, folder / "exported")
    return Path(shutil.copytree(folder, given)) if given else folder

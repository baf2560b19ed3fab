"""What is served: checkpoints, exported folders and runs, by names of their own; they write as `generate` does."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from polygraft.errors import CheckpointError, RecipeError
from polygraft.inference.engine import generate_texts
from polygraft.runs.records import write_record
from polygraft.serving.server import configured
from polygraft.serving.shelf import open_all
from polygraft.settings import Generate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write_run(tmp_path, base_recipe, base_arms, write_tiny_models):
    """Writes outputs/demo with the arms' fine-tuned models, as far as they are done."""

    def _write(done: dict[tuple[str, int], str]):
        folder = tmp_path / "outputs" / "demo"
        folder.mkdir(parents=True)
        recipe = yaml.safe_load(base_recipe + base_arms) | {"seeds": [3, 4]}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        for (arm, seed), status in done.items():
            stage = folder / arm / f"seed-{seed}" / "finetune"
            write_tiny_models(stage.parent)
            (stage.parent / "mbart").rename(stage)
            write_record(stage, {"status": status, "fingerprint": "x", "format": 1})
        return folder

    return _write


def test_the_arms_of_a_run_are_side_by_side(write_run):
    run = write_run({("plain", 3): "running", ("plain", 4): "done", ("detour", 3): "done", ("detour", 4): "done"})
    served = open_all([str(run)])
    assert list(served) == ["demo: plain", "demo: detour"]
    places = [model.engine.name for model in served.values()]
    assert places == [str(run / "plain/seed-4/finetune"), str(run / "detour/seed-3/finetune")]


def test_a_run_that_has_nothing_yet(write_run):
    with pytest.raises(RecipeError, match="no arm of this run is fine-tuned yet"):
        open_all([str(write_run({("plain", 3): "running"}))])


def test_two_of_one_name_are_refused(tiny_mbart_dir):
    with pytest.raises(RecipeError, match="two models are called"):
        open_all([str(tiny_mbart_dir), str(tiny_mbart_dir)])


def test_what_is_no_model_is_said_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        open_all([str(tmp_path / "empty")])


def test_a_real_model_writes_what_generate_writes(serve, tiny_mbart_dir, sentences):
    (model,) = open_all([str(tiny_mbart_dir)]).values()
    assert model.name == f"{tiny_mbart_dir.parent.name}/{tiny_mbart_dir.name}"
    client = serve(model, num_beams=2, max_new_tokens=8)
    found = client.generate(*sentences[:3], source_lang="en", target_lang="uk", length_penalty=0.5)
    expected = generate_texts(
        str(tiny_mbart_dir), sentences[:3], "en", "uk", Generate(num_beams=2, max_new_tokens=8, length_penalty=0.5)
    )
    assert [[one["text"] for one in result["outputs"]] for result in found.json["results"]] == expected


@contextmanager
def process(model) -> Iterator[tuple[subprocess.Popen, Callable[[], str]]]:
    """`polygraft serve` as a user starts it, and a function that waits for its address."""
    command = [sys.executable, "-m", "polygraft", "serve", "--model", str(model), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "POLYGRAFT_TOKEN"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        try:
            yield (
                started,
                lambda: next(re.findall(r"http://\S+", line)[0] for line in started.stderr if "http://" in line),
            )
        finally:
            started.kill()


@pytest.mark.slow
def test_a_signal_ends_it_cleanly(tiny_mbart_dir):
    with process(tiny_mbart_dir) as first, process(tiny_mbart_dir) as second:
        for (started, address), number in ((first, signal.SIGINT), (second, signal.SIGTERM)):
            text = {"texts": ["a"], "source_lang": "en", "target_lang": "uk", "max_new_tokens": 2}
            request = urllib.request.Request(
                f"{address()}api/generate", json.dumps(text).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert len(json.load(answer)["results"]) == 1
            started.send_signal(number)
            _, said = started.communicate(timeout=20)
            assert (started.returncode, said.splitlines()[-1]) == (0, "serve: ended")
            assert "Traceback" not in said


@pytest.mark.slow
def test_fifty_clients_are_all_answered():
    """Of benchmarks/serve.py, for some seconds: every request is answered, none with a failure or a refusal."""
    command = [sys.executable, str(ROOT / "benchmarks/serve.py"), "--clients", "50", "--seconds", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["statuses"] == {"200": found["requests"]}
    assert found["requests"] >= 50


def test_handlers_of_others_stay_open():
    """uvicorn's own configuration of logging closes all that there are, absl's with the stream that it writes to."""
    closed: list[str] = []

    class Watched(logging.Handler):
        def close(self) -> None:
            closed.append("closed")
            super().close()

    watched = Watched()
    configured(lambda *_: None)
    assert closed == []
    watched.close()
    assert closed == ["closed"]

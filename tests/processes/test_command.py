"""The command under torchrun: one process writes and prints, and what fails in one ends all."""

import json

import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_tiny_models, sentences):
    folder = tmp_path_factory.mktemp("command")
    write_tiny_models(folder)
    rows = [{"text": f"{a} {b}"[:150], "summary": b} for a in sentences for b in sentences[:4]]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("\n".join(sentences * 2))
    (folder / "broken.jsonl").write_text('{"text": "a", "summary": "b"}\n{"text"')
    short = {"budget": {"steps": 4}, "per_device_train_batch_size": 2, "precision": "fp32"}
    recipe = {
        "name": "r", "output_dir": "out", "source": "xlmr", "target": "mbart", "add_languages": {"be_BY": "uk_UA"},
        "text": {"train_file": "text.txt", "lang": "uk"},
        "pairs": {"train_file": "pairs.jsonl", "test_file": "pairs.jsonl", "source_lang": "uk"},
        "finetune": short, "evaluate": {"num_beams": 1, "max_new_tokens": 4, "max_samples": 4},
        "arms": {
            "direct": {"transfer": {"mode": "recentre"}, "adapt_target": short},
            "detour": {"adapt": short, "transfer": {"method": "distill", **short}, "adapt_target": short},
        },
        "verdict": {"treatment": "detour", "control": "direct"},
    }  # fmt: skip
    (folder / "r.yaml").write_text(json.dumps(recipe))
    return folder


FINETUNE = ["-m", "polygraft", "finetune", "--model", "mbart", "--source-lang", "uk", "--set", "precision=fp32"]


@pytest.fixture
def finetune(files, torchrun):
    return lambda *more: torchrun(*FINETUNE, *more, folder=files)


def test_one_process_writes_and_prints_and_can_be_gone_on_with(files, finetune):
    options = ["--train-file", "pairs.jsonl", "--steps", "4", "--per-device-train-batch-size", "2"]
    first = finetune(*options, "--output-dir", "tuned")
    assert first.returncode == 0, first.stderr[-2000:]
    assert first.stdout.count("finetune: done, in tuned") == 1
    assert first.stderr.count("== finetune") == 1
    assert load_file(files / "tuned" / "model.safetensors")
    assert not (files / "tuned" / "checkpoints").exists()
    again = finetune(*options, "--output-dir", "tuned")
    assert again.returncode == 0
    assert "== finetune" not in again.stderr, "it is done"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--train-file", "none.jsonl"], 3, "none.jsonl: no such file"),
        (["--train-file", "broken.jsonl"], 3, "broken JSON"),
        (["--train-file", "pairs.jsonl", "--set", "learning_rate=-1"], 2, "learning_rate"),
        (["--train-file", "pairs.jsonl", "--learning-rate", "1e30"], 1, "diverged"),
    ],
)
def test_an_error_is_said_and_ends_all(finetune, options, code, said):
    run = finetune(*options, "--steps", "4", "--output-dir", f"bad-{code}-{len(options)}")
    assert run.returncode != 0
    assert f"exitcode  : {code}" in run.stderr, run.stderr[-3000:]
    assert said in run.stderr
    assert "Traceback (most recent call last):\n  File" not in run.stderr.split("torch/distributed")[0]


def test_an_error_in_one_process_ends_the_other(files, torchrun):
    """The second process alone has no memory for it: it says so, and the first does not wait for ever."""
    script = files / "one_fails.py"
    script.write_text(
        "import os, sys\n"
        "import polygraft.stages.finetune as stage\n"
        "from polygraft.cli import main\n"
        "if os.environ['RANK'] == '1':\n"
        "    def load(name): raise MemoryError\n"
        "    stage.checkpoints.load_seq2seq = load\n"
        "main()\n"
    )
    run = torchrun(script, *FINETUNE[2:], "--train-file", "pairs.jsonl", "--steps", "4", "--output-dir", "one-fails",
                   folder=files)  # fmt: skip
    assert run.returncode != 0
    assert "polygraft: out of memory" in run.stderr
    assert run.stderr.count("exitcode  : 1 ") >= 1


def test_a_whole_recipe(files, torchrun):
    run = torchrun("-m", "polygraft", "run", "r.yaml", folder=files)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("Report: ") == 1
    assert run.stderr.count("== r/detour/seed-1") == 0
    # what the main process does alone saves checkpoints, too, for which nobody else waits
    for stage in ("add_languages", "transfer", "adapt_target", "finetune", "evaluate"):
        assert json.loads((files / f"out/r/direct/seed-1/{stage}/stage.json").read_text())["status"] == "done"
    for stage in ("adapt", "transfer", "adapt_target", "finetune", "evaluate"):
        assert run.stderr.count(f"== detour/seed-1/{stage}\n") == 1
        record = json.loads((files / f"out/r/detour/seed-1/{stage}/stage.json").read_text())
        assert record["status"] == "done"
    assert (files / "out/r/report.html").is_file()

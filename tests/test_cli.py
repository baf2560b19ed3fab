"""The command line: exit codes, messages, what each verb hands to its stage, and that help needs no torch."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import polygraft
from polygraft.cli import app
from polygraft.cli_errors import quieten, without_shard_bars
from polygraft.errors import CheckpointError, DataError, RecipeError, TransferError
from polygraft.recipe import MLM, Denoising, Evaluate, PairData, TextData

RECIPE = """\
name: demo
source: polygraft/nano-xlmr
text: {{train_file: {folder}/text.txt}}
pairs: {{train_file: {folder}/train.jsonl, test_file: {folder}/test.csv}}
adapt: {{budget: {{steps: 100}}}}
transfer: {{}}
finetune: {{budget: {{epochs: 2}}}}
arms:
  plain: {{adapt: null, transfer: null}}
  detour: {{}}
verdict: {{treatment: detour, control: plain}}
"""


def invoke(*arguments: str, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin)


@pytest.fixture
def fake(monkeypatch):
    """Puts a module with the given functions in the place of one of polygraft's, whether or not it was imported."""

    def _fake(name: str, **functions: Any) -> None:
        module = SimpleNamespace(**functions)
        monkeypatch.setitem(sys.modules, f"polygraft.{name}", module)
        if "." not in name:
            monkeypatch.setattr(polygraft, name, module, raising=False)

    return _fake


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "text.txt").write_text("日本\n韓国\n", encoding="utf-8")
    (tmp_path / "train.jsonl").write_text('{"text": "a", "summary": "b"}\n')
    (tmp_path / "test.csv").write_text("text,summary\na,b\nc,d\n")
    path = tmp_path / "demo.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


RESULT = {
    "verdict": {"word": "helped", "sentence": "The detour helped: [0.03] nats per token less."},
    "report": "outputs/demo/report.html",
    "table": [
        {"arm": "plain", "chrf++": 21.23456, "documents": 20},
        {"arm": "detour", "chrf++": None, "documents": 20},
    ],
}


def test_run_prints_table_then_verdict_then_report(fake, recipe):
    seen: dict[str, Any] = {}
    fake("pipeline", run=lambda recipe, *, recipe_text: seen.update(recipe=recipe, text=recipe_text) or RESULT)
    result = invoke("run", str(recipe), "--set", "adapt.learning_rate=1e-4", "--output-dir", "no")
    assert result.exit_code == 0, result.output
    assert seen["recipe"].adapt.learning_rate == 1e-4
    assert seen["recipe"].output_dir == "no"
    assert "learning_rate: 0.0001" in seen["text"]  # what is kept with the results is what was run, overrides included
    parts = ["plain", "21.23", "detour", "[0.03] nats per token less", "outputs/demo/report.html"]
    places = [result.stdout.index(part) for part in parts]
    assert places == sorted(places)


def test_run_without_verdict(fake, recipe):
    fake("pipeline", run=lambda recipe, *, recipe_text: {**RESULT, "verdict": None, "table": []})
    result = invoke("run", str(recipe))
    assert result.exit_code == 0
    assert result.stdout == "Report: outputs/demo/report.html\n"


def test_check_reads_arms_and_data(recipe, tmp_path):
    result = invoke("check", str(recipe))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "arm plain: finetune → evaluate",
        "arm detour: adapt → transfer → finetune → evaluate",
        f"{tmp_path}/text.txt: 2 rows",
        f"{tmp_path}/train.jsonl: 1 rows",
        f"{tmp_path}/test.csv: 2 rows",
        f"{recipe}: ok (2 arms, 1 seeds)",
    ]


def test_check_reports_all_data_problems_at_once(recipe, tmp_path):
    (tmp_path / "text.txt").unlink()
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "test.csv").write_text("")
    result = invoke("check", str(recipe))
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "text.txt: no such file" in result.stderr
    assert "train.jsonl, line 1: there is no column 'summary'" in result.stderr
    assert "test.csv: holds no text" in result.stderr


def test_check_reports_all_recipe_problems_at_once(recipe):
    result = invoke("check", str(recipe), "--set", "seeds=[1,1]", "--set", "adapt.learning_rat=1")
    assert result.exit_code == 2
    assert "2 problems" in result.stderr
    assert "did you mean `learning_rate`?" in result.stderr


USAGE = {
    "no such verb": (["frobnicate"], "No such command"),
    "no such option": (["schema", "--frob"], "No such option"),
    "missing option": (["adapt", "--model", "m"], "Missing option"),
    "bad choice": (["adapt", "--model", "m", "--train-file", "t", "--output-dir", "o", "--objective", "clm"], "clm"),
    "missing recipe file": (["check", "nowhere.yaml"], "nowhere.yaml: no such recipe file"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_usage_errors_exit_2(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


ERRORS = {
    "recipe": (RecipeError("bad recipe"), 2, "polygraft: bad recipe"),
    "data": (DataError("bad data"), 3, "polygraft: bad data"),
    "checkpoint": (CheckpointError("bad model"), 1, "polygraft: bad model"),
    "transfer": (TransferError("bad pair"), 1, "polygraft: bad pair"),
    "interrupted": (KeyboardInterrupt(), 130, "Run the same command again to resume"),
    "disk full": (OSError(errno.ENOSPC, "No space left on device", "out/model"), 1, "out/model: the disk is full"),
    "disk full, said by safetensors": (
        RuntimeError("I/O error: No space left on device (os error 28)"),
        1,
        "the disk is full",
    ),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "out"), 1, "out: is on a read-only disk"),
    "denied": (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "out: permission denied"),
    "memory": (MemoryError(), 1, "out of memory. Lower per_device_train_batch_size"),
    "a bug": (ZeroDivisionError("division by zero"), 1, "unexpected error: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize(("error", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_become_a_message_and_an_exit_code(fake, monkeypatch, tmp_path, error, code, message):
    monkeypatch.delenv("POLYGRAFT_DEBUG", raising=False)

    def write(run_dir):
        raise error

    fake("report", write=write)
    result = invoke("report", str(tmp_path))
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_debug_shows_where_an_error_happened(fake, monkeypatch, tmp_path):
    def write(run_dir):
        raise DataError("bad data")

    fake("report", write=write)
    monkeypatch.setenv("POLYGRAFT_DEBUG", "1")
    assert isinstance(invoke("report", str(tmp_path)).exception, DataError)


def test_report_prints_the_path(fake, tmp_path):
    fake("report", write=lambda run_dir: run_dir / "report.html")
    assert invoke("report", str(tmp_path)).stdout == f"{tmp_path / 'report.html'}\n"


def test_schema_is_json_with_meanings():
    result = invoke("schema")
    schema = json.loads(result.stdout)
    assert schema["$defs"]["Denoising"]["properties"]["mask_ratio"]["description"].startswith("Share of tokens removed")


@pytest.fixture
def stage(fake, tmp_path, monkeypatch):
    """Replaces a stage function (the pipeline around it is the real one); gives back the arguments of its last call."""
    monkeypatch.chdir(tmp_path)
    for name in ("t.txt", "p.jsonl", "t.jsonl"):
        (tmp_path / name).write_text("{}\n")
    calls: dict[str, Any] = {"count": 0}

    def _stage(name: str, **result: Any) -> dict[str, Any]:
        def run(*arguments: Any, **named: Any) -> dict[str, Any]:
            calls.update(arguments=arguments, count=calls["count"] + 1, **named)
            return result

        fake(name, run=run)
        return calls

    return _stage


def test_adapt_hands_over_settings_and_text(stage, tmp_path):
    calls = stage("adapt", steps=5, eval_loss=1.23456, eval_loss_first=None)
    out = tmp_path / "out"
    result = invoke(
        "adapt", "--model", "m", "--train-file", "t.txt", "--output-dir", str(out), "--lang", "no", "--tokens", "2e6",
        "--learning-rate", "1e-4", "--set", "mlm_probability=0.2", "--set", "validation_split=0.5", "--seed", "7",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, model, text, seed, out_dir = calls["arguments"]
    assert settings == MLM.model_validate(
        {"budget": {"tokens": 2_000_000}, "learning_rate": 1e-4, "mlm_probability": 0.2}
    )
    assert text == TextData(train_file="t.txt", lang="no", validation_split=0.5)
    assert (model, seed, out_dir) == ("m", 7, out)
    assert "steps: 5\neval_loss: 1.235\n" in result.stdout
    assert "eval_loss_first" not in result.stdout


def test_adapt_by_denoising_for_three_epochs_unless_told_otherwise(stage, tmp_path):
    calls = stage("adapt")
    invoke(
        "adapt", "--model", "m", "--train-file", "t.txt", "--output-dir", str(tmp_path / "o"),
        "--objective", "denoising", "--set", "permute_sentences=false",
    )  # fmt: skip
    assert calls["arguments"][0] == Denoising.model_validate({"budget": {"epochs": 3}, "permute_sentences": False})


def test_a_finished_stage_is_not_run_again_nor_replaced(stage, tmp_path):
    calls = stage("adapt", steps=5)
    command = ["adapt", "--model", "m", "--train-file", "t.txt", "--output-dir", "o"]
    first, again = invoke(*command), invoke(*command)
    assert (first.exit_code, again.exit_code, calls["count"]) == (0, 0, 1)
    assert first.stdout == again.stdout == "steps: 5\nadapt: done, in o\n"
    other = invoke(*command, "--seed", "2")
    assert other.exit_code == 1
    assert calls["count"] == 1
    assert "o holds the finished result of 'adapt'" in other.stderr
    assert json.loads((tmp_path / "o" / "stage.json").read_text())["settings"]["seed"] == 1


STAGE_PROBLEMS = {
    "all at once": (
        ["--learning-rate", "fast", "--epochs", "-1", "--set", "mlm_probabilty=1", "--set", "validation_splt=1"],
        [
            "polygraft adapt: 4 problems",
            "--learning-rate = fast: must be a number",
            "--epochs = -1: must be greater than 0",
            "--set mlm_probabilty = 1: no such key; did you mean `mlm_probability`?",
            "--set validation_splt = 1: no such key; did you mean `validation_split`?",
        ],
    ),
    "two units": (["--epochs", "1", "--steps", "2"], ["--epochs, --steps", "give exactly one of"]),
    "--set without value": (["--set", "weight_decay"], ["--set weight_decay: write key=value"]),
    "denoising's setting for mlm": (["--set", "mask_ratio=0.1"], ["--set mask_ratio = 0.1: no such key"]),
}


@pytest.mark.parametrize(("options", "expected"), STAGE_PROBLEMS.values(), ids=STAGE_PROBLEMS)
def test_bad_options_of_a_stage(options, expected):
    result = invoke("adapt", "--model", "m", "--train-file", "t.txt", "--output-dir", "o", *options)
    assert result.exit_code == 2, result.output
    for part in expected:
        assert part in result.stderr


def test_finetune_hands_over_settings_and_pairs(stage, tmp_path):
    calls = stage("finetune")
    result = invoke(
        "finetune", "--model", "m", "--train-file", "p.jsonl", "--text-column", "body", "--summary-column", "head",
        "--source-lang", "uk", "--target-lang", "en", "--output-dir", str(tmp_path / "o"), "--steps", "9",
        "--per-device-train-batch-size", "4", "--set", "max_train_samples=5", "--set", "budget.steps=8",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, model, pairs, seed, _ = calls["arguments"]
    assert (settings.budget.steps, settings.per_device_train_batch_size, model, seed) == (8, 4, "m", 1)
    assert pairs == PairData(
        train_file="p.jsonl", text_column="body", summary_column="head", source_lang="uk", target_lang="en",
        max_train_samples=5,
    )  # fmt: skip


def test_evaluate_hands_over_settings_and_pairs(stage, tmp_path):
    calls = stage("evaluate", systems={"model": {"all": {"chrf++": {"score": 31.24567, "low": 30.0, "high": 33.5}}}})
    result = invoke(
        "evaluate", "--model", "m", "--test-file", "t.jsonl", "--output-dir", str(tmp_path / "o"), "--num-beams", "1",
        "--set", "lead_tokens=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, model, pairs, out_dir = calls["arguments"]
    assert settings == Evaluate(num_beams=1, lead_tokens=4)
    assert pairs.test_file == "t.jsonl"
    assert model == "m"
    assert out_dir == tmp_path / "o"
    cells = [cell.strip() for cell in result.stdout.splitlines()[3].split("│")[1:-1]]
    assert cells == ["model", "all", "chrf++", "31.25", "30 to 33.5"]


def test_transfer_hands_over_both_sources(stage, tmp_path):
    calls = stage("transfer", plan="plan.json")
    result = invoke(
        "transfer", "--source", "after", "--source-before", "before", "--target", "t", "--mode", "delta",
        "--train-file", "t.txt", "--set", "alpha=2", "--output-dir", str(tmp_path / "o"), "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, before, after, target, text, out_dir = calls["arguments"]
    assert (settings.mode, settings.alpha, before, after, target) == ("delta", 2.0, "before", "after", "t")
    assert text == TextData(train_file="t.txt")
    assert calls["dry_run"] is True
    assert out_dir == tmp_path / "o"


def test_transfer_without_dry_run_and_without_text(stage, tmp_path):
    calls = stage("transfer")
    result = invoke("transfer", "--target", "t", "--mode", "recentre", "--output-dir", str(tmp_path / "o"))
    assert result.exit_code == 0, result.output
    assert calls["arguments"][1:5] == (None, None, "t", None)
    assert calls["dry_run"] is False


TRANSFER_PROBLEMS = {
    "repair": ([], ["--source: is missing; mode repair transfers from it"]),
    "delta": (["--mode", "delta"], ["--source: is missing", "--source-before: is missing", "--train-file: is missing"]),
    "a column of no file": (["--text-column", "x"], ["--train-file: is missing"]),
    "mode": (["--mode", "delt"], ["--mode = delt: must be repair or recentre or delta; did you mean `delta`?"]),
}


@pytest.mark.parametrize(("options", "expected"), TRANSFER_PROBLEMS.values(), ids=TRANSFER_PROBLEMS)
def test_bad_options_of_transfer(options, expected):
    result = invoke("transfer", "--target", "t", "--output-dir", "o", *options)
    assert result.exit_code == 2, result.output
    assert all(part in result.stderr for part in expected)


@pytest.fixture
def shout(fake):
    """A model that shouts, in two lines where the input says so."""
    calls: dict[str, Any] = {}

    def generate_texts(model, texts, source_lang, target_lang, settings):
        calls.update(model=model, texts=texts, source_lang=source_lang, target_lang=target_lang, settings=settings)
        return [text.upper().replace(" / ", "\n") for text in texts]

    fake("inference.generate", generate_texts=generate_texts)
    return calls


def test_generate_from_stdin_keeps_one_line_per_line(shout):
    result = invoke("generate", "--model", "m", "--source-lang", "no", "--num-beams", "2", stdin="привіт\n\na / b\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "ПРИВІТ\n\nA B\n"
    assert shout["texts"] == ["привіт", "", "a / b"]
    assert shout["settings"] == Evaluate(num_beams=2)
    assert (shout["source_lang"], shout["target_lang"]) == ("no", None)


def test_generate_from_file_to_file(shout, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "new" / "out.txt"
    source.write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    result = invoke(
        "generate", "--model", "m", "--input-file", str(source), "--output-file", str(out), "--batch-size", "3"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert out.read_text() == "ONE\nTWO\n"
    assert shout["settings"].per_device_eval_batch_size == 3


GENERATE_PROBLEMS = {
    "missing": (["--input-file", "nowhere.txt"], b"", 3, "nowhere.txt: no such file"),
    "empty": ([], b"\n \n", 3, "holds no text"),
    "not UTF-8": ([], b"ok\ncaf\xe9\n", 3, "line 2: byte 0xe9 is not UTF-8"),
    "beams": (["--num-beams", "0"], b"x\n", 2, "--num-beams = 0: must be greater than 0"),
    "batch size": (["--batch-size", "x"], b"x\n", 2, "--batch-size = x: must be a whole number"),
}


@pytest.mark.parametrize(("options", "stdin", "code", "message"), GENERATE_PROBLEMS.values(), ids=GENERATE_PROBLEMS)
def test_bad_input_of_generate(shout, options, stdin, code, message):
    result = invoke("generate", "--model", "m", *options, stdin=stdin)
    assert result.exit_code == code
    assert message in result.stderr
    assert "texts" not in shout


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(polygraft.__file__).parents[1])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=cwd, timeout=120)


@pytest.mark.parametrize("arguments", [["--help"], ["adapt", "--help"]])
def test_help_imports_no_heavy_library(arguments):
    code = (
        "import sys\nfrom polygraft.cli import main\n"
        f"sys.argv = ['polygraft', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10


def test_python_m_polygraft_on_a_missing_recipe_has_no_traceback(tmp_path):
    done = python("-m", "polygraft", "run", "missing.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "polygraft: missing.yaml: no such recipe file\n"


def test_advice_of_libraries_is_silenced_and_warnings_stay():
    from transformers import modeling_utils
    from transformers.utils import import_utils

    quieten()
    assert not import_utils.logger.isEnabledFor(logging.WARNING)  # "install torchvision to use …", per class
    assert modeling_utils.logger.isEnabledFor(logging.WARNING)  # weights that are missing or do not fit


def test_bars_over_checkpoint_files_are_hidden_but_downloads_are_shown():
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    try:
        without_shard_bars()
        assert not transformers_logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    finally:
        if before:
            transformers_logging.enable_progress_bar()


def test_output_is_utf8_whatever_the_locale(shout, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("ї\n".encode())))
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as end:
        app(["generate", "--model", "m"])
    stdout.flush()
    assert end.value.code == 0
    assert stdout.buffer.getvalue() == "Ї\n".encode()

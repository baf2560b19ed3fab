"""The verbs of single stages: what each hands to its stage, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polygraft.objectives import MLM, Denoising
from polygraft.settings import Evaluate, Lora, PairData, TextData
from polygraft.transfers.methods import EncoderTransfer, NoTransfer


@pytest.fixture
def stage(fake, tmp_path, monkeypatch):
    """Replaces a stage function (the pipeline around it is the real one); gives back the arguments of its last call."""
    monkeypatch.chdir(tmp_path)
    for name in ("t.txt", "p.jsonl", "t.jsonl"):
        (tmp_path / name).write_text("{}\n")
    calls: dict[str, Any] = {"count": 0}

    def _stage(module: str, function: str = "run", **result: Any) -> dict[str, Any]:
        def run(*arguments: Any, **named: Any) -> dict[str, Any]:
            calls.update(arguments=arguments, count=calls["count"] + 1, **named)
            return result

        fake(f"stages.{module}", **{function: run})
        monkeypatch.setattr("polygraft.models.checkpoints.commit_of", lambda name: "c0ffee")  # "m" is no model of a hub
        return calls

    return _stage


def test_adapt_hands_over_settings_and_text(stage, tmp_path, invoke):
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


def test_adapt_by_denoising_for_three_epochs_unless_told_otherwise(stage, tmp_path, invoke):
    calls = stage("adapt")
    invoke(
        "adapt", "--model", "m", "--train-file", "t.txt", "--output-dir", str(tmp_path / "o"),
        "--objective", "denoising", "--lang", "uk", "--set", "permute_sentences=false",
    )  # fmt: skip
    assert calls["arguments"][0] == Denoising.model_validate({"budget": {"epochs": 3}, "permute_sentences": False})


@pytest.mark.parametrize("verb", ["adapt", "finetune"])
def test_an_adapter_by_set(verb, stage, invoke):
    calls = stage(verb)
    command = [verb, "--model", "m", "--train-file", "t.jsonl", "--output-dir", "o"]
    command += ["--source-lang", "uk"] if verb == "finetune" else []
    result = invoke(
        *command, "--set", "adapter.type=lora", "--set", "adapter.r=8", "--set", "adapter.target_modules=[q]"
    )
    assert result.exit_code == 0, result.output
    assert calls["arguments"][0].adapter == Lora(r=8, target_modules=["q"])
    wrong = invoke(*command, "--set", "adapter.type=lora", "--set", "adapter.bottleneck_size=8")
    assert wrong.exit_code == 2 and "--set adapter.bottleneck_size = 8: no such key of `lora`" in wrong.stderr


def test_a_finished_stage_is_not_run_again_nor_replaced(stage, tmp_path, invoke):
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
            "--set mlm_probabilty = 1: no such key of `mlm`; did you mean `mlm_probability`?",
            "--set validation_splt = 1: no such key; did you mean `validation_split`?",
        ],
    ),
    "two units": (["--epochs", "1", "--steps", "2"], ["adapt: --epochs, --steps: give exactly one of"]),
    "two units, one of them set": (
        ["--epochs", "1", "--set", "budget.steps=2"],
        ["--epochs, --set budget.steps"],
    ),
    "an adapter's key of another kind": (
        ["--adapter.type", "lora", "--adapter.bottleneck-size", "8"],
        ["--adapter.bottleneck-size = 8: no such key of `lora`"],
    ),
    "an adapter of no kind": (["--adapter.r", "8"], ["--adapter.r: needs `type`, the kind that it is of"]),
    "an adapter of a wrong kind": (
        ["--adapter.type", "lorra"],
        ["--adapter.type = lorra: must be lora or"],
    ),
    "an adapter and a part": (
        ["--trainable", "embeddings", "--adapter.type", "lora"],
        ["polygraft adapt: an adapter is trained alone: leave out `trainable: embeddings`, or `adapter`"],
    ),
    "in a section that is set": (
        ["--set", "adapter={type: lora, r: 0}"],
        ["--set adapter.r = 0: must be greater"],
    ),
    "truth for a number": (["--steps", "true"], ["--steps = true: must be a number"]),
    "number for a truth": (["--trim-vocabulary", "3"], ["--trim-vocabulary = 3: must be true or false"]),
    "a file of no name": (
        ["--set", "validation_file=3"],
        ["--set validation_file = 3: must be text; put"],
    ),
    "--set without value": (["--set", "weight_decay"], ["--set weight_decay: write key=value"]),
    "denoising's setting for mlm": (["--set", "mask_ratio=0.1"], ["--set mask_ratio = 0.1: no such key"]),
}


@pytest.mark.parametrize(("options", "expected"), STAGE_PROBLEMS.values(), ids=STAGE_PROBLEMS)
def test_bad_options_of_a_stage(options, expected, invoke):
    result = invoke("adapt", "--model", "m", "--train-file", "t.txt", "--output-dir", "o", *options)
    assert result.exit_code == 2, result.output
    for part in expected:
        assert part in result.stderr


def test_finetune_hands_over_settings_and_pairs(stage, tmp_path, invoke):
    calls = stage("finetune")
    result = invoke(
        "finetune", "--model", "m", "--train-file", "p.jsonl", "--text-column", "body", "--summary-column", "head",
        "--source-lang", "uk", "--target-lang", "en", "--output-dir", str(tmp_path / "o"), "--steps", "9",
        "--per-device-train-batch-size", "4", "--max-train-samples", "5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, model, pairs, seed, _ = calls["arguments"]
    assert (settings.budget.steps, settings.per_device_train_batch_size, model, seed) == (9, 4, "m", 1)
    assert pairs == PairData(
        train_file="p.jsonl", text_column="body", summary_column="head", source_lang="uk", target_lang="en",
        max_train_samples=5,
    )  # fmt: skip


def test_evaluate_hands_over_settings_and_pairs(stage, tmp_path, invoke):
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
    head, row, _ = result.stdout.splitlines()
    assert row == "model   all       chrf++  31.25  30 to 33.5"
    assert [row[head.index(name) :].split("  ")[0] for name in head.split()] == row.split(maxsplit=4)


def test_transfer_hands_over_both_sources(stage, tmp_path, invoke):
    calls = stage("transfer", plan={"entries": [], "tied": {}, "warnings": ["all is made up"]})
    result = invoke(
        "transfer", "--source", "after", "--source-before", "before", "--target", "t", "--mode", "delta",
        "--train-file", "t.txt", "--set", "alpha=2", "--output-dir", str(tmp_path / "o"), "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, before, after, target, text, out_dir = calls["arguments"]
    assert (settings.mode, settings.alpha, before, after, target) == ("delta", 2.0, "before", "after", "t")
    assert text == TextData(train_file="t.txt")
    assert calls["dry_run"] is True
    assert "Warning: all is made up." in result.stdout
    assert out_dir == tmp_path / "o"


def test_transfer_without_dry_run_and_without_text(stage, tmp_path, invoke):
    calls = stage("transfer")
    result = invoke("transfer", "--target", "t", "--mode", "recentre", "--output-dir", str(tmp_path / "o"))
    assert result.exit_code == 0, result.output
    assert calls["arguments"][1:5] == (None, None, "t", None)
    assert "dry_run" not in calls


def test_transfer_of_nothing_needs_no_source_and_no_text(stage, tmp_path, invoke):
    calls = stage("transfer")
    result = invoke("transfer", "--target", "t", "--method", "none", "--output-dir", str(tmp_path / "o"))
    assert result.exit_code == 0, result.output
    assert calls["arguments"][:5] == (NoTransfer(), None, None, "t", None)


def test_transfer_takes_the_settings_of_its_method(stage, tmp_path, invoke):
    calls = stage("transfer")
    result = invoke(
        "transfer", "--method", "encoder", "--source", "s", "--target", "t", "--train-file", "t.txt", "--lang", "uk",
        "--set", "control=random", "--seed", "3", "--output-dir", str(tmp_path / "o"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert calls["arguments"][0] == EncoderTransfer(control="random")
    assert calls["seed"] == 3


TRANSFER_PROBLEMS = {
    "encoder": (["--method", "encoder"], ["--source: is missing", "--train-file: is missing; method encoder compares"]),
    "distill": (["--method", "distill", "--source", "s"], ["--source-before: is missing", "--train-file: is missing"]),
    "a budget of no use": (["--epochs", "2"], ["--epochs: no such key of `embeddings`; valid here: method, mode"]),
    "no such method": (["--method", "mapp"], ["--method = mapp: must be embeddings or bottleneck or encoder or"]),
    "mode of no mode": (
        ["--method", "encoder", "--mode", "delta"],
        ["--mode = delta: no such key of `encoder`"],
    ),
    "repair": ([], ["--source: is missing; mode repair transfers from it"]),
    "delta": (["--mode", "delta"], ["--source: is missing", "--source-before: is missing", "--train-file: is missing"]),
    "a column of no file": (["--text-column", "x"], ["--train-file: is missing"]),
    "mode": (["--mode", "delt"], ["--mode = delt: must be repair or recentre or delta; did you mean"]),
}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("adapt --objective denoising --train-file t.txt", "polygraft adapt: --lang: is missing (Language of the text"),
        ("finetune --train-file t.csv --target-lang uk", "polygraft finetune: --source-lang: is missing (Language of"),
        ("transfer --method encoder --source s --train-file t.txt", "polygraft transfer: --lang: is missing"),
        ("rank --train-file t.txt --target m", "polygraft rank: --lang: is missing"),
    ],
)
def test_no_language_is_assumed(command, expected, invoke):
    verb = command.split()[0]
    model = {"rank": [], "transfer": ["--target", "m", "--output-dir", "o"]}
    model = model.get(verb, ["--model", "m", "--output-dir", "o"])
    result = invoke(*command.split(), *model)
    assert (result.exit_code, expected in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("command", "column"),
    [("adapt --objective denoising", "lang_column"), ("adapt", "text_column"), ("finetune", "source_lang_column")],
)
def test_a_column_of_languages_will_do(command, column, stage, invoke):
    calls = stage(command.split()[0])
    options = ["--model", "m", "--train-file", "t.jsonl", "--output-dir", "o", "--set", f"{column}=tongue"]
    assert invoke(*command.split(), *options).exit_code == 0
    assert getattr(calls["arguments"][2], column) == "tongue"


@pytest.mark.parametrize(("options", "expected"), TRANSFER_PROBLEMS.values(), ids=TRANSFER_PROBLEMS)
def test_bad_options_of_transfer(options, expected, invoke):
    result = invoke("transfer", "--target", "t", "--output-dir", "o", *options)
    assert result.exit_code == 2, result.output
    assert all(part in result.stderr for part in expected)


@pytest.mark.parametrize("verb", ["adapt", "finetune", "transfer", "evaluate", "trim"])
def test_several_files(stage, verb, tmp_path, invoke):
    (tmp_path / "more.jsonl").write_text("{}\n")
    calls = stage(*(("vocabulary", "run_trim") if verb == "trim" else (verb,)), systems={})
    option = "--test-file" if verb == "evaluate" else "--train-file"
    required = {"transfer": ["--target", "m", "--method", "none"]}.get(verb, ["--model", "m"])
    required += ["--source-lang", "uk"] if verb in ("finetune", "evaluate") else []
    files = [option, "t.jsonl", option, "more.jsonl"]
    result = invoke(verb, *required, *files, "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    given = [*calls["arguments"], *calls.values()]
    found = {getattr(one, option[2:].replace("-", "_"), None) for one in given}
    assert ("t.jsonl", "more.jsonl") in found
    record = json.loads((tmp_path / "out/stage.json").read_text())
    assert [name for name in record["inputs"] if name.startswith("file:")] == ["file:t.jsonl", "file:more.jsonl"]
    (tmp_path / "more.jsonl").write_text("{} \n")
    again = invoke(verb, *required, *files, "--output-dir", str(tmp_path / "out"))
    assert "holds the finished result" in again.stderr  # of other contents

"""Flags made from settings: all of them, with their docstrings, and read as `--set` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from polygraft.cli import app, checkpoints, compare, stages
from polygraft.cli.flags import FIRST, flag_name, flags_of
from polygraft.cli.options import settings
from polygraft.errors import RecipeError
from polygraft.objectives import CLM, MLM, Denoising
from polygraft.settings import Bottleneck, Generate, Lora, TextData
from polygraft.transfers.methods import DistillTransfer, EmbeddingsTransfer

VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SECTIONS = {
    "adapt": (stages.Adapt, ()),
    "transfer": (stages.Transfer, ()),
    "finetune": (stages.Tuning, ("test_file",)),
    "evaluate": (stages.Scoring, stages.NOT_SCORED),
    "generate": (stages.Generation, ()),
    "trim": (checkpoints.Trimming, ()),
    "export": (checkpoints.Exporting, checkpoints.NOT_EXPORTED),
    "score": (compare.Outputs, ()),
    "compare": (compare.Outputs, ()),
}


def leaves(schema: Any, part: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths and docstrings of all settings in a JSON schema, which pydantic makes from the same classes by itself."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]] | {"description": part.get("description", "")}
    found = [inner for key in ("anyOf", "oneOf") for inner in part.get(key, []) if inner.get("type") != "null"]
    sections = [one for one in found if "$ref" in one or "oneOf" in one or "properties" in one]
    if sections:
        for one in sections:
            yield from leaves(schema, one, path)
    elif "properties" in part:
        for key, inner in part["properties"].items():
            yield from leaves(schema, inner, (*path, key))
    else:
        yield path, part["description"]


@pytest.mark.parametrize("verb", SECTIONS)
def test_every_setting_has_a_flag_with_its_docstring(verb):
    sections, unused = SECTIONS[verb]
    schema = sections.model_json_schema()
    expected = {(path, said) for path, said in leaves(schema, schema, ()) if path[1] not in unused}
    assert len(expected) > 1
    options = {name: option for option in VERBS[verb].params for name in option.opts}
    kinds = {("adapt", "objective"), ("transfer", "method")}
    for path, said in expected:
        if path not in kinds and path[-2:] != ("adapter", "type"):
            first = re.split(r"\. (?=[A-Z])", " ".join(said.split()))[0].translate(str.maketrans("[]", "()"))
            assert first.rstrip(".") in " ".join(options[flag_name(path)].help.split())
    made = {flag_name(flag.path) for flag in flags_of(sections, (), unused)}
    assert made == {flag_name(path) for path, _ in expected}
    own = {"--model", "--target", "--output-dir", "--seed", "--source", "--source-before", "--dry-run", "--set"}
    own |= {"--output-file", "files", "--against", "--metric", "--margin", "--html", "--json"}
    assert {option.opts[0] for option in VERBS[verb].params} == made | own & options.keys()


def given(verb: str, *words: str) -> Any:
    """The sections that a command line gives: `--flag value` or `key=value`."""
    sections, unused = SECTIONS[verb]
    flags = {"__".join(flag.path): flag for flag in flags_of(sections, (), unused)}
    arguments = [part for word in words if word.startswith("--") for part in word.split(" ", 1)]
    values = VERBS[verb].make_parser(typer.Context(VERBS[verb])).parse_args(arguments)[0]
    flagged = [(flags[name], value) for name, value in values.items() if name != "files"]
    return settings(f"polygraft {verb}", sections, flagged, [word for word in words if word[0] != "-"], unused)


TEXT = "--train-file t.txt"
SAME = {
    "numbers": ("adapt", "--learning-rate 1e-4|--tokens 2e6", "learning_rate=1e-4|budget.tokens=2e6"),
    "an adapter": ("adapt", "--adapter.type lora|--adapter.r 8", "adapter={type: lora, r: 8}"),
    "a list": (
        "adapt",
        "--adapter.type lora|--adapter.target-modules q|--adapter.target-modules v",
        "adapter.type=lora|adapter.target_modules=[q, v]",
    ),
    "truths": ("adapt", "--objective denoising|--permute-sentences no", "objective=denoising|permute_sentences=no"),
    "choices": ("adapt", "--trim-vocabulary true|--trainable embeddings", "trim_vocabulary=true|trainable=embeddings"),
    "texts": ("adapt", "--lang no|--lang-column 2024", "text.lang=no|adapt.budget.epochs=3|lang_column='2024'"),
    "files": ("adapt", "--validation-file a.txt|--validation-file b.txt", "validation_file=[a.txt, b.txt]"),
    "nothing": ("adapt", "--per-device-train-batch-tokens null", "per_device_train_batch_tokens=null"),
    "a mode": ("transfer", "--mode delta|--shrinkage-count 1_0", "mode=delta|shrinkage_count=10"),
    "a method": (
        "transfer",
        "--method distill|--general.train-file g.txt|--steps 5",
        "transfer={method: distill, general: {train_file: g.txt}, budget: {steps: 5}}",
    ),
}


@pytest.mark.parametrize(("verb", "flags", "assignments"), SAME.values(), ids=SAME)
def test_a_flag_does_what_set_does(verb, flags, assignments):
    assert given(verb, TEXT, *flags.split("|")) == given(verb, TEXT, *assignments.split("|"))


def test_what_flags_give():
    adapt = given("adapt", TEXT, "--objective clm", "--steps 5", "--adapter.type bottleneck")
    assert adapt == stages.Adapt(
        adapt=CLM(budget={"steps": 5}, adapter=Bottleneck()), text=TextData(train_file="t.txt")
    )
    assert type(adapt.adapt) is CLM
    assert given("adapt", TEXT).adapt == MLM(budget={"epochs": 3})
    assert given("adapt", TEXT, "objective=denoising").adapt == Denoising(budget={"epochs": 3})
    assert given("transfer").transfer == EmbeddingsTransfer() and given("transfer").text is None
    assert given("transfer", "--method distill").transfer == DistillTransfer(budget={"epochs": 3})
    assert given("generate", "--batch-size 3").generate == Generate(per_device_eval_batch_size=3)
    lora = given("finetune", TEXT, "--adapter.type lora", "--adapter.target-modules [q, v]")
    assert lora.finetune.adapter == Lora(target_modules=["q", "v"])


PROBLEMS = {
    "no use": (
        "evaluate",
        ["--test-file t", "train_file=x"],
        "=x: polygraft evaluate has no use for it",
    ),
    "nothing to train on": ("transfer", ["--lang uk"], "--train-file: is missing (A .txt (one document per line)"),
    "no such key": ("generate", ["beams=3"], "--set beams = 3: no such key; did you mean `num_beams`?"),
    "no such key anywhere": (
        "trim",
        [TEXT, "zzz=3"],
        "--set zzz = 3: no such key; valid here: train_file,",
    ),
    "scores alone": ("score", ["--lower-is-better comet"], "'comet' is no column of scores. Name it as one"),
    "a share": ("compare", ["--confidence 95", "--score-column comet"], "--confidence = 95: must be less than 1"),
    "a section that is none": ("adapt", [TEXT, "adapt=3"], "must be a section with keys of its own"),
}


@pytest.mark.parametrize(("verb", "words", "said"), PROBLEMS.values(), ids=PROBLEMS)
def test_mistakes_are_told_with_the_flag(verb, words, said):
    with pytest.raises(RecipeError) as caught:
        given(verb, *words)
    assert said in str(caught.value)


def test_all_mistakes_are_told_at_once():
    words = ["--method encoder", "--ridge-lambda -1", "--lang uk", "--calibration-tokens x", "nonsense"]
    with pytest.raises(RecipeError) as caught:
        given("transfer", *words)
    said = str(caught.value)
    assert said.startswith("polygraft transfer: 4 problems\n  --set nonsense: write key=value")
    assert "\n  --calibration-tokens = x: must be a whole number\n  --ridge-lambda = -1: must be at least 0\n" in said
    assert "\n  --train-file: is missing (A .txt (one document" in said


def test_help_has_the_common_flags_first_and_the_rest_in_panels(invoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = [line.strip("│ *") for line in invoke("adapt", "--help").stdout.splitlines()]
    titles = [line.strip("╭─╮ ") for line in lines if line.startswith("╭")]
    assert titles == [
        "Options", "Budget: one of these (default: 3 epochs)", "Training", "Adapter", "With --objective denoising",
        "With --objective mlm", "Data", "Run",
    ]  # fmt: skip
    flags = [line.split()[0] for line in lines if line.startswith("--")]
    first = [flag_name(("adapt", key)) for key in FIRST if flag_name(("adapt", key)) in flags]
    own = ["--model", "--output-dir", "--seed"]
    assert flags[: len(own) + len(first)] == own + first
    assert [flags[len(own) + len(first) :].index(name) for name in ("--set", "--help", "--epochs")] == [0, 1, 2]
    text = " ".join(" ".join(lines).split())
    assert "lora: Ends of the names of the linear layers that are adapted, such as (q_proj, v_proj)" in text

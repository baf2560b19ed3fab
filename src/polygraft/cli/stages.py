"""The verbs that run a single stage on checkpoints and files of the user's own."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from polygraft.cli import options as o
from polygraft.cli.errors import without_shard_bars
from polygraft.cli.plan import text as plan_text
from polygraft.errors import RecipeError
from polygraft.objectives import OBJECTIVES, TextTask
from polygraft.settings import Evaluate, Finetune, Generate, InputData, OneOf, PairData, Running, Settings, TextData
from polygraft.transfers.methods import DEFAULT_METHOD, METHODS, Method

Source = Annotated[str | None, typer.Option("--source", help="The masked language model to transfer from, adapted.")]
SourceBefore = Annotated[
    str | None,
    typer.Option("--source-before", help="The same model before it was adapted (for delta, bottleneck and distill)."),
]
Target = Annotated[str, typer.Option("--target", help="The mBART checkpoint that receives it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print where every value would come from; write no model.")]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output-file",
        metavar="FILE",
        help="As its ending says, each row with its output; default: the outputs, a line each.",
    ),
]

NOT_SCORED = ("train_file", "validation_file", "validation_split", "max_train_samples")


class Adapt(Settings):
    adapt: Annotated[TextTask, OneOf("objective", OBJECTIVES, "mlm")]
    """Training"""
    text: TextData
    """Data"""
    run: Running = Running()
    """Run"""


class Transfer(Settings):
    transfer: Annotated[Method, OneOf("method", METHODS, DEFAULT_METHOD)]
    """Transfer"""
    text: TextData | None = None
    """Data"""
    run: Running = Running()
    """Run"""


class Tuning(Settings):
    finetune: Finetune
    """Training"""
    pairs: PairData
    """Data"""
    run: Running = Running()
    """Run"""


class Scoring(Settings):
    evaluate: Evaluate
    """Decoding"""
    pairs: PairData
    """Data"""


class Generation(Settings):
    generate: Generate
    """Decoding"""
    inputs: InputData
    """Data"""


@o.takes(Adapt, required=["train_file"])
def adapt(given: Adapt, model: o.Model, output_dir: o.OutputDir, seed: o.Seed = 1) -> None:
    """Continue a model's pretraining on your own text."""
    if given.adapt.only_target:
        o.assert_language("adapt", given.text)
    done = verbs().adapt(model, given.text, output_dir=output_dir, settings=given.adapt, seed=seed, running=given.run)
    show("adapt", output_dir, done.result)


@o.takes(Transfer)
def transfer(
    given: Transfer,
    target: Target,
    output_dir: o.OutputDir,
    source: Source = None,
    source_before: SourceBefore = None,
    dry_run: DryRun = False,
    seed: o.Seed = 1,
) -> None:
    """Move what a masked language model knows into an mBART model."""
    section, text = given.transfer, given.text
    _check_transfer(section, source, source_before, text)
    if text and section.compares_states:
        o.assert_language("transfer", text)
    if dry_run:
        from polygraft.stages import transfer as stage

        without_shard_bars()
        found = stage.run(
            section, source_before, source, target, text, output_dir, dry_run=True, seed=seed, running=given.run
        )
        planned = plan_text(found.pop("plan"))
        typer.echo("\n".join([*_numbers(found), planned]))
        return
    models = {"source": source, "source_before": source_before}
    done = verbs().transfer(
        target, **models, text=text, output_dir=output_dir, settings=section, seed=seed, running=given.run
    )
    show("transfer", output_dir, done.result)


@o.takes(Tuning, required=["train_file"], unused=["test_file"])
def finetune(given: Tuning, model: o.Model, output_dir: o.OutputDir, seed: o.Seed = 1) -> None:
    """Fine-tune an mBART model on labelled pairs: texts and summaries, or translations."""
    o.assert_language("finetune", given.pairs)
    done = verbs().finetune(
        model, given.pairs, output_dir=output_dir, settings=given.finetune, seed=seed, running=given.run
    )
    show("finetune", output_dir, done.result)


@o.takes(Scoring, required=["test_file"], unused=NOT_SCORED)
def evaluate(given: Scoring, model: o.Model, output_dir: o.OutputDir) -> None:
    """Decode and score test pairs, with intervals, beside the lead baseline."""
    done = verbs().evaluate(model, given.pairs, output_dir=output_dir, settings=given.evaluate)
    show("evaluate", output_dir, done.result)


@o.takes(Generation)
def generate(given: Generation, model: o.Model, output_file: OutputFile = None, seed: o.Seed = 1) -> None:
    """Use a fine-tuned model on files of any size; interrupted, the same command goes on."""
    verb, inputs, settings = verbs(), given.inputs, given.generate
    if output_file is None:
        stdin = sys.stdin.buffer if inputs.input_file == "-" else None
        from polygraft.runs.generation import generate_stream

        for outputs in generate_stream(model, inputs, settings, seed, stdin):
            typer.echo("".join(" ".join(one.split()) + "\n" for one in outputs).encode(), nl=False)
        return
    with contextlib.ExitStack() as stack:
        if inputs.input_file == "-":
            inputs = inputs.model_copy(update={"input_file": stack.enter_context(_stdin_in_a_file())})
        count = verb.generate_file(model, inputs, output_file, settings=settings, seed=seed)
    typer.echo(f"generate: {output_file}: {count}", err=True)


@contextlib.contextmanager
def _stdin_in_a_file() -> Iterator[str]:
    """Keep what comes from standard input, so that it can be read more than once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin.txt"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


def verbs() -> Any:
    """The verbs as functions; imported when one is run, since it takes seconds."""
    from polygraft import api

    without_shard_bars()
    return api


def show(stage: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print what a stage found: its numbers or scores, and where they are."""
    typer.echo(
        "\n".join([*(_scores(result) if stage == "evaluate" else _numbers(result)), f"{stage}: done, in {folder}"])
    )


def _check_transfer(section: Any, source: str | None, source_before: str | None, text: TextData | None) -> None:
    """The rules that a recipe's sections follow, for the options of `polygraft transfer`."""
    given = {
        "source_after": (source, "--source", "transfers from it (mode recentre needs none)"),
        "source_before": (source_before, "--source-before", "moves what adaptation changed between the two"),
        "text": (text, "--train-file", "compares the two models on it, or counts its tokens"),
    }
    missing = [given[name][1:] for name in given if getattr(section.needs, name) and given[name][0] is None]
    problems = [f"{option}: is missing; {section.title} {why}" for option, why in missing]
    if problems:
        raise RecipeError("polygraft transfer: " + "\n  ".join(problems))


def _numbers(result: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The numbers of a stage, one per line; nested ones as `rows.copied`."""
    for key, value in result.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}: {value:.4g}" if isinstance(value, float) else f"{above}{key}: {value}"


def _scores(result: Mapping[str, Any]) -> list[str]:
    """A table of scores with their intervals, the model beside the lead baseline."""
    from polygraft.cli.table import table

    rows = [["system", "language", "score", "value", "interval"]]
    for system, languages in result["systems"].items():
        for language, scores in languages.items():
            for name, score in scores.items():
                low, high = score.get("low"), score.get("high")
                interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
                rows.append([system, language, name, f"{score['score']:.4g}", interval])
    return table(rows)

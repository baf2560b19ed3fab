"""The verbs that run a single stage on checkpoints and files of the user's own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polygraft.cli import options as o
from polygraft.cli.errors import without_shard_bars
from polygraft.errors import DataError, RecipeError
from polygraft.objectives import OBJECTIVES
from polygraft.settings import Evaluate, Finetune, PairData, Settings, TextData
from polygraft.transfer.methods import METHODS, depends_on_seed

Objective = Annotated[
    Literal["mlm", "denoising", "clm"],
    typer.Option("--objective", help="mlm for XLM-R models; denoising, clm or mlm for mBARTs."),
]
Source = Annotated[str | None, typer.Option("--source", help="The masked language model to transfer from, adapted.")]
SourceBefore = Annotated[
    str | None,
    typer.Option("--source-before", help="The same model before it was adapted (for delta, bottleneck and distill)."),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="METHOD",
        help=f"How it is moved: {', '.join(METHODS)} (see docs/methods.md).",
    ),
]
Target = Annotated[str, typer.Option("--target", help="The mBART checkpoint that receives it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print where every value would come from; write no model.")]
InputFile = Annotated[str, typer.Option("--input-file", metavar="FILE", help="One input per line, UTF-8; - is stdin.")]
OutputFile = Annotated[Path | None, typer.Option("--output-file", metavar="FILE", help="Default: standard output.")]


def adapt(
    model: o.Model,
    train_file: o.TextFile,
    output_dir: o.OutputDir,
    objective: Objective = "mlm",
    lang: o.Lang = None,
    text_column: o.TextColumn = None,
    validation_file: o.TextValidation = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    tokens: o.Tokens = None,
    minutes: o.Minutes = None,
    flops: o.Flops = None,
    learning_rate: o.LearningRate = None,
    per_device_train_batch_size: o.BatchSize = None,
    set_: o.Overrides = None,
    seed: o.Seed = 1,
) -> None:
    """Continue a model's pretraining on your own text."""
    training = {
        "epochs": epochs, "steps": steps, "tokens": tokens, "minutes": minutes, "flops": flops,
        "learning_rate": learning_rate, "per_device_train_batch_size": per_device_train_batch_size,
    }  # fmt: skip
    data = {"train_file": train_file, "validation_file": validation_file, "text_column": text_column, "lang": lang}
    kind = OBJECTIVES[objective]
    section, text = o.settings("polygraft adapt", [(kind, training), (TextData, data)], set_)
    if kind.only_target:
        o.assert_language("polygraft adapt", text)
    from polygraft.stages import adapt as stage

    run_verb(
        "adapt", output_dir, section, [model, text], seed, lambda: stage.run(section, model, text, seed, output_dir)
    )


def transfer(
    target: Target,
    output_dir: o.OutputDir,
    source: Source = None,
    source_before: SourceBefore = None,
    method: Method = "embeddings",
    mode: o.Mode = None,
    train_file: o.OptionalTextFile = None,
    text_column: o.TextColumn = None,
    lang: o.Lang = None,
    set_: o.Overrides = None,
    seed: o.Seed = 1,
    dry_run: DryRun = False,
) -> None:
    """Move what a masked language model knows into an mBART model."""
    data = {"train_file": train_file, "text_column": text_column, "lang": lang}
    if method not in METHODS:
        raise RecipeError(f"polygraft transfer: --method = {method}: must be {' or '.join(METHODS)}")
    if mode and method != "embeddings":
        raise RecipeError(f"polygraft transfer: --mode: is of method embeddings; method {method} has none")
    sections: list[Any] = [(METHODS[method], {"mode": mode} if mode else {}), (TextData, data)]
    with_text = any(data.values())
    section, *texts = o.settings("polygraft transfer", sections if with_text else sections[:1], set_)
    text = texts[0] if texts else None
    _check_transfer(section, source, source_before, text)
    if text and section.compares_states:
        o.assert_language("polygraft transfer", text)
    from polygraft.stages import transfer as stage

    def work() -> dict[str, Any]:
        return stage.run(section, source_before, source, target, text, output_dir, dry_run=dry_run, seed=seed)

    if dry_run:
        _print_result(work())
    else:
        drawn = seed if depends_on_seed(section, text) else None
        inputs = [source_before, source, target, text, getattr(section, "general", None)]
        run_verb("transfer", output_dir, section, inputs, drawn, work)


def finetune(
    model: o.Model,
    train_file: o.PairsFile,
    output_dir: o.OutputDir,
    text_column: o.InputColumn = None,
    summary_column: o.SummaryColumn = None,
    source_lang: o.SourceLang = None,
    target_lang: o.TargetLang = None,
    validation_file: o.PairsValidation = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    tokens: o.Tokens = None,
    minutes: o.Minutes = None,
    flops: o.Flops = None,
    learning_rate: o.LearningRate = None,
    per_device_train_batch_size: o.BatchSize = None,
    set_: o.Overrides = None,
    seed: o.Seed = 1,
) -> None:
    """Fine-tune an mBART model on labelled pairs: texts and summaries, or translations."""
    training = {
        "epochs": epochs, "steps": steps, "tokens": tokens, "minutes": minutes, "flops": flops,
        "learning_rate": learning_rate, "per_device_train_batch_size": per_device_train_batch_size,
    }  # fmt: skip
    data = {
        "train_file": train_file, "validation_file": validation_file, "text_column": text_column,
        "summary_column": summary_column, "source_lang": source_lang, "target_lang": target_lang,
    }  # fmt: skip
    section, pairs = o.settings("polygraft finetune", [(Finetune, training), (PairData, data)], set_)
    o.assert_language("polygraft finetune", pairs)
    from polygraft.stages import finetune as stage

    def work() -> dict[str, Any]:
        return stage.run(section, model, pairs, seed, output_dir)

    run_verb("finetune", output_dir, section, [model, pairs], seed, work)


def evaluate(
    model: o.Model,
    test_file: o.TestFile,
    output_dir: o.OutputDir,
    text_column: o.InputColumn = None,
    summary_column: o.SummaryColumn = None,
    source_lang: o.SourceLang = None,
    target_lang: o.TargetLang = None,
    num_beams: o.Beams = None,
    max_new_tokens: o.NewTokens = None,
    batch_size: o.DecodeBatch = None,
    set_: o.Overrides = None,
) -> None:
    """Decode and score test pairs, with intervals, beside the lead baseline."""
    decoding = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "per_device_eval_batch_size": batch_size}
    data = {
        "test_file": test_file, "text_column": text_column,
        "summary_column": summary_column, "source_lang": source_lang, "target_lang": target_lang,
    }  # fmt: skip
    section, pairs = o.settings("polygraft evaluate", [(Evaluate, decoding), (PairData, data)], set_)
    from polygraft.stages import evaluate as stage

    run_verb(
        "evaluate", output_dir, section, [model, pairs], None, lambda: stage.run(section, model, pairs, output_dir)
    )


def generate(
    model: o.Model,
    input_file: InputFile = "-",
    output_file: OutputFile = None,
    source_lang: o.SourceLang = None,
    target_lang: o.TargetLang = None,
    num_beams: o.Beams = None,
    max_new_tokens: o.NewTokens = None,
    batch_size: o.DecodeBatch = None,
    set_: o.Overrides = None,
) -> None:
    """Use a fine-tuned model: one input per line in, one output per line out."""
    decoding = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "per_device_eval_batch_size": batch_size}
    (section,) = o.settings("polygraft generate", [(Evaluate, decoding)], set_)
    lines = _read_lines(input_file)
    from polygraft.data.files import write_atomically
    from polygraft.inference.generate import generate_texts

    outputs = generate_texts(model, lines, source_lang, target_lang, section)
    # an output is one line, so that output n belongs to input n
    text = "".join(" ".join(output.split()) + "\n" for output in outputs)
    if output_file is None:
        typer.echo(text.encode("utf-8"), nl=False)
    else:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output_file, text)


def run_verb(
    stage: str,
    out_dir: Path,
    section: Settings,
    inputs: list[str | Settings | None],
    seed: int | None,
    work: Callable[[], dict[str, Any]],
) -> None:
    """Runs a stage unless its result is already in `out_dir`, and prints the result; other results are not replaced."""
    from polygraft.run.records import run_stage

    without_shard_bars()
    record = run_stage(stage, out_dir, section, inputs, seed, work, replace=False)
    if stage == "evaluate":
        _print_scores(record["result"])
    else:
        _print_result(record["result"])
    typer.echo(f"{stage}: done, in {out_dir}")


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


def _read_lines(name: str) -> list[str]:
    """The lines of a file or of standard input (`-`), blank ones kept; data/compression.py says where a line ends."""
    from polygraft.data.compression import decoded_lines, not_utf8, text_lines, without_ends
    from polygraft.data.notices import say

    content = sys.stdin.buffer.read() if name == "-" else b""
    try:
        numbered = decoded_lines(io.BytesIO(content), name) if name == "-" else text_lines(Path(name), name)
        lines = [line for _, line in without_ends(numbered)]
    except FileNotFoundError:
        raise DataError(f"{name}: no such file. Give --input-file a text file, or - for standard input.") from None
    except IsADirectoryError:
        raise DataError(f"{name}: is a folder. Give --input-file a text file, or - for standard input.") from None
    except UnicodeDecodeError:
        raise not_utf8(io.BytesIO(content), name) from None
    blank = sum(not line.strip() for line in lines)
    if blank == len(lines):
        raise DataError(f"{name}: holds no text. Give one input per line.")
    if blank:
        say(f"{name}: {blank} of {len(lines)} lines are blank, and so are their outputs.")
    return lines


def _print_result(result: dict[str, Any]) -> None:
    """The numbers of a stage, one per line; nested ones as `rows.copied`."""
    for key, value in _flat(result):
        typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")


def _print_scores(result: dict[str, Any]) -> None:
    """A table of scores with their intervals, the model beside the lead baseline."""
    from rich.console import Console
    from rich.table import Table

    systems: dict[str, dict[str, Any]] = result["systems"]
    table = Table("system", "language", "score", "value", "interval")
    for system, languages in systems.items():
        for language, scores in languages.items():
            for name, score in scores.items():
                low, high = score.get("low"), score.get("high")
                interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
                table.add_row(system, language, name, f"{score['score']:.4g}", interval)
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def _flat(result: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in result.items():
        name = f"{above}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)] if value is not None else []
    return rows

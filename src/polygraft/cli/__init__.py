"""The command line: verbs to functions. The only place that catches errors, prints to people and exits.

Exit codes: 0 ok, 1 failure, 2 usage or recipe, 3 data, 130 interrupted,
143 ended by SIGTERM. Imports that the help does not need
(torch, transformers, YAML) happen inside the verbs, so that `polygraft --help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from polygraft import __version__
from polygraft.cli import checkpoints, env, init, push, rank, serve, stages
from polygraft.cli import compare as outputs
from polygraft.cli.diagnose import text as diagnosis_text
from polygraft.cli.errors import Commands, Verb, without_shard_bars
from polygraft.jobs import LauncherName, SideBySide
from polygraft.recipe import Recipe

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adapt a masked language model to your text, transfer it into mBART, fine-tune, and see whether it helped.",
)

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe: a YAML file, or a bundled one: polygraft/demo.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: adapt.learning_rate=1e-4, seeds=[1,2]."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, envvar="POLYGRAFT_JOBS", show_default="what the machine has room for",
        help="How many arms and seeds run side by side, each in a process of its own; 1: all in this one.",
    ),
]  # fmt: skip
Launcher = Annotated[
    LauncherName,
    typer.Option(
        "--launcher", help="Where they run: in processes of this machine, or on the cluster of Ray in RAY_ADDRESS."
    ),
]
OutputDir = Annotated[str | None, typer.Option("--output-dir", help="Where all results live (output_dir).")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polygraft {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")]


@app.callback()
def _polygraft(version: Version = False) -> None:
    """Settings of all verbs; what the verbs share is done in `Commands`."""


app.command(cls=Verb)(init.init)


@app.command(cls=Verb)
def run(
    recipe: RecipeFile,
    set_: Overrides = None,
    output_dir: OutputDir = None,
    jobs: Jobs = None,
    launcher: Launcher = "local",
) -> None:
    """Run a recipe: adapt, transfer, finetune, evaluate, report. Run again, it continues; what is done is kept."""
    settings = _load(recipe, set_, output_dir)
    from polygraft import pipeline
    from polygraft.recipe.reading import dump_recipe

    without_shard_bars()
    _print_run(pipeline.run(settings, recipe_text=dump_recipe(settings), how=SideBySide(jobs, launcher)))


@app.command(cls=Verb)
def check(
    recipe: RecipeFile,
    set_: Overrides = None,
    output_dir: OutputDir = None,
    json_: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
    first_contact: Annotated[
        bool,
        typer.Option("--first-contact", help="Load the two models, look at them, take a step of each stage; no data."),
    ] = False,
) -> None:
    """Check a recipe without running it: settings, data, checkpoints; memory, disk and time of every stage."""
    settings = _load(recipe, set_, output_dir)
    if first_contact:
        from polygraft.checks import first_contact as contact

        block = contact.run(settings, lambda line: typer.echo(str(line), err=True))
        typer.echo(block)
        raise typer.Exit(int("\nfailed" in block))
    from polygraft import checks as examination

    found = examination.run(settings)
    from polygraft.cli.check import text

    typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if json_ else text(found))
    if found.problems:
        raise typer.Exit(1)


@app.command(cls=Verb)
def diagnose(
    recipe: RecipeFile,
    set_: Overrides = None,
    output_dir: OutputDir = None,
    jobs: Jobs = None,
    launcher: Launcher = "local",
    json_: Annotated[bool, typer.Option("--json", help="Print everything that was measured as JSON.")] = False,
) -> None:
    """Say before fine-tuning whether the transfer helps, and by what the source knows: placebos, go or no-go."""
    settings = _load(recipe, set_, output_dir)
    from polygraft import diagnosis

    without_shard_bars()
    found = diagnosis.run(settings, SideBySide(jobs, launcher))
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if json_ else diagnosis_text(found))


@app.command(cls=Verb)
def schema() -> None:
    """Print the JSON schema of recipes, every setting with its meaning; editors complete and check YAML with it."""
    from polygraft.recipe.reading import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command(cls=Verb)
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as outputs/demo.")],
    no_text: Annotated[
        bool,
        typer.Option(
            "--no-text",
            help="Write report-no-text.html, to give away: no documents, outputs or ids, no names of files or columns.",
        ),
    ] = False,
) -> None:
    """Write the report of a run again, from what is in its folder."""
    from polygraft.report import write

    typer.echo(str(write(run_dir, text=not no_text)))


@app.command(cls=Verb)
def verdict(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as outputs/demo.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the whole verdict as JSON.")] = False,
) -> None:
    """Compute the verdict of a run again, from its folder alone, and compare it with what the run wrote."""
    from polygraft.runs.judged import recomputed

    found, differing = recomputed(run_dir)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if json_ else found["sentence"])
    same = "equal to the last digit" if not differing else f"other in {', '.join(differing)}"
    typer.echo(f"{run_dir / 'verdict.json'}: {same}", err=True)
    if differing:
        raise typer.Exit(1)


of_stages = (stages.adapt, stages.transfer, stages.finetune, stages.evaluate, stages.generate)
for stage_verb in (
    *of_stages,
    checkpoints.trim,
    checkpoints.restore,
    checkpoints.add_language,
    checkpoints.export,
    push.push,
    serve.serve,
    rank.rank,
    env.env,
):
    app.command(cls=Verb)(stage_verb)


app.command(cls=Verb)(outputs.score)
app.command(cls=outputs.ManyAgainst)(outputs.compare)


def main() -> None:
    """The entry point of the `polygraft` command."""
    app(prog_name="polygraft")


def _load(path: Path, overrides: list[str] | None, output_dir: str | None) -> Recipe:
    from polygraft.recipe.reading import load_recipe

    extra = [] if output_dir is None else [f"output_dir={json.dumps(output_dir)}"]
    return load_recipe(path, [*(overrides or []), *extra])


def _print_run(result: dict[str, Any]) -> None:
    """A table of arms and scores, then the verdict's sentence, then where the report is."""
    from polygraft.cli.table import table

    rows: list[dict[str, Any]] = result["table"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numbers = [i for i, column in enumerate(columns) if any(isinstance(row.get(column), int | float) for row in rows)]
    lines = table([columns, *([_cell(row.get(column)) for column in columns] for row in rows)], right=numbers)
    lines = [*lines, ""] if rows else []
    verdict = [result["verdict"]["sentence"]] if result["verdict"] else []
    typer.echo("\n".join([*lines, *verdict, f"Report: {result['report']}"]))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

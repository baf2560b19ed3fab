"""`write`: one self-contained HTML page from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polygraft.data.files import write_atomically
from polygraft.report import diagnose_view, plots, scores, stages_view, transfer_view, verdict_view
from polygraft.report.folder import Run, read_run
from polygraft.report.formats import MISSING, plural

PAGE_NAME = "report.html"


def _subtitle(run: Run) -> str:
    """One line on what was run: models, data, arms, seeds, documents."""
    source, target = run.recipe.get("source"), run.recipe.get("target")
    models = " → ".join(str(model) for model in (source, target) if model)
    seeds = len({seed_run.seed for seed_run in run.seed_runs})
    parts = [models, plural(len(run.arms), "arm"), plural(seeds, "seed")]
    if scores.documents(run) != MISSING:
        parts.append(f"{scores.documents(run)} test documents")
    return " · ".join(part for part in parts if part)


def _context(run: Run) -> dict[str, Any]:
    facts, versions = stages_view.provenance(run)
    return {
        "run": run,
        "subtitle": _subtitle(run),
        "colours": plots.ARM_COLOURS,
        "verdict": verdict_view.verdict_view(run),
        "diagnosis": diagnose_view.diagnosis(run),
        "metrics": [(scores.metric_name(metric), scores.metric_hint(metric)) for metric in scores.metrics(run)],
        "tables": scores.score_tables(run),
        "score_plots": scores.score_plots(run),
        "signature": scores.signature(run),
        "loss_plots": stages_view.loss_plots(run),
        "transfers": transfer_view.transfers(run),
        "samples": scores.samples(run),
        "stages": stages_view.stage_rows(run),
        "recipe": stages_view.recipe_yaml(run),
        "settings": stages_view.settings_groups(run),
        "inputs": stages_view.inputs(run),
        "facts": facts,
        "versions": versions,
    }


def render(run_dir: Path) -> str:
    """The page as a string; the same files give the same string. Raises DataError if `run_dir` is no folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(_context(read_run(run_dir)))


def write(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from what the run has left so far; return its path.

    Raises:
        DataError: `run_dir` is not a folder.
        OSError: the page cannot be written.
    """
    run_dir = Path(run_dir)
    write_atomically(run_dir / PAGE_NAME, render(run_dir))
    return run_dir / PAGE_NAME

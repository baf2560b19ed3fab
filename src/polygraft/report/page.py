"""`write`: one self-contained HTML page from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polygraft.data.files import write_atomically
from polygraft.report import (
    diagnose_view,
    forgetting_view,
    formats,
    samples,
    scores,
    stages_view,
    transfer_view,
    verdict_view,
)
from polygraft.report.folder import Run, read_run
from polygraft.report.formats import plural
from polygraft.report.privacy import without_folders, without_text
from polygraft.report.svg import ARM_COLOURS
from polygraft.scoring.figures import level
from polygraft.scoring.metrics import DIRECTIONS

PAGE_NAME, TEXTLESS_NAME = "report.html", "report-no-text.html"
FORMATS = (
    formats.count,
    formats.decimal,
    formats.flops,
    formats.interval,
    formats.p_value,
    formats.seconds,
    formats.size,
)


def _subtitle(run: Run) -> str:
    """One line on what was run: models, data, arms, seeds, documents."""
    models = " → ".join(without_folders(model) for model in (run.recipe.source, run.recipe.target) if model)
    parts = [models, plural(len(run.arms), "arm"), plural(len(run.recipe.seeds), "seed")]
    documents = scores.documents(run)
    return " · ".join(parts if documents is None else [*parts, f"{documents} test documents"])


def _context(run: Run) -> dict[str, Any]:
    facts, versions = stages_view.provenance(run)
    return {
        "run": run,
        "subtitle": _subtitle(run),
        "colours": ARM_COLOURS,
        "badges": verdict_view.BADGES,
        "directions": DIRECTIONS,
        "verdict": verdict_view.verdict_view(run),
        "diagnosis": diagnose_view.diagnosis(run),
        "tables": scores.score_tables(run),
        "lead_name": scores.lead_name(run),
        "lead": scores.lead_sentence(run),
        "score_plots": scores.score_plots(run),
        "signature": scores.signature(run),
        "forgotten": forgetting_view.forgotten_rows(run),
        "loss_plots": stages_view.loss_plots(run),
        "transfers": transfer_view.transfers(run),
        "samples": samples.samples(run) if run.has_text else [],
        "beside": samples.beside(run),
        "stages": stages_view.stage_rows(run),
        "recipe_text": without_folders(run.recipe_text, "…/").rstrip(),
        "settings": stages_view.settings_groups(run),
        "inputs": stages_view.inputs(run),
        "facts": facts,
        "versions": versions,
    }


def render(run_dir: Path, *, text: bool = True) -> str:
    """The page as a string; the same files give the same string. See `write`.

    Raises:
        DataError, RecipeError: as `folder.read_run` does.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in (*FORMATS, level)}
    run = read_run(run_dir)
    return environment.get_template("page.html.j2").render(_context(run if text else without_text(run)))


def write(run_dir: Path, *, text: bool = True) -> Path:
    """Write `run_dir`/report.html from what the run has left so far; return its path.

    Args:
        text: without it, nothing of the data is on the page (`privacy.without_text`), which is report-no-text.html.

    Raises:
        DataError: `run_dir` is not the folder of a run, or a file in it is not as this version writes it.
        RecipeError: its recipe is not one of this version.
        OSError: the page cannot be written.
    """
    path = Path(run_dir) / (PAGE_NAME if text else TEXTLESS_NAME)
    write_atomically(path, render(Path(run_dir), text=text))
    return path

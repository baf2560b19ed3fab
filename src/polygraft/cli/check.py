"""What `polygraft check` prints."""

from __future__ import annotations

from polygraft.checks import Report
from polygraft.checks.needs import Need
from polygraft.cli.table import table
from polygraft.progress import clock

GB, MB = 1e9, 1e6


def text(report: Report) -> str:
    """The report for people: data, checkpoints, needs, warnings, problems, and a last line that sums up."""
    blocks = [_data(report), _models(report), _needs(report)]
    blocks += [_listed("warnings", report.warnings)] if report.warnings else []
    blocks += [_listed("problems", report.problems)] if report.problems else []
    return "\n\n".join([*blocks, _total(report)])


def _data(report: Report) -> str:
    rows = [["DATA", "used as", "rows", "empty", "repeated", "characters (median, longest)"]]
    for file in report.data.files:
        counts = [f"{count:,}" for count in (file.rows, file.empty_rows, file.duplicate_rows)]
        lengths = [f"{one.median:,}, {one.max:,}" for one in (file.text, file.summary) if one]
        rows.append([file.file, ", ".join(file.roles), *counts, " \N{RIGHTWARDS ARROW} ".join(lengths)])
    return "\n".join(table(rows))


def _models(report: Report) -> str:
    rows = [["MODEL", "role", "parameters", "rows", "tokenizer", "languages", "positions"]]
    for model in report.models:
        sizes = [f"{model.parameters / 1e6:,.1f} million", f"{model.rows:,}"]
        reads = [model.tokenizer, f"{model.languages or ''}", f"{model.max_positions:,}"]
        rows.append([model.name, model.role, *sizes, *reads])
    return "\n".join(table(rows))


def _needs(report: Report) -> str:
    head = ["ARM", "stage", "budget", "memory", "disk", "while it runs", "time", "batch", "largest batch that fits"]
    shown = [*report.stages.items(), *report.diagnosis.items()]
    rows = [[arm, *_need(need)] for arm, needs in shown for need in needs]
    return "\n".join(table([head, *rows]))


def _need(need: Need) -> list[str]:
    sizes = [_size(size) for size in (need.memory_bytes, need.disk_bytes, need.disk_peak_bytes)]
    time = "" if need.seconds is None else clock(need.seconds)
    batches = ["" if size is None else str(size) for size in (need.batch_size, need.proposed_batch_size)]
    return [need.stage, need.budget or "", *sizes, time, *batches]


def _size(number: float) -> str:
    if not number:
        return ""
    return f"{number / GB:,.1f} GB" if number >= GB else f"{number / MB:,.0f} MB"


def _listed(title: str, sentences: tuple[str, ...]) -> str:
    return "\n".join([title.upper(), *(f"  {sentence}" for sentence in sentences)])


def _total(report: Report) -> str:
    arms = len(report.stages)
    needs = (
        f"{_size(report.memory_bytes)} of memory ({_size(report.available_memory_bytes)} free), "
        f"{_size(report.disk_bytes)} of disk ({_size(report.free_disk_bytes)} free), about {clock(report.seconds)}"
    )
    verdict = "ok" if not report.problems else f"{len(report.problems)} problem(s)"
    return f"{report.recipe}: {verdict}. {arms} arm(s), {report.seeds} seed(s): {needs}."

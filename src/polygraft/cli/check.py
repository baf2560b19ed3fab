"""What `polygraft check` prints."""

from __future__ import annotations

from collections.abc import Sequence

from polygraft.check import Report
from polygraft.check.needs import Need
from polygraft.progress import clock

GB, MB = 1e9, 1e6


def text(report: Report) -> str:
    """The report for people: data, checkpoints, needs, warnings, problems, and a last line that sums up."""
    blocks = [_data(report), _models(report), _needs(report)]
    blocks += [_listed("warnings", report.warnings)] if report.warnings else []
    blocks += [_listed("problems", report.problems)] if report.problems else []
    return "\n\n".join([*blocks, _total(report)])


def _data(report: Report) -> str:
    rows = [("DATA", "used as", "rows", "empty", "repeated", "characters (median, longest)")]
    for file in report.data.files:
        lengths = f"{file.text.median:,}, {file.text.max:,}"
        rows.append((
            file.file, ", ".join(file.roles), f"{file.rows:,}", f"{file.empty_rows:,}", f"{file.duplicate_rows:,}",
            lengths + (f" \N{RIGHTWARDS ARROW} {file.summary.median:,}, {file.summary.max:,}" if file.summary else ""),
        ))  # fmt: skip
    return _table(rows)


def _models(report: Report) -> str:
    rows = [("MODEL", "role", "parameters", "rows", "tokenizer", "languages", "positions")]
    for model in report.models:
        languages = f"{model.languages}" if model.languages else ""
        rows.append((
            model.name, model.role, f"{model.parameters / 1e6:,.1f} million", f"{model.rows:,}", model.tokenizer,
            languages, f"{model.max_positions:,}",
        ))  # fmt: skip
    return _table(rows)


def _needs(report: Report) -> str:
    rows: list[tuple[str, ...]] = [
        ("ARM", "stage", "budget", "memory", "disk", "while it runs", "time", "batch", "largest batch that fits")
    ]
    for arm, needs in report.stages.items():
        for need in needs:
            rows.append((arm, need.stage, need.budget or "", *_need(need)))
    return _table(rows)


def _need(need: Need) -> tuple[str, ...]:
    proposed = "" if need.proposed_batch_size is None else str(need.proposed_batch_size)
    return (
        _size(need.memory_bytes), _size(need.disk_bytes), _size(need.disk_peak_bytes),
        "" if need.seconds is None else clock(need.seconds), "" if need.batch_size is None else str(need.batch_size),
        proposed,
    )  # fmt: skip


def _size(number: float) -> str:
    if not number:
        return ""
    return f"{number / GB:,.1f} GB" if number >= GB else f"{number / MB:,.0f} MB"


def _listed(title: str, sentences: tuple[str, ...]) -> str:
    return "\n".join([title.upper(), *(f"  {sentence}" for sentence in sentences)])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _total(report: Report) -> str:
    arms = len(report.stages)
    needs = (
        f"{_size(report.memory_bytes)} of memory ({_size(report.available_memory_bytes)} free), "
        f"{_size(report.disk_bytes)} of disk ({_size(report.free_disk_bytes)} free), about {clock(report.seconds)}"
    )
    verdict = "ok" if not report.problems else f"{len(report.problems)} problem(s)"
    return f"{report.recipe}: {verdict}. {arms} arm(s), {report.seeds} seed(s): {needs}."

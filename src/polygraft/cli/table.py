"""Text tables: what verbs print in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table, one per row, the head first; cells stand left, those of the columns in `right` right.

    Widths are those on a terminal, where a Chinese character takes two places.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - cell_len(cell))
            cells.append(gap + cell if place in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return lines

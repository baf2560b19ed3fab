"""Text tables."""

from __future__ import annotations

import pytest

from polygraft.cli.table import table

TABLES = {
    "left": ([["A", "long"], ["wide one", "x"]], (), ["A         long", "wide one  x"]),
    "right": ([["A", "no."], ["a", "7"], ["b", "1,000"]], [1], ["A    no.", "a      7", "b  1,000"]),
    "no blanks at the ends": ([["A", ""], ["long", "x"], ["b", ""]], (), ["A", "long  x", "b"]),
    "characters of two places": ([["A", "B"], ["日本", "x"], ["abcd", "y"]], (), ["A     B", "日本  x", "abcd  y"]),
    "a head alone": ([["A", "B"]], [0], ["A  B"]),
    "nothing": ([], (), []),
}


@pytest.mark.parametrize(("rows", "right", "lines"), TABLES.values(), ids=TABLES)
def test_columns_are_as_wide_as_their_widest_cell(rows, right, lines):
    assert table(rows, right) == lines


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="zip"):
        table([["A", "B"], ["a"]])

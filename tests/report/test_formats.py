"""Numbers as people read them."""

from __future__ import annotations

import pytest

from polygraft.report import formats
from polygraft.scoring.figures import MINUS


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.seconds, 0.44, "0.4 s"), (formats.seconds, 9.97, "10 s"), (formats.seconds, 185, "3 min 05 s"),
        (formats.seconds, 59.7, "1 min 00 s"), (formats.seconds, 3599.7, "1 h 00 min"),
        (formats.seconds, 7620, "2 h 07 min"), (formats.seconds, None, formats.MISSING),
        (formats.count, 812, "812"), (formats.count, 12345, "12.3 k"), (formats.count, 999_999, "1 M"),
        (formats.flops, 3.4e12, "3.4 TFLOP"), (formats.size, 812_000_000, "812 MB"),
        (formats.size, None, formats.MISSING), (formats.decimal, -0.001, "0.00"),
        (formats.decimal, -1.5, MINUS + "1.50"), (formats.decimal, None, formats.MISSING),
        (formats.date, "2026-01-02T03:04:05.678+02:00", "2026-01-02 03:04:05 +02:00"),
        (formats.date, "2026-01-02T03:04:05+00:00", "2026-01-02 03:04:05 UTC"),
        (formats.plain, {"a": [1]}, '{"a": [1]}'), (formats.plain, True, "yes"), (formats.plain, None, formats.MISSING),
        (formats.plain, 1e-07, f"1e{MINUS}07"),
    ],
)  # fmt: skip
def test_formats(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0004, "< 0.001"), (0.0316, "= 0.032"), (0.04997, "= 0.04997"), (None, formats.MISSING)]
)
def test_p_values_stay_on_their_side_of_alpha(value, text):
    assert formats.p_value(value, 0.05) == text

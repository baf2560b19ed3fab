"""Numbers as people read them: durations, token counts, FLOPs, bytes, p-values. A dash stands for a missing value."""

from __future__ import annotations

import json

from polygraft.scoring.figures import MINUS, p_text, rounded, with_sign

MISSING = "\N{EN DASH}"


def decimal(value: float | None, places: int = 2, signed: bool = False) -> str:
    """`value` with `places` decimals and a real minus sign."""
    return MISSING if value is None else with_sign(f"{value:{'+' if signed else ''}.{places}f}")


def interval(low: float | None, high: float | None, places: int = 2) -> str:
    """ "low to high", or a dash when an end is missing."""
    return MISSING if low is None or high is None else f"{decimal(low, places)} to {decimal(high, places)}"


def effect(
    value: float, low: float | None, high: float | None, places: int, margin: float | None = None
) -> tuple[str, str]:
    """A difference and its interval; decimals are added until the ends stand where they do beside 0 and the margin."""
    if low is None or high is None:
        return decimal(value, places, signed=True), MISSING
    marks = (0.0,) if margin is None else (0.0, -margin, margin)
    first, second, middle = rounded([low, high], [value], marks=marks, least=places, signed=True)
    return middle, f"{first} to {second}"


def seconds(value: float | None) -> str:
    """A duration: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if value is None:
        return MISSING
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(value: float | None, units: list[str]) -> str:
    if value is None:
        return MISSING
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    if power == 0 and value == int(value):
        return f"{int(value)} {units[0]}".strip()
    return f"{value:.3g} {units[power]}".strip()


def count(value: float | None) -> str:
    """A count: 812, 12.3 k, 4.56 M."""
    return _scaled(value, ["", "k", "M", "G", "T"])


def flops(value: float | None) -> str:
    """Floating-point operations (a number, not a rate): 3.4 TFLOP."""
    return _scaled(value, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"])


def size(value: float | None) -> str:
    """Bytes in decimal units: 812 MB."""
    return _scaled(value, ["B", "kB", "MB", "GB", "TB"])


def p_value(value: float | None, alpha: float) -> str:
    """A p-value, on its side of `alpha`: = 0.034, < 0.001."""
    return MISSING if value is None else p_text(value, alpha)


def date(value: str) -> str:
    """An ISO 8601 time cut to seconds, its zone kept: 2026-11-22 19:34:05 +00:00."""
    day, _, clock = value.partition("T")
    zone = next((clock[clock.rindex(mark) :] for mark in "+-Z" if mark in clock), "")
    return f"{day} {clock[:8]} {'UTC' if zone in ('Z', '+00:00') else zone}".strip()


def plain(value: object) -> str:
    """Any value from a JSON file as short text."""
    if value is None or value == {}:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", MINUS)
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(plain(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def plural(amount: int, one: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{amount} {one if amount == 1 else one + 's'}"

"""Numbers as people read them: durations, token counts, FLOPs, bytes, p-values. A dash stands for a missing value."""

from __future__ import annotations

import json
from collections.abc import Mapping

from polygraft.report.folder import number
from polygraft.scoring.figures import MINUS, p_text, rounded, with_sign

MISSING = "\N{EN DASH}"


def decimal(value: object, places: int = 2, signed: bool = False) -> str:
    """`value` with `places` decimals and a real minus sign."""
    amount = number(value)
    return MISSING if amount is None else with_sign(f"{amount:{'+' if signed else ''}.{places}f}")


def interval(low: object, high: object, places: int = 2, signed: bool = False) -> str:
    """ "low to high", or a dash when an end is missing."""
    if number(low) is None or number(high) is None:
        return MISSING
    return f"{decimal(low, places, signed)} to {decimal(high, places, signed)}"


def effect(value: object, low: object, high: object, places: int, margin: object = None) -> tuple[str, str]:
    """A difference and its interval; decimals are added until the ends stand where they do beside 0 and the margin."""
    amount, ends, limit = number(value), [number(low), number(high)], number(margin)
    known = [end for end in ends if end is not None]
    if amount is None or len(known) < len(ends):
        return decimal(value, places, signed=True), MISSING
    marks = (0.0,) if limit is None else (0.0, -limit, limit)
    first, second, middle = rounded(known, [amount], marks=marks, least=places, signed=True)
    return middle, f"{first} to {second}"


def seconds(value: object) -> str:
    """A duration: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    amount = number(value)
    if amount is None or amount < 0:
        return MISSING
    if amount < 9.95:
        return f"{amount:.1f} s"
    whole = round(amount)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(amount / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(value: object, base: float, units: list[str]) -> str:
    amount = number(value)
    if amount is None:
        return MISSING
    power = 0
    while abs(amount) >= base * 0.9995 and power < len(units) - 1:
        amount, power = amount / base, power + 1
    if power == 0 and amount == int(amount):
        return f"{int(amount)} {units[0]}".strip().replace("-", MINUS)
    return f"{amount:.3g} {units[power]}".strip().replace("-", MINUS)


def count(value: object) -> str:
    """A count: 812, 12.3 k, 4.56 M."""
    return _scaled(value, 1000, ["", "k", "M", "G", "T"])


def flops(value: object) -> str:
    """Floating-point operations (a number, not a rate): 3.4 TFLOP."""
    return _scaled(value, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"])


def size(value: object) -> str:
    """Bytes in decimal units: 812 MB."""
    return _scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"])


def p_value(value: object, alpha: float = 0.05) -> str:
    """A p-value, on its side of `alpha`: = 0.034, < 0.001."""
    amount = number(value)
    return MISSING if amount is None else p_text(amount, alpha)


def date(value: object) -> str:
    """An ISO 8601 time cut to seconds, its zone kept: 2026-11-22 19:34:05 +00:00."""
    if not isinstance(value, str):
        return MISSING
    day, _, clock = value.partition("T")
    zone = next((clock[clock.rindex(mark) :] for mark in "+-Z" if mark in clock), "")
    return f"{day} {clock[:8]} {'UTC' if zone in ('Z', '+00:00') else zone}".strip()


def plain(value: object) -> str:
    """Any value from a JSON file as short text."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", MINUS) if number(value) is not None else str(value)
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping) and not value:
        return MISSING
    return json.dumps(value, ensure_ascii=False)


def plural(amount: int, one: str, many: str | None = None) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{amount} {one if amount == 1 else many or one + 's'}"

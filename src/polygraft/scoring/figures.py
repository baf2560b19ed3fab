"""Figures as text, rounded only as far as they still say what they say: an end above 0 never reads as 0. No numpy."""

from __future__ import annotations

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
LARGE = 1e7  # beyond, decimals are noise
MOST_DECIMALS = 9


def rounded(
    ends: Sequence[float], others: Sequence[float] = (), *, marks: Sequence[float] = (0.0,), least: int = 2,
    signed: bool = False,
) -> list[str]:  # fmt: skip
    """Return `ends`, then `others`, as text with equally many decimals.

    These are the fewest, at least `least`, with which each end stands on the same side of each mark as before rounding.
    """
    large = any(abs(value) >= LARGE for value in (*ends, *others))
    styles = [] if large else [f".{places}f" for places in range(least, MOST_DECIMALS + 1)]
    styles += [f".{digits}g" for digits in range(6, 18)]  # the last gives every figure back exactly
    style = next(
        style
        for style in styles
        if all(_side(float(format(end, style)), mark) == _side(end, mark) for end in ends for mark in marks)
    )
    return [with_sign(format(value, f"{'+' if signed else ''}{style}")) for value in (*ends, *others)]


def apart(first: float, second: float, least: int = 1) -> tuple[str, str]:
    """Two figures as text, with the fewest decimals, at least `least`, at which unequal ones are not shown as equal."""
    for places in range(least, MOST_DECIMALS + 1):
        shown = f"{first:.{places}f}", f"{second:.{places}f}"
        if shown[0] != shown[1]:
            break
    return shown


def _side(value: float, mark: float) -> int:
    return int(value > mark) - int(value < mark)


def with_sign(text: str) -> str:
    """A formatted figure with a real minus sign; a zero has no sign."""
    mantissa = text.partition("e")[0]
    return (text if mantissa.strip("+-0.") else text.lstrip("+-")).replace("-", MINUS)


def exactly(value: float) -> str:
    """The shortest text that is the figure: 0.05, 5, 1e−09."""
    return with_sign(repr(float(value)).removesuffix(".0"))


def level(confidence: float) -> str:
    """A confidence level in percent, never 100 where it is less: 95%, 98.33%."""
    (text,) = rounded([100 * confidence], marks=(100.0,))
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"


def p_text(value: float, alpha: float) -> str:
    """A p-value for people, on the same side of `alpha` as it is: = 0.034, < 0.001."""
    alpha = round(alpha, 12)  # 1 - 0.95 is a little more than 0.05
    smallest = min(0.001, alpha)
    if value < smallest:
        return f"< {exactly(smallest)}"
    return f"= {rounded([value], marks=(alpha,), least=3)[0]}"

"""Markdown: tables, and numbers as its cells have them."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: Any, digits: int) -> str:
    """Rounded, nothing for NaN.

    Example:
        >>> number(0.12345, 3), number(float("nan"), 3)
        ('0.123', '')
    """
    return "" if value != value else f"{value:.{digits}f}"


def interval(value: Any, low: Any, high: Any, digits: int = 4) -> str:
    """An estimate with its interval, without one that is NaN.

    Example:
        >>> interval(0.01, -0.02, 0.04, 2), interval(0.01, float("nan"), float("nan"))
        ('0.01 (-0.02 to 0.04)', '0.0100')
    """
    if value != value:
        return ""
    text = f"{value:.{digits}f}"
    return text if low != low else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def p_value(value: Any) -> str:
    """With four digits, or that it is smaller.

    Example:
        >>> p_value(0.04), p_value(1e-9)
        ('0.0400', '< 0.0001')
    """
    return "" if value != value else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def each(values: Iterable[Any]) -> str:
    """Each value once, in order, without NaN and empty text.

    Example:
        >>> each([64.0, 64.0, float("nan")]), each(["b", "a", "", "b"])
        ('64', 'b, a')
    """
    known = dict.fromkeys(value for value in values if value == value and value != "")
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in known)


def listed(values: Sequence[Any]) -> str:
    """With commas."""
    return ", ".join(map(str, values))


def loose(frame: Any) -> Any:
    """What pandas' own annotations make of a selection is no help."""
    return frame

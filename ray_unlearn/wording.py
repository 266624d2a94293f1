"""Numbers and names as tables, pictures and sentences show them.

    decimals(0.11368)                            # '0.114'
    interval(0.09, 0.1311)                       # '[0.090, 0.131]'
    points(-0.034)                               # '−3.4': percentage points, with a sign
    short("a-very-long-population-name", 16)     # 'a-very-…ion-name'
    plural(2, "run"), duration(7265.0)           # '2 runs', '2 h 01 min'

Does not cover: which numbers belong together (`report`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MISSING = "\u2013"
MINUS = "\u2212"
TIMES = "\u00d7"


def decimals(value: float | None) -> str:
    """Return a number with three decimals, fewer where it is large, two digits where it is tiny; `–` for None."""
    if value is None:
        return MISSING
    size = abs(value)
    if size == 0 or 0.01 <= size < 10:
        return _signed(f"{value:.3f}")
    if size < 0.01:
        return _signed(f"{value:.2g}")
    return _signed(f"{value:,.1f}" if size < 100 else f"{value:,.0f}")


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal and without the sign for percent; `–` for None."""
    return MISSING if value is None else _signed(f"{100 * value:.1f}")


def points(difference: float) -> str:
    """Return a difference of fractions in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}"
    return "±0.0" if float(text) == 0 else _signed(text)


def interval(low: float | None, high: float | None) -> str:
    """Return both ends in brackets; nothing where one is missing."""
    return "" if low is None or high is None else f"[{decimals(low)}, {decimals(high)}]"


def span(low: float | None, high: float | None) -> str:
    """Return a range that is not a confidence interval: the smallest and the largest of the values drawn."""
    return "" if low is None or high is None else f"{decimals(low)} to {decimals(high)}"


def percent_interval(low: float | None, high: float | None) -> str:
    """Return both ends in percent in brackets; nothing where one is missing."""
    return "" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"


def joined(*parts: str, by: str = " ") -> str:
    """Return the parts that are not empty, joined."""
    return by.join(part for part in parts if part)


def listed(names: list[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def first_of(items: Iterable[object], most: int = 8) -> str:
    """Return the first items of a list in words, `3, 7, 9, ...`."""
    names = list(map(str, items))
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def short(name: str, width: int) -> str:
    """Return a name of at most `width` characters: the middle is left out, because names differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def _signed(text: str) -> str:
    """Return the text with a real minus sign; three decimals of a tiny negative number are a plain zero."""
    return text.replace("-", MINUS) if text.strip("-0.,") else text.lstrip("-")


def lines_in(data: bytes) -> list[str]:
    r"""Return the lines of a program's output; each state of a progress bar is a line of its own.

    >>> lines_in(b"50%\r100%\ndone\n")
    ['50%', '100%', 'done']
    """
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def duration(seconds: float) -> str:
    """Return seconds in hours, minutes and seconds.

    >>> duration(7265.0)
    '2 h 01 min'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def plural(count: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows with their columns padded: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines

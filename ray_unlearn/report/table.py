"""A table as a value, for HTML and Markdown alike.

    Grid(name="cost", caption="Cost", columns=(Column("population"), Column("seconds")), rows=((Cell("a"), Cell("3")),))

Does not cover: what stands in it (`score_tables`), how it looks (`markup`, `markdown`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval before the band of the null, drawn on a scale from 0 to `top`."""

    value: float
    low: float | None
    high: float | None
    null_low: float | None
    null_high: float | None
    top: float
    words: str
    """What the picture shows, for those who do not see it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry."""

    text: str
    notes: tuple[str, ...] = ()
    """Said smaller below: interval, N, null."""
    sort: float | str | None = None
    """What the column is sorted by; None sorts last."""
    tint: float = 0.0
    """-1..1: how far below or above the reference, as a shade of the cell."""
    bar: Bar | None = None
    good: bool | None = None
    """A limit kept or broken; None where there is none."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading."""

    label: str
    note: str = ""
    """Said smaller below: N, or the population it is measured against."""
    meaning: str = ""
    """A sentence, shown on hovering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Columns and rows; the first cell of a row names it."""

    name: str
    """Lower case, unique on a page."""
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    reference: str = ""
    """The row or column of this name is the reference's, set apart."""
    explained: str = ""
    """How to read it, below the table."""

    @property
    def head(self) -> int:
        """The column whose cells name their rows: the first of text; dashes for numbers may stand before it."""
        return next(place for place, cell in enumerate(self.rows[0]) if isinstance(cell.sort, str))

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers, which stand to the right."""
        places = range(len(self.columns))
        return tuple(any(isinstance(row[place].sort, float | int) for row in self.rows) for place in places)


def number(value: float | None, text: str, *notes: str, tint: float = 0.0) -> Cell:
    """Return a cell of a number; empty notes are left out."""
    return Cell(text, tuple(note for note in notes if note), value, tint)


def name(text: str, *notes: str) -> Cell:
    """Return a cell that names its row."""
    return Cell(text, tuple(note for note in notes if note), text.lower())

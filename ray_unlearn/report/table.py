"""A table as a value, which the page, Markdown and the terminal all show.

    Table(
        name="cost",
        caption="Cost",
        columns=(Column("population", align="left"), Column("seconds", "mean over runs")),
        rows=((name("kookmin"), number(61.0, "61.0", interval="[60.1, 61.9]")),),
    )

Does not cover: the contents of tables (`score_tables`), their look (`page.html`, `markdown`, `text`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ray_unlearn.wording import MISSING


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval in front of the band of the null, drawn on a scale from `bottom` to `top`."""

    value: float
    low: float | None
    high: float | None
    null_low: float | None
    null_high: float | None
    top: float
    words: str
    """Description of the picture, for readers who do not see it, and on hovering."""
    bottom: float = 0.0
    at_null: float | None = None
    """The value at the null's N, where that is another N: what the band is to be compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One entry: a value as text, with its details in smaller letters."""

    text: str
    value: float | str | None = None
    """Value by which the column is sorted; None sorts last."""
    interval: str = ""
    n: int | None = None
    """Number of runs, if it differs from the row's or the column's."""
    notes: tuple[str, ...] = ()
    """Notes: differences, spread, the method's name, the reason for a missing value."""
    null: tuple[str, ...] = ()
    """The same number for retraining against itself, and the value of this cell to compare with it."""
    tint: float = 0.0
    """Shade of the cell, -1..1: the distance below or above the reference."""
    bar: Bar | None = None
    good: bool | None = None
    """Whether a limit is kept; None without a limit."""

    @property
    def small(self) -> tuple[str, ...]:
        """Return interval, notes, N and null, in the order in which they follow the text."""
        own_n = f"N {self.n}" if self.n is not None else ""
        return tuple(part for part in (self.interval, *self.notes, own_n, *self.null) if part)


@dataclass(frozen=True, slots=True)
class Column:
    """A heading."""

    label: str
    unit: str = ""
    """Unit, direction, N, or the reference of the numbers; shown smaller."""
    meaning: str = ""
    """A sentence, shown on hovering."""
    align: Literal["left", "right"] = "right"
    """Alignment: names to the left, numbers to the right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns and rows."""

    name: str
    """Name in lower case, unique on a page."""
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    reference: str = ""
    """Name of the reference's row or column, which is marked."""
    explained: str = ""
    """Sentence below the table that explains how to read it."""

    @property
    def head(self) -> int:
        """Return the index of the column whose cells name their rows: the first that is aligned to the left."""
        return next(place for place, column in enumerate(self.columns) if column.align == "left")


def number(value: float | None, text: str, *notes: str, **parts: Any) -> Cell:
    """Return a cell of a number; `parts` are fields of `Cell`, empty notes are left out."""
    return Cell(text=text, value=value, notes=tuple(note for note in notes if note), **parts)


def name(text: str, *notes: str) -> Cell:
    """Return a cell that names its row; empty notes are left out."""
    return Cell(text=text, value=text.lower(), notes=tuple(note for note in notes if note))


def own_n(n: int, stated: int) -> int | None:
    """Return a cell's N if it differs from that of its row or heading, else None."""
    return n if n != stated else None


DASH = Cell(text=MISSING)
"""No value, and no reason to give."""
POPULATION = Column("population", align="left")

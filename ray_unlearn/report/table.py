"""A table as a value: the page, Markdown and the terminal all set the same ones.

    Table(
        name="cost",
        caption="Cost",
        columns=(Column("population", align="left"), Column("seconds", "mean over runs")),
        rows=((name("kookmin"), number(61.0, "61.0", interval="[60.1, 61.9]")),),
    )

Does not cover: what stands in a table (`score_tables`), how it looks (`page.html`, `markdown`, `text`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ray_unlearn.wording import MISSING


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One entry: a value as text, and what belongs to it in smaller letters."""

    text: str
    value: float | str | None = None
    """What the column is sorted by; None sorts last."""
    interval: str = ""
    n: int | None = None
    """Number of runs, where it is not the one that the row or the column states."""
    notes: tuple[str, ...] = ()
    """Differences, spread, the method's name, why a value is missing."""
    null: tuple[str, ...] = ()
    """The same number for retraining against itself, and what of this cell compares with it."""
    tint: float = 0.0
    """-1..1: how far below or above the reference, as a shade of the cell."""
    bar: Bar | None = None
    good: bool | None = None
    """A limit kept or broken; None where there is none."""

    @property
    def small(self) -> tuple[str, ...]:
        """Return interval, notes, N and null as they stand below or after the text."""
        own_n = f"N {self.n}" if self.n is not None else ""
        return tuple(part for part in (self.interval, *self.notes, own_n, *self.null) if part)


@dataclass(frozen=True, slots=True)
class Column:
    """A heading."""

    label: str
    unit: str = ""
    """Unit, direction, N, or what the column is measured against; set smaller."""
    meaning: str = ""
    """A sentence, shown on hovering."""
    align: Literal["left", "right"] = "right"
    """Names stand to the left, numbers to the right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns and rows."""

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
        """Return the place of the column whose cells name their rows: the first that stands to the left."""
        return next(place for place, column in enumerate(self.columns) if column.align == "left")


def number(value: float | None, text: str, *notes: str, **parts: Any) -> Cell:
    """Return a cell of a number; `parts` are fields of `Cell`, empty notes are left out."""
    return Cell(text=text, value=value, notes=tuple(note for note in notes if note), **parts)


def name(text: str, *notes: str) -> Cell:
    """Return a cell that names its row; empty notes are left out."""
    return Cell(text=text, value=text.lower(), notes=tuple(note for note in notes if note))


def own_n(n: int, stated: int) -> int | None:
    """Return a cell's N where it is not the one that its row or heading states."""
    return n if n != stated else None


DASH = Cell(text=MISSING)
"""No value, and no reason to give."""
POPULATION = Column("population", align="left")

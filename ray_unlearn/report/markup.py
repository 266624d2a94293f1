"""Pieces of a page: a `Grid` as a sortable table, pictures side by side, text that folds. Everything is escaped here.

    table(ranking_grid(scores), sorted_by=0)
    panels([("kookmin", "N 64", svg), ...])

Does not cover: the order of the pieces (`page`), their looks (`page.css`), sorting itself (`page.js`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ray_unlearn.report.table import Bar, Cell, Column, Grid

_TALL = 16
"""Rows beyond which a table scrolls under its headings."""
_BAR_WIDTH, _BAR_HEIGHT = 112, 12


def table(grid: Grid, sorted_by: int | None = None) -> str:
    """Return a table in a frame of its own that scrolls; `sorted_by` is the column that it is sorted by already."""
    heads = [_heading(column, numeric) for column, numeric in zip(grid.columns, grid.numeric, strict=True)]
    if sorted_by is not None:
        heads[sorted_by] = heads[sorted_by].replace('aria-sort="none"', 'aria-sort="ascending"')
    marks = [column.label == grid.reference for column in grid.columns]
    body = "".join(_row(row, grid, marks) for row in grid.rows)
    frame = "frame tall" if len(grid.rows) > _TALL else "frame"
    said = f'<p class="explained">{escape(grid.explained)}</p>' if grid.explained else ""
    return (
        f'<div class="{frame}" tabindex="0" role="region" aria-label="{escape(grid.caption)}"><table id="{grid.name}">'
        f"<caption>{escape(grid.caption)}</caption><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{said}"
    )


def _heading(column: Column, numeric: bool) -> str:
    kind = ' class="number"' if numeric else ""
    hint = f' title="{escape(column.meaning)}"' if column.meaning else ""
    note = f"<small>{escape(column.note)}</small>" if column.note else ""
    label = f"<span>{_breakable(column.label)}</span>"
    return f'<th scope="col" aria-sort="none"{kind}{hint}><button type="button">{label}{note}</button></th>'


def _row(row: Sequence[Cell], grid: Grid, marks: Sequence[bool]) -> str:
    reference = ' class="reference"' if row[grid.head].text == grid.reference else ""
    cells = "".join(
        _cell(cell, numeric=numeric, head=place == grid.head, mark=mark)
        for place, (cell, numeric, mark) in enumerate(zip(row, grid.numeric, marks, strict=True))
    )
    return f"<tr{reference}>{cells}</tr>"


def _cell(cell: Cell, *, numeric: bool, head: bool, mark: bool) -> str:
    kinds = ["number"] * numeric + ["reference"] * mark
    kinds += ["barred"] * (cell.bar is not None)
    kinds += [] if cell.good is None else ["good" if cell.good else "bad"]
    attributes = f' class="{" ".join(kinds)}"' if kinds else ""
    attributes += "" if cell.sort is None else f' data-sort="{_sort_key(cell.sort)}"'
    attributes += _shade(cell.tint)
    written = _breakable if head else escape
    notes = "".join(f"<small>{written(note)}</small>" for note in cell.notes)
    inner = f"{_bar(cell.bar) if cell.bar else ''}<span>{written(cell.text)}</span>{notes}"
    return f'<th scope="row"{attributes}>{inner}</th>' if head else f"<td{attributes}>{inner}</td>"


def _sort_key(value: float | str) -> str:
    """Return what a column is sorted by; six digits of a number are more than anybody sees."""
    return escape(value) if isinstance(value, str) else f"{value:.6g}"


def _breakable(text: str) -> str:
    """Return escaped text that may be broken after an underscore."""
    return escape(text).replace("_", "_<wbr>")


def _shade(tint: float) -> str:
    strength = round(32 * abs(tint))
    return f' style="--shade:var(--{"above" if tint > 0 else "below"});--strength:{strength}%"' if strength else ""


def _bar(bar: Bar) -> str:
    def at(value: float) -> float:
        return round(4 + (_BAR_WIDTH - 8) * min(max(value / bar.top, 0), 1), 1)

    middle = _BAR_HEIGHT / 2
    parts = [f'<line class="axis" x1="4" x2="{_BAR_WIDTH - 4}" y1="{middle}" y2="{middle}"/>']
    if bar.null_low is not None and bar.null_high is not None:
        left, width = at(bar.null_low), max(at(bar.null_high) - at(bar.null_low), 2)
        parts.append(f'<rect class="null" x="{left}" y="0" width="{width:.1f}" height="{_BAR_HEIGHT}"/>')
    if bar.low is not None and bar.high is not None:
        ends = f'x1="{at(bar.low)}" x2="{at(bar.high)}"'
        parts.append(f'<line class="interval" {ends} y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="value" cx="{at(bar.value)}" cy="{middle}" r="3.5"/>')
    return (
        f'<svg class="bar" role="img" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}" width="{_BAR_WIDTH}" '
        f'height="{_BAR_HEIGHT}"><title>{escape(bar.words)}</title>{"".join(parts)}</svg>'
    )


def figure(svg: str, title: str, note: str = "") -> str:
    """Return a picture under its title; nothing for no picture."""
    small = f" <small>{escape(note)}</small>" if note else ""
    return f"<figure><figcaption>{escape(title)}{small}</figcaption>{svg}</figure>" if svg else ""


def panels(pictures: Iterable[tuple[str, str, str]], kind: str = "panels") -> str:
    """Return pictures (title, note, svg) side by side, as many as fit; nothing for none."""
    shown = "".join(figure(svg, title, note) for title, note, svg in pictures)
    return f'<div class="{kind}">{shown}</div>' if shown else ""


def key(names: Sequence[str]) -> str:
    """Return what the lines of pictures stand for: the place of a name is that of its colour and dashes."""
    items = (f'<span><i class="line series-{place}"></i>{escape(name)}</span>' for place, name in enumerate(names))
    return f'<p class="key">{"".join(items)}</p>'


def heading(text: str, said: str = "") -> str:
    """Return a small heading with a sentence on how to read what follows."""
    return f"<h3>{escape(text)}</h3>" + (f'<p class="lead">{escape(said)}</p>' if said else "")


def titled(text: str, said: str, content: str) -> str:
    """Return content under its heading; nothing for no content."""
    return heading(text, said) + content if content else ""


def section(name: str, title: str, *content: str) -> str:
    """Return a section with an anchor; nothing where nothing is in it."""
    inner = "".join(content)
    return f'<section id="{name}"><h2>{escape(title)}</h2>{inner}</section>' if inner else ""


def folded(title: str, content: str) -> str:
    """Return content that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def code(text: str) -> str:
    """Return text as it stands, which scrolls on its own."""
    return f'<pre tabindex="0">{escape(text)}</pre>'

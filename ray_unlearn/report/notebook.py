"""The report as a value that a notebook shows, and the ranking as a few lines of HTML.

    Report(text, "html", address)                # the page, in a frame, where it is the last line of a cell
    html = ranking_html(scores)

Does not cover: the contents of page and tables (`page`, `paper`), writing them (`publish`).
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.report.publish import Form
from ray_unlearn.report.ranking import places_line, warnings_of
from ray_unlearn.report.score_tables import ranking_lines_table
from ray_unlearn.report.table import Table
from ray_unlearn.report.text import null_lines
from ray_unlearn.report.verdict import verdict
from ray_unlearn.wording import joined


@dataclass(frozen=True)
class Report:
    """A report, and where it was written."""

    text: str
    form: Form
    address: str
    figures: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return self.text if self.form != "html" else f"report at {self.address}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the page in a frame, or the table as text."""
        if self.form != "html":
            return f"<pre>{html.escape(self.text)}</pre>"
        frame = 'width="100%" height="720" style="border: 1px solid #ccc"'
        return f'<iframe srcdoc="{html.escape(self.text)}" {frame}></iframe><p>{html.escape(self.address)}</p>'


def ranking_html(scores: Scores) -> str:
    """Return verdict, ranking, null and warnings; every text is escaped."""
    table = ranking_lines_table(scores)
    places = [places] if (places := places_line(scores)) else []
    lines = [table.explained, *places, *null_lines(scores), *(f"warning: {line}" for line in warnings_of(scores))]
    small = "".join(f"<div><small>{html.escape(line)}</small></div>" for line in lines)
    return f"<p><strong>{html.escape(verdict(scores))}</strong></p>{table_html(table)}{small}"


def table_html(table: Table) -> str:
    """Return a plain table: a heading per column, value and interval in a cell."""
    head = "".join(f"<th>{html.escape(column.label)}</th>" for column in table.columns)
    rows = ["".join(f"<td>{html.escape(joined(cell.text, cell.interval))}</td>" for cell in row) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

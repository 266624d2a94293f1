"""Scores -> Markdown, for a README or an issue.

    text = markdown_page(scores, study)          # study: the plain values of study.json

Does not cover: pictures (`page`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.report.accuracy_tables import change_grid, part_grids
from ray_unlearn.report.measure_tables import left_out, measure_grids
from ray_unlearn.report.ranking import caveat, mode_words, verdict, warnings_of
from ray_unlearn.report.score_tables import cost_grid, ranking_grid
from ray_unlearn.report.table import Cell, Column, Grid

# An underscore inside a word and brackets that open no link mean themselves already: names and intervals stay readable.
_SPECIAL = re.compile(r"([\\`*<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[:]))")


def markdown_page(scores: Scores, study: Mapping[str, object]) -> str:
    """Return the ranking and the main tables as GitHub's Markdown; user's text cannot become markup."""
    title = escaped(str(study.get("name", scores.study)))
    change = change_grid(scores)
    measured = [ranking_grid(scores), *measure_grids(scores)]
    grids = [*([change] if change else []), *part_grids(scores, "class"), *part_grids(scores, "group")]
    parts = [
        f"# {title}",
        f"Mode **{scores.mode}**: {mode_words(scores)}. Reference: {escaped(scores.reference)}.",
        escaped(verdict(scores)),
        escaped(caveat(scores)),
        *_warnings(scores),
        *(part for grid in measured for part in markdown_table(grid)),
        *map(escaped, left_out(scores)),
        *(part for grid in [*grids, cost_grid(scores)] for part in markdown_table(grid)),
        "Made with " + escaped(", ".join(f"{name} {version}" for name, version in scores.versions.items())) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _warnings(scores: Scores) -> list[str]:
    lines = warnings_of(scores)
    return ["\n".join(f"- Warning: {escaped(line)}" for line in lines)] if lines else []


def markdown_table(grid: Grid) -> list[str]:
    """Return heading, pipe table and the sentence below it."""
    rules = ["---:" if numeric else "---" for numeric in grid.numeric]
    rows = [
        [_heading(column) for column in grid.columns],
        rules,
        *([_entry(cell) for cell in row] for row in grid.rows),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return [f"## {escaped(grid.caption)}", table, *([escaped(grid.explained)] if grid.explained else [])]


def _heading(column: Column) -> str:
    return escaped(f"{column.label} ({column.note})" if column.note else column.label)


def _entry(cell: Cell) -> str:
    return escaped(", ".join([f"{cell.text} {cell.notes[0]}", *cell.notes[1:]]) if cell.notes else cell.text)


def escaped(text: str) -> str:
    """Return text on one line whose characters mean themselves."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))

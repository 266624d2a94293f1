"""Scores -> Markdown, for a README or an issue.

    text = markdown_page(scores, study)          # study: the plain values of study.json

Does not cover: pictures (`page`), lines for the terminal (`text`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.report.accuracy_tables import change_table, part_tables
from ray_unlearn.report.evidence_tables import evidence_table, images_table
from ray_unlearn.report.ranking import mode_words, warnings_of
from ray_unlearn.report.score_tables import cost_table, left_out, measure_tables, ranking_table
from ray_unlearn.report.shadow_tables import shadow_tables
from ray_unlearn.report.table import Cell, Column, Table
from ray_unlearn.report.verdict import caveat, plain, verdict

# An underscore inside a word and brackets that open no link mean themselves already: names and intervals stay readable.
_SPECIAL = re.compile(r"([\\`*<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[:]))")


def markdown_page(scores: Scores, study: Mapping[str, object]) -> str:
    """Return the ranking and the main tables as GitHub's Markdown; a user's text is escaped."""
    change = change_table(scores)
    sure = [one for one in (evidence_table(scores), images_table(scores)) if one]
    measured = [ranking_table(scores), *sure, *measure_tables(scores), *shadow_tables(scores)]
    accuracies = [*([change] if change else []), *part_tables(scores, "class"), *part_tables(scores, "group")]
    warnings = "\n".join(f"- Warning: {escaped(line)}" for line in warnings_of(scores))
    versions = ", ".join(f"{name} {version}" for name, version in scores.versions.items())
    parts = [
        f"# {escaped(str(study.get('name', scores.study)))}",
        f"Mode **{scores.mode}**: {mode_words(scores)}. Reference: {escaped(scores.reference)}.",
        f"**{escaped(plain(scores))}**",
        escaped(verdict(scores)),
        escaped(caveat(scores)),
        *([warnings] if warnings else []),
        *(part for table in measured for part in markdown_table(table)),
        *map(escaped, left_out(scores)),
        *(part for table in [*accuracies, cost_table(scores)] for part in markdown_table(table)),
        f"Made with {escaped(versions)}.",
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> list[str]:
    """Return heading, pipe table and the sentence below it."""
    rows = [
        [_heading(column) for column in table.columns],
        ["---:" if column.align == "right" else "---" for column in table.columns],
        *([_entry(cell) for cell in row] for row in table.rows),
    ]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return [f"## {escaped(table.caption)}", lines, *([escaped(table.explained)] if table.explained else [])]


def _heading(column: Column) -> str:
    return escaped(f"{column.label} ({column.unit})" if column.unit else column.label)


def _entry(cell: Cell) -> str:
    first, *rest = cell.small or ("",)
    return escaped(", ".join([f"{cell.text} {first}", *rest]))


def escaped(text: str) -> str:
    """Return text on one line, with Markdown's special characters escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))

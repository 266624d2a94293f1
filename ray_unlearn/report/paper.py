r"""Scores -> one table for a paper: a population per row, one value per cell, in LaTeX, Markdown or CSV.

    text = paper_table(scores, "latex", ["population", "N", "forgetting_quality", "test_accuracy"])

A cell is the value ± half the width of its 95 % interval, with its N where that is not the row's. Columns:
`population`, `method`, `N`, every measure by its name in scores.parquet, `MEASURE@null` (the value at the null's N, and
in the reference's row the null itself), `SPLIT_accuracy` in percent, `p`, `cost` and `seconds`. CSV has numbers as they
are: a column each for the value, both ends of the interval, and N. Intervals of score and F hold for all populations at
once.

Does not cover: the page and its tables (`page`, `score_tables`), pictures (`figures`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ray_unlearn.errors import EvaluationError, did_you_mean
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import PopulationScores, Scores, Summary
from ray_unlearn.report.markdown import escaped
from ray_unlearn.report.ranking import SPLITS, at_once, estimate, in_order, null_of, quoted, slice_of
from ray_unlearn.wording import MINUS, MISSING, TIMES, decimals, joined

PaperForm = Literal["latex", "markdown", "csv"]
AT_NULL = "@null"
ACCURACY = "_accuracy"
DEFAULT = ("population", "N", "score", "forgetting_quality", "forgetting_quality@null", "retain_ratio", "test_ratio")
_SHORT = {"F": "forgetting_quality", "RA": "retain_ratio", "TA": "test_ratio"}
"""Names of columns as tables print them."""
_TEXTS = ("population", "method")
_PLAIN = (*_TEXTS, "N", "p", "cost", "seconds")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"} | {"±": r"$\pm$", MINUS: "$-$", MISSING: "--", TIMES: r"$\times$"}


class Entry(NamedTuple):
    """One value."""

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Runs behind the value; None for texts."""
    percent: bool = False


def paper_table(scores: Scores, form: PaperForm, columns: Sequence[str] = ()) -> str:
    """Return the table as text.

    Args:
        scores: the results of one evaluation.
        form: latex (a tabular for the package booktabs), markdown, or csv.
        columns: names of columns, also as tables print them (F, RA, TA); default `DEFAULT`.

    Raises:
        EvaluationError: a name is no column.

    """
    names = [_in_full(name) for name in columns] or list(DEFAULT)
    for name in names:
        _check(name)
    scores = quoted(scores)
    rows = [(one, [_entry(scores, one, name) for name in names]) for one in in_order(scores)]
    if form == "csv":
        return _csv(names, [entries for _, entries in rows])
    texts = [[_text(entry, one.runs) for entry in entries] for one, entries in rows]
    note = _note(scores)
    if form == "latex":
        return _latex(names, texts, note)
    return _markdown(names, texts, note)


def column_names() -> list[str]:
    """Return the name of every column."""
    at_null = [f"{name}{AT_NULL}" for name in MEASURES]
    return [*_PLAIN, *MEASURES, *at_null, *(f"{split}{ACCURACY}" for split in SPLITS)]


def _in_full(name: str) -> str:
    """Return a measure's name for the short one that tables print."""
    short, at, null = name.partition(AT_NULL)
    return _SHORT.get(short, short) + at + null


def _check(name: str) -> None:
    if name not in column_names():
        raise EvaluationError(f"report: no column {name!r}{did_you_mean(name, column_names())}")


def _entry(scores: Scores, one: PopulationScores, name: str) -> Entry:
    if name in MEASURES:
        found = estimate(one, name)
        return Entry(found.value, found.low, found.high, found.n)
    if name.endswith(AT_NULL):
        return _at_null(scores, one, name.removesuffix(AT_NULL))
    if name.endswith(ACCURACY):
        here = slice_of(one, name.removesuffix(ACCURACY))
        return _mean(here.accuracy, percent=True) if here else Entry()
    seconds = one.cost.seconds
    plain = {
        "population": Entry(one.population),
        "method": Entry(one.method),
        "N": Entry(one.runs),
        "p": Entry(min((test.corrected for test in one.tests.values()), default=None), n=one.runs),
        "cost": Entry(one.cost.relative, n=seconds.n if seconds else None),
        "seconds": _mean(seconds) if seconds else Entry(),
    }
    return plain[name]


def _at_null(scores: Scores, one: PopulationScores, name: str) -> Entry:
    """Return a measure at the null's N; of the reference, the null."""
    if one.role == "reference":
        found = null_of(scores, name)
        return Entry(found.null, n=found.null_n) if found else Entry()
    own = estimate(one, name)
    return Entry(own.at_null_n, n=own.null_n) if own.at_null_n is not None else Entry()


def _mean(found: Summary, *, percent: bool = False) -> Entry:
    return Entry(found.mean, found.low, found.high, found.n, percent)


def _text(entry: Entry, runs: int) -> str:
    """Return `0.026 ± 0.017 (N = 8)`; N is left out where it is the row's."""
    value = entry.value
    if value is None or isinstance(value, str):
        return MISSING if value is None else value
    half = (entry.high - entry.low) / 2 if entry.low is not None and entry.high is not None else None
    own_n = "" if entry.n in (None, runs) else f"(N = {entry.n})"
    if isinstance(value, int):
        return joined(str(value), own_n)
    shown = [f"{100 * one:.1f}" if entry.percent else decimals(one) for one in (value, half) if one is not None]
    return joined(" ± ".join(shown), own_n)


def _label(name: str) -> str:
    measure = MEASURES.get(name.removesuffix(AT_NULL))
    if measure is not None:
        return measure.label + " at the null's N" * name.endswith(AT_NULL)
    if name.endswith(ACCURACY):
        return f"{name.removesuffix(ACCURACY)} accuracy, %"
    return {"cost": f"cost, {TIMES} retraining", "seconds": "seconds per run"}.get(name, name)


def _note(scores: Scores) -> str:
    null = null_of(scores, "forgetting_quality")
    at_null = (
        f" The row {scores.reference} has the null: retraining against itself at N = {null.null_n}." if null else ""
    )
    several = f" (of score and F{words})" if (words := at_once(scores)) else ""
    return f"Value ± half of the 95 % interval over N runs{several}; {scores.mode} mode.{at_null}"


def _csv(names: Sequence[str], rows: Sequence[Sequence[Entry]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    plain = (*_TEXTS, "N")
    head = [[name] if name in plain else [name, f"{name}_low", f"{name}_high", f"{name}_n"] for name in names]
    writer.writerow([cell for cells in head for cell in cells])
    for row in rows:
        cells = [[one.value] if name in plain else list(one[:4]) for name, one in zip(names, row, strict=True)]
        writer.writerow([cell for each in cells for cell in each])
    return buffer.getvalue()


def _markdown(names: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    lines = [
        [escaped(_label(name)) for name in names],
        ["---" if name in _TEXTS else "---:" for name in names],
        *([escaped(text) for text in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{escaped(note)}\n"


def _latex(names: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    lines = [" & ".join(map(_escaped_latex, line)) + r" \\" for line in ([_label(name) for name in names], *rows)]
    return "\n".join(
        [
            f"% {note}",
            r"% needs \usepackage{booktabs}",
            r"\begin{tabular}{" + "".join("l" if name in _TEXTS else "r" for name in names) + "}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _escaped_latex(text: str) -> str:
    return re.sub(rf"[\\~^&%$#_{{}}±{MINUS}{MISSING}{TIMES}]", lambda found: _LATEX[found[0]], text)

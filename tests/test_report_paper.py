"""Tables and figures for a paper."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from scored import LONG, METHODS, make_scores

from ray_unlearn.errors import EvaluationError
from ray_unlearn.report.figures import save_figures
from ray_unlearn.report.ink import _LIGHT, _VARIABLES
from ray_unlearn.report.page import asset
from ray_unlearn.report.paper import column_names, paper_table

COLUMNS = ["population", "N", "forgetting_quality", "forgetting_quality@null", "test_accuracy", "cost"]


def rows_of(latex: str) -> dict[str, list[str]]:
    lines = [line.removesuffix(r" \\") for line in latex.splitlines() if line.endswith(r" \\")]
    return {line.split(" & ")[0]: line.split(" & ") for line in lines}


def test_a_latex_table_has_one_value_per_cell():
    """Law: value ± the longer side of the interval; the null is in the reference's row at its N; names are escaped."""
    scores = make_scores()
    quality = scores.populations["kookmin"].measures["forgetting_quality"]
    assert quality.value is not None
    assert quality.low is not None
    assert quality.high is not None
    rows = rows_of(paper_table(scores, "latex", COLUMNS))
    longer = max(quality.high - quality.value, quality.value - quality.low)
    assert rows["kookmin"][:3] == ["kookmin", "64", rf"{quality.value:.3f} $\pm$ {longer:.3f}"]
    assert rows["retrained"][2:4] == ["--", f"{quality.null:.3f} (N = {quality.null_n})"]
    assert LONG.replace("_", r"\_") in rows
    assert all(len(row) == len(COLUMNS) for row in rows.values())


def test_columns_go_by_the_names_that_tables_print():
    """Law: F, RA and TA are their measures, at the null's N, too."""
    short, full = ["F", "RA", "TA@null"], ["forgetting_quality", "retain_ratio", "test_ratio@null"]
    assert paper_table(make_scores(), "csv", short) == paper_table(make_scores(), "csv", full)


def test_csv_has_the_numbers_themselves():
    """Law: value, both ends and N are columns of their own, unrounded; nothing is empty but what is missing."""
    scores = make_scores()
    quality = scores.populations["kookmin"].measures["forgetting_quality"]
    rows = list(csv.DictReader(io.StringIO(paper_table(scores, "csv", COLUMNS))))
    (row,) = [one for one in rows if one["population"] == "kookmin"]
    found = [row[f"forgetting_quality{end}"] for end in ("", "_low", "_high", "_n")]
    assert [float(one) for one in found] == [quality.value, quality.low, quality.high, quality.n]
    assert next(one for one in rows if one["population"] == "retrained")["forgetting_quality"] == ""


def test_markdown_with_columns_is_one_table():
    """Law: as many cells as columns in every row, and a sentence that explains ±."""
    table, note = paper_table(make_scores(), "markdown", COLUMNS).split("\n\n")
    assert {line.count("|") for line in table.splitlines()} == {len(COLUMNS) + 1}
    assert "longer side of its 95 % interval" in note


@pytest.mark.parametrize("form", ["latex", "markdown", "csv"])
def test_every_column_can_be_chosen(form: str):
    """Law: no name in the list of columns fails."""
    assert paper_table(make_scores(), form, column_names())


def test_an_unknown_column_is_refused_with_the_nearest():
    """Law: the message names the nearest column."""
    with pytest.raises(EvaluationError, match=r"no column 'forget_quality'.*did you mean 'forgetting_quality'"):
        paper_table(make_scores(), "csv", ["forget_quality"])


def test_figures_are_pdf_and_svg_in_the_page_s_light_colours(tmp_path: Path):
    """Law: each picture twice, the same bytes each time, no stand-in colour left, and names as text."""
    scores = make_scores({"kookmin": METHODS["kookmin"]})
    files = save_figures(scores, tmp_path / "a")
    again = save_figures(scores, tmp_path / "b")
    assert [one.read_bytes() for one in files] == [one.read_bytes() for one in again]
    assert {one.suffix for one in files} == {".pdf", ".svg"}
    assert {one.name for one in files} >= {"closeness.pdf", "accuracy-against-forgetting.svg", "growth-kookmin.pdf"}
    for file in files:
        assert file.stat().st_size > 1000
        if file.suffix == ".svg":
            colours = set(re.findall(r"#[0-9a-f]{6}", file.read_text()))
            assert not colours & set(_LIGHT), file
        else:
            assert file.read_bytes().startswith(b"%PDF-")
    assert "kookmin" in (tmp_path / "a/closeness.svg").read_text()


def test_the_light_colours_are_the_page_s():
    """Law: figures and page have one set of colours."""
    first = asset("page.css").partition("@media")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", first))
    assert {_VARIABLES[stand_in]: colour for stand_in, colour in _LIGHT.items()} == {
        name: colours[name] for name in _VARIABLES.values()
    }

"""Subcommand `report`: the last evaluation as a page, or as a paper's table.

    ray-unlearn report faces.yaml

Does not cover: how scores are shown (`ray_unlearn.report`).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.options import Overrides, StudyFile, check_ending, names_in, store_of
from ray_unlearn.errors import StoreReadOnly
from ray_unlearn.terminal import print_error, print_line


class ReportFormat(StrEnum):
    """File format of a report."""

    html = "html"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"


def report(
    study: StudyFile,
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            help="html: a page; markdown: tables for a README; latex, csv: one table. Default: by the ending of "
            "--output, else html.",
        ),
    ] = None,
    columns: Annotated[
        list[str],
        typer.Option(
            "--columns",
            metavar="A,B",
            help="Columns of one table with one value per cell (latex, markdown, csv): population, method, N, p, cost, "
            "seconds, SPLIT_accuracy, a measure of scores.parquet (F, RA and TA for short), or MEASURE@null: its value "
            "at the null's N.",
        ),
    ] = [],  # noqa: B006
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Output file. Default: report.html, .md, .tex or .csv in the store."),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Put pictures of the images that each method forgot worst on the page.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the page's pictures in DIR, too, as PDF and SVG.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write the last evaluation as a page, or as a paper's table.

    The page opens without a network.
    """
    from ray_unlearn.generation.thumbnails import worst_pictures
    from ray_unlearn.report.publish import check_images, draw, render, save
    from ray_unlearn.study import load_study

    chosen = _form_of(output, form)
    loaded = load_study(study, overrides)
    store = store_of(loaded)
    check_images(chosen.value, images=images)
    pictures = worst_pictures(loaded, store, print_error) if images else ()
    text = render(store, chosen.value, names_in(columns, "--columns"), pictures)
    try:
        print_line(f"wrote {save(store, chosen.value, text, output)}")
    except StoreReadOnly as error:
        raise StoreReadOnly(f"{error}; --output FILE writes the report elsewhere") from error
    if figures is not None:
        print_line(f"wrote {len(draw(store, figures))} files in {figures}")


def _form_of(output: Path | None, form: ReportFormat | None) -> ReportFormat:
    """Return the format that is asked for, or that a file's ending shows; refuse an ending of another format."""
    from ray_unlearn.report.publish import ENDINGS

    ending = output.suffix.lower() if output is not None else ""
    if form is None:
        by_ending = (one for one in ReportFormat if ending in ENDINGS[one.value])
        form = next(by_ending, ReportFormat.html)
    if output is not None and ending:  # a name without an ending, such as /dev/stdout, holds any format
        check_ending(output, ENDINGS[form.value], f"the report's format is {form.value}")
    return form

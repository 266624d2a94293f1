"""The last evaluation as a page or as tables, into the store or a file.

    text = render(store, "html")                 # of <study>/scores.json
    name = publish(store, "html")                # <study>/report.html
    text = render(store, "latex", ["population", "N", "score"])
    files = draw(store, Path("figures"))         # every picture as PDF and SVG

Does not cover: computing scores (`ray_unlearn.evaluation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ray_unlearn.errors import DamagedFile, StoreError, StudyError, write_text
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.report.worst_images import Shown
from ray_unlearn.store import StudyStore
from ray_unlearn.store.arithmetic import mixtures
from ray_unlearn.store.formats import parse_object
from ray_unlearn.store.splits import data_warnings

Form = Literal["html", "markdown", "latex", "csv"]
ENDINGS: dict[Form, tuple[str, ...]] = {
    "html": (".html", ".htm"),
    "markdown": (".md", ".markdown"),
    "latex": (".tex",),
    "csv": (".csv",),
}
"""Endings of file names by form, the usual one first."""


def render(store: StudyStore, form: Form, columns: Sequence[str] = (), images: Sequence[Shown] = ()) -> str:
    """Return the report as text.

    Args:
        store: the study's folder.
        form: html and markdown are whole reports; latex, csv, and markdown with columns are one table.
        columns: columns of the table, by the names that `paper` lists.
        images: pictures for the page.

    Raises:
        StoreError: the store has no evaluation by this version.
        EvaluationError: a name is no column.
        StudyError: columns for a page.

    """
    if columns and form == "html":
        raise StudyError("report: columns are of a table; expected the format latex, markdown or csv; found html")
    scores = _with_warnings(read_scores(store), store)
    if form == "html":
        from ray_unlearn.report.page import html_page

        return html_page(scores, _study(store), images)
    if form == "markdown" and not columns:
        from ray_unlearn.report.markdown import markdown_page

        return markdown_page(scores, _study(store))
    from ray_unlearn.report.paper import paper_table

    return paper_table(scores, form, columns)


def check_images(form: Form, *, images: bool) -> None:
    """Refuse pictures of images in a table.

    Raises:
        StudyError: they are asked for.

    """
    if images and form != "html":
        raise StudyError(f"report: --images puts pictures on a page; expected the format html; found {form}")


def draw(store: StudyStore, folder: Path) -> list[Path]:
    """Write the page's pictures into a folder as PDF and SVG; return the files.

    Raises:
        StoreError: the store has no evaluation by this version, or the folder cannot be written.

    """
    from ray_unlearn.report.figures import save_figures

    return save_figures(read_scores(store), folder)


def _with_warnings(scores: Scores, store: StudyStore) -> Scores:
    """Add the warnings about the images, and about runs made in different ways, which older evaluations lack."""
    held = store.held(scores.reference)
    lines = data_warnings(store, held["identity"]["data"]["splits"]) if held else []
    lines += mixtures({name: store.made(name) for name in scores.populations}, scores.reference)
    new = [line for line in lines if line not in scores.warnings]
    return scores.model_copy(update={"warnings": (*scores.warnings, *new)})


def _study(store: StudyStore) -> dict[str, object]:
    where = f"{store.storage.uri}/{store.layout.study_json}"
    try:
        study = parse_object("study", store.storage.read(store.layout.study_json), where)
    except (FileNotFoundError, DamagedFile) as error:
        raise StoreError(f"{where}: missing or damaged; `ray-unlearn generate` writes it again") from error
    return {key: value for key, value in study.items() if key not in ("format", "made_by")}


def publish(store: StudyStore, form: Form, columns: Sequence[str] = ()) -> str:
    """Write the report into the study's folder; return its address.

    Raises:
        StoreError: the store has no evaluation by this version, or cannot be written.

    """
    return save(store, form, render(store, form, columns))


def save(store: StudyStore, form: Form, text: str, output: Path | None = None) -> str:
    """Write a report into a file, or else into the study's folder; return its address.

    Raises:
        StoreError: the file, or the store, cannot be written.

    """
    if output is not None:
        write_text(output, text)
        return str(output)
    name = store.layout.report(ENDINGS[form][0][1:])
    store.storage.publish_file(name, text.encode())
    return f"{store.storage.uri.rstrip('/')}/{name}"

"""The last evaluation as a page or as tables, into the store or a file.

    text = render(store, "html")                 # of <study>/scores.json
    name = publish(store, "html")                # <study>/report.html

Does not cover: computing scores (`ray_unlearn.evaluation`).
"""

from __future__ import annotations

from typing import Literal

from ray_unlearn.errors import DamagedFile, StoreError
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.store import StudyStore
from ray_unlearn.store.arithmetic import mixtures
from ray_unlearn.store.formats import parse_object

Form = Literal["html", "markdown"]


def render(store: StudyStore, form: Form) -> str:
    """Return the report as text.

    Raises:
        StoreError: the store has no evaluation by this version.

    """
    scores, study = _with_mixtures(read_scores(store), store), _study(store)
    if form == "html":
        from ray_unlearn.report.page import html_page

        return html_page(scores, study)
    from ray_unlearn.report.markdown import markdown_page

    return markdown_page(scores, study)


def _with_mixtures(scores: Scores, store: StudyStore) -> Scores:
    """Add the warnings about runs made in different ways, which evaluations by earlier versions lack."""
    lines = mixtures({name: store.made(name) for name in scores.populations}, scores.reference)
    new = [line for line in lines if line not in scores.warnings]
    return scores.model_copy(update={"warnings": (*scores.warnings, *new)})


def _study(store: StudyStore) -> dict[str, object]:
    where = f"{store.storage.uri}/{store.layout.study_json}"
    try:
        study = parse_object("study", store.storage.read(store.layout.study_json), where)
    except (FileNotFoundError, DamagedFile) as error:
        raise StoreError(f"{where}: missing or damaged; `ray-unlearn generate` writes it again") from error
    return {key: value for key, value in study.items() if key not in ("format", "made_by")}


def publish(store: StudyStore, form: Form) -> str:
    """Write the report into the study's folder; return its address.

    Raises:
        StoreError: the store has no evaluation by this version, or cannot be written.

    """
    name = store.layout.report("html" if form == "html" else "md")
    store.storage.publish_file(name, render(store, form).encode())
    return f"{store.storage.uri.rstrip('/')}/{name}"

"""The calls that a notebook makes, and a study's results as pandas tables that it shows.

    import ray_unlearn as ru

    study = ru.load_study("study.yaml")          # or ru.parse_study({"name": ..., ...})
    ru.generate(study, backend="inline")
    ru.evaluate(study)                           # Results: the ranking, where it is the last line of a cell
    found = ru.results(study)                    # of what is there, without computing scores
    found.runs, found.scores, found.images       # DataFrames
    ru.report(study, images=True)                # the page, in a frame

Does not cover: computing scores (`evaluation`), the page (`report`).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.evaluation.scores_table import scores_table
from ray_unlearn.store import StudyStore
from ray_unlearn.study.loading import parse_study as parse
from ray_unlearn.study.loading import resolved
from ray_unlearn.study.schema import Study
from ray_unlearn.terminal import print_error

if TYPE_CHECKING:
    import pandas as pd

    from ray_unlearn.report.notebook import Report
    from ray_unlearn.report.publish import Form


@dataclass(frozen=True)
class Results:
    """What a study's folder holds, as tables."""

    study: Study
    store: StudyStore
    evaluation: Scores | None
    """The last evaluation; None where there is none."""

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per finished run: population, run, method, accuracy and loss by split, seconds, device."""
        from ray_unlearn.store.metrics import metrics_table

        return metrics_table(self.store)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per population and measure: value, interval, N, null. Empty without an evaluation."""
        import pandas as pd

        return scores_table(self.evaluation) if self.evaluation is not None else pd.DataFrame()

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row per population and forget image: confidence, and epsilon against the reference."""
        from ray_unlearn.evaluation.image_table import image_table

        return image_table(self.study, self.store, mode=self.evaluation.mode if self.evaluation else None)

    def __repr__(self) -> str:
        """Return the ranking as the command line prints it; without scores, the counts of runs."""
        from ray_unlearn.report.text import score_lines, status_lines
        from ray_unlearn.store.metrics import study_status

        if self.evaluation is not None:
            return "\n".join(score_lines(self.evaluation))
        return "\n".join(status_lines(study_status(self.study, self.store), self.store.uri))

    def _repr_html_(self) -> str:
        """Return the ranking as a notebook shows it."""
        from ray_unlearn.report.notebook import ranking_html

        return ranking_html(self.evaluation) if self.evaluation is not None else f"<pre>{html.escape(repr(self))}</pre>"


def results(study: Study) -> Results:
    """Return the tables of a study; nothing is computed until one is looked at.

    Raises:
        StoreError: the last evaluation is damaged, or of a later version.

    """
    from ray_unlearn.evaluation.evaluate import read_scores

    store = StudyStore.of(study)
    evaluated = store.storage.exists(store.layout.scores_json)
    return Results(study, store, read_scores(store) if evaluated else None)


def evaluate(
    study: Study,
    *,
    populations: Sequence[str] = (),
    mode: Mode | None = None,
    jobs: int | None = 1,
    address: str | None = None,
) -> Results:
    """Score the study's populations against the retrained one, and return the results.

    Args:
        study: the study; its runs are made (`generate`).
        populations: only these, with the reference and the original; default all.
        mode: parity or exact; default `evaluation.mode`.
        jobs: 1 computes in this process; more, or None, on Ray.
        address: of a Ray cluster; default RAY_ADDRESS, else a local one.

    Raises:
        RayUnlearnError: as `evaluation.evaluate`.

    """
    from functools import partial

    from ray_unlearn.evaluation.cache import in_this_process
    from ray_unlearn.evaluation.evaluate import evaluate as compute

    execute: Any = in_this_process
    if jobs != 1 or address is not None:
        from ray_unlearn.cluster.scoring import on_ray

        execute = partial(on_ray, jobs=jobs, address=address)
    store = StudyStore.of(study)
    return Results(
        study, store, compute(study, store, populations=populations, mode=mode, execute=execute, log=print_error)
    )


def report(
    study: Study,
    form: Form = "html",
    *,
    columns: Sequence[str] = (),
    output: str | Path | None = None,
    figures: str | Path | None = None,
    images: bool = False,
) -> Report:
    """Write the last evaluation of a study as a page or as tables, and return it.

    Args:
        study: the study; it is evaluated.
        form: html, markdown, latex or csv.
        columns: columns of one table for a paper (`ray_unlearn.report.paper`).
        output: file to write; default report.html, .md, .tex or .csv in the study's folder.
        figures: folder for the page's pictures as PDF and SVG.
        images: put pictures of the images that each method forgot worst on the page; photographs may show people.

    Raises:
        StoreError: the store has no evaluation by this version, or a file cannot be written.
        RayUnlearnError: columns that do not exist, or that are asked of a page; images of a table.

    """
    from ray_unlearn.generation.thumbnails import worst_pictures
    from ray_unlearn.report.notebook import Report
    from ray_unlearn.report.publish import check_images, draw, render, save

    check_images(form, images=images)
    store = StudyStore.of(study)
    text = render(store, form, columns, worst_pictures(study, store, print_error) if images else ())
    address = save(store, form, text, None if output is None else Path(output))
    return Report(text, form, address, tuple(draw(store, Path(figures))) if figures is not None else ())


def parse_study(tree: dict[str, Any]) -> Study:
    """Return a study from plain values; relative paths are relative to the current folder.

    Raises:
        StudyError: a key or a value is wrong.

    """
    return parse(resolved(tree, Path.cwd()), where="the study")

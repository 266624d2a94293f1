"""The images that each method forgot worst, to be shown as pictures.

    found = worst_images(study, store, scores)   # {"kookmin": [Worst("00017.jpg", "20-29", 7.3, False), ...]}
    shown = shown_images(found, uris)            # for the page; uris: image id -> data URI

Does not cover: reading pictures (`generation.thumbnails`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ray_unlearn.evaluation.image_table import image_table
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.report.ranking import ranked
from ray_unlearn.store import StudyStore
from ray_unlearn.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

MOST = 6
"""Images of a method."""


class Worst(NamedTuple):
    """A forgotten image."""

    image_id: str
    label: str
    epsilon: float
    guarded: bool
    """Whether epsilon is 50 by rule, because the runs of one side hardly differ."""


class Shown(NamedTuple):
    """Forgotten images of one population with their pictures, the worst first."""

    population: str
    images: Sequence[tuple[Worst, str]]
    """Each with a data URI."""


def worst_images(study: Study, store: StudyStore, scores: Scores) -> dict[str, list[Worst]]:
    """Return the images with the largest epsilon of every population in the ranking, the largest first.

    Raises:
        StoreError: outputs are damaged or missing.

    """
    table = image_table(study, store, mode=scores.mode)
    return {one.population: _worst(table[table.population == one.population]) for one in ranked(scores)}


def shown_images(found: Mapping[str, Sequence[Worst]], uris: Mapping[str, str]) -> list[Shown]:
    """Return the images that have pictures, for the page."""
    return [Shown(name, [(one, uris[one.image_id]) for one in images]) for name, images in found.items() if images]


def _worst(rows: pd.DataFrame) -> list[Worst]:
    """Return the first images of one population by epsilon; none where it has no epsilon."""
    chosen = rows[rows.epsilon.notna()].sort_values("epsilon", ascending=False, kind="stable").head(MOST)
    return [
        Worst(str(row["image_id"]), str(row["class"]), float(row["epsilon"]), bool(row["guarded"]))
        for row in chosen.to_dict("records")
    ]

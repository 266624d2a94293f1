"""The images that each method forgot worst, to be shown as pictures.

    found = worst_images(study, store, scores)   # {"kookmin": [Worst("00017.jpg", "20-29", 7.3, False, 4), ...]}
    shown = shown_images(found, uris)            # for the page; uris: image id -> data URI

Does not cover: reading pictures (`generation.thumbnails`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ray_unlearn.evaluation.image_table import FORGET, image_table
from ray_unlearn.evaluation.outputs import read_image_names
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
    position: int
    """In the forget set, as the splits list it."""


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
    return {one.population: _worst(table[table.population == one.population], store) for one in ranked(scores)}


def shown_images(found: Mapping[str, Sequence[Worst]], uris: Mapping[str, str]) -> list[Shown]:
    """Return the images that have pictures, for the page."""
    return [Shown(name, [(one, uris[one.image_id]) for one in images]) for name, images in found.items() if images]


def _worst(rows: pd.DataFrame, store: StudyStore) -> list[Worst]:
    """Return the first images of one population by epsilon; none where it has no epsilon."""
    chosen = rows[rows.epsilon.notna()].sort_values("epsilon", ascending=False, kind="stable").head(MOST)
    if chosen.empty:
        return []
    identity = (store.held(str(chosen.population.iloc[0])) or {})["identity"]
    ids = read_image_names(store, identity["data"]["splits"]).ids[FORGET]
    return [
        Worst(
            str(row["image_id"]),
            str(row["class"]),
            float(row["epsilon"]),
            bool(row["guarded"]),
            ids.index(row["image_id"]),
        )
        for row in chosen.to_dict("records")
    ]

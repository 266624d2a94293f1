"""Which images a study's originals memorised: the hard forget sets of another study.

    forget: {hardest: 500, by: confidence_gap, of: faces}        # in the other study's file
    ids = hardest_images(StudyStore(storage, "faces"), 500)

An image that models know just as well without having been trained on it needs no unlearning, and any method looks good
on it. The gap of a forget image is its label's mean probability under the originals, which were trained on it, minus
that under the retrained models, which were not: the memorisation score of Feldman and Zhang (NeurIPS 2020), in
probability instead of accuracy, from outputs that are there anyway.

Does not cover: images outside that study's forget set, of which it has no models without them.
"""

from __future__ import annotations

import json

import numpy as np

from ray_unlearn.errors import DataError
from ray_unlearn.evaluation.outputs import Outputs, read_image_names, read_outputs
from ray_unlearn.store import StudyStore
from ray_unlearn.study.plan import ORIGINAL


def hardest_images(store: StudyStore, count: int) -> list[str]:
    """Return the ids of the forget images with the largest confidence gap, largest first; ties in its order.

    Raises:
        DataError: the study has no such runs, or fewer forget images.
        StoreError: its outputs are damaged.

    """
    where = f"data.forget.hardest: study {store.name} in {store.storage.uri}"
    original, retrained = (_outputs(store, name, where) for name in (ORIGINAL, _reference(store, where)))
    gaps_E = confidence_gaps(original, retrained)
    if count > len(gaps_E):
        raise DataError(f"{where}: asks for {count} of its {len(gaps_E)} forget images")
    identity = (store.held(ORIGINAL) or {})["identity"]
    ids = read_image_names(store, str(identity["data"]["splits"])).ids["forget"]
    positions_N = original.splits["forget"].positions_N
    return [str(ids[positions_N[e]]) for e in np.argsort(-gaps_E, kind="stable")[:count]]


def confidence_gaps(original: Outputs, retrained: Outputs) -> np.ndarray:
    """Return the gap of every forget image, float64 [E], in -1..1."""
    mine, theirs = (np.exp(-side.splits["forget"].loss_RN).mean(0) for side in (original, retrained))
    return np.asarray(mine - theirs)


def _reference(store: StudyStore, where: str) -> str:
    try:
        study = json.loads(store.storage.read(store.layout.study_json))
    except (FileNotFoundError, ValueError):
        raise DataError(f"{where}: no such study; generate it first, in the same storage") from None
    return str((study.get("evaluation") or {}).get("reference", "retrained"))


def _outputs(store: StudyStore, population: str, where: str) -> Outputs:
    records = store.made(population)
    if not records:
        raise DataError(f"{where}: population {population} has no finished run; generate it first")
    outputs = read_outputs(store, population, records)
    if "forget" not in outputs.splits:
        raise DataError(f"{where}: population {population} saved no outputs of its forget set")
    return outputs

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

import numpy as np

from ray_unlearn.errors import DataError
from ray_unlearn.evaluation.outputs import Outputs, read_image_names, read_outputs
from ray_unlearn.store import Storage, StudyStore
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Evaluation, Study


def hardest_of(study: Study, storage: Storage) -> tuple[str, ...]:
    """Return the ids of the images that a study's `forget: {hardest: ...}` means; none where it asks for no such set.

    Raises:
        DataError: the other study has no such runs, or fewer forget images.
        StoreError: its outputs are damaged.

    """
    forget = study.data.forget
    if forget.hardest is None or forget.of is None:
        return ()
    return tuple(hardest_images(StudyStore(storage, forget.of), forget.hardest))


def hardest_images(store: StudyStore, count: int) -> list[str]:
    """Return the ids of the forget images with the largest confidence gap, largest first; ties in its order.

    Raises:
        DataError: the study has no such runs, or fewer forget images.
        StoreError: its outputs are damaged.

    """
    where = f"data.forget.hardest: study {store.name} in {store.storage.uri}"
    study = _study(store, where)
    reference = (study.evaluation or Evaluation()).reference
    original, retrained = (_outputs(store, study, name, where) for name in (ORIGINAL, reference))
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


def _study(store: StudyStore, where: str) -> Study:
    study = store.study()
    if study is None:
        raise DataError(f"{where}: no such study; generate it first, in the same storage")
    return study


def _outputs(store: StudyStore, study: Study, population: str, where: str) -> Outputs:
    """Return the outputs of exactly the planned runs: the hardest images must not depend on the progress of a study."""
    spec = study.populations.get(population)
    records = {index: r for index, r in store.made(population).items() if spec and index < spec.planned}
    if spec is None or len(records) < spec.planned:
        made = f"{len(records)} of {spec.planned}" if spec else "none"
        raise DataError(f"{where}: population {population}: {made} of its runs made; generate all of them first")
    outputs = read_outputs(store, population, records)
    if "forget" not in outputs.splits:
        raise DataError(f"{where}: population {population} saved no outputs of its forget set")
    return outputs

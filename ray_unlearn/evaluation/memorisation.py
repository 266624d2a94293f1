"""Which images a study's models memorised: the hard forget sets of another study.

    forget: {hardest: 500, by: memorisation, of: faces}          # in the other study's file; or by: confidence_gap
    ids = most_memorised(StudyStore(storage, "faces"), 500)      # by its shadows, of all train images
    ids = hardest_images(StudyStore(storage, "faces"), 500)      # by its originals, of its forget images

Outputs of an earlier study are read when the splits of a later one are drawn: no study depends on its own runs.

An image that models know just as well without having been trained on it needs no unlearning, and any method looks good
on it. The gap of a forget image is its label's mean probability under the originals, which were trained on it, minus
that under the retrained models, which were not: the memorisation score of Feldman and Zhang (NeurIPS 2020), in
probability instead of accuracy, from outputs that are there anyway. One original knows it badly: of 500 images, the 50
hardest by its gap were the truly hardest in a third of the cases. Shadows estimate memorisation itself, and of all
train images: equal scores are ordered by the gap between models with and without the image.

Does not cover: the formula of memorisation (`measures.memorisation`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ray_unlearn.errors import DataError
from ray_unlearn.evaluation.measures.memorisation import Memorised, memorisation
from ray_unlearn.evaluation.outputs import Outputs, read_outputs
from ray_unlearn.evaluation.shadows import LEAST_PAIRS, complete_pairs, pairs_of
from ray_unlearn.store import Record, Storage, StudyStore
from ray_unlearn.store.forget_sets import splits_held
from ray_unlearn.store.membership import HALVED, is_shadow, split_sizes
from ray_unlearn.store.splits import read_image_names
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
    store = StudyStore(storage, forget.of)
    if forget.by == "memorisation":
        return tuple(most_memorised(store, forget.hardest, forget.shadows))
    return tuple(hardest_images(store, forget.hardest))


def most_memorised(store: StudyStore, count: int, shadows: str | None = None) -> list[str]:
    """Return the ids of the train images that a study's shadows memorised most, largest score first.

    Args:
        store: the study's folder.
        count: number of images.
        shadows: name of its population of shadows; default the one that it has.

    Raises:
        DataError: the study has no such runs, too few images, or no outputs of all of its train images.
        StoreError: its outputs are damaged.

    """
    where = f"data.forget.hardest: study {store.name} in {store.storage.uri}"
    study = _study(store, where)
    name = shadows or _only_shadows(study, where)
    records = _records(store, study, name, where)
    digest = str((store.held(name) or {})["identity"]["data"]["splits"])
    sizes = split_sizes(store, digest)
    if not is_shadow(next(iter(records.values()))):
        raise DataError(f"{where}: population {name} is not trained on halves; expected on: {{half_of: train}}")
    if len(complete_pairs(records)) < LEAST_PAIRS:
        raise DataError(f"{where}: population {name}: expected {2 * LEAST_PAIRS} shadows or more; found {len(records)}")
    scores = memorisation(pairs_of(store, name, records, sizes))
    _check_complete(scores, sizes, f"{where}: population {name}")
    order = np.lexsort(
        [-np.concatenate([getattr(scores[split], key) for split in HALVED]) for key in ("gap_N", "score_N")]
    )
    if count >= len(order):
        raise DataError(f"{where}: asks for {count} of its {len(order)} train images; some must remain")
    names = read_image_names(store, digest)
    ids = [str(names.ids[split][position]) for split in HALVED for position in scores[split].positions_N]
    return [ids[place] for place in order[:count]]


def _only_shadows(study: Study, where: str) -> str:
    """Return the name of a study's one population of shadows."""
    specs = study.populations.items()
    found = [name for name, spec in specs if spec.on_halves and spec.starts_from is None and name != ORIGINAL]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{where}: it has {len(found)} populations of shadows; name one: shadows: {found[0]}")
    raise DataError(
        f"{where}: it has no population of shadows, such as {{method: train, on: {{half_of: train}}, count: 64}}"
    )


def _check_complete(scores: Mapping[str, Memorised], sizes: Mapping[str, int], where: str) -> None:
    """Check that all train images have outputs: the hardest of some of them would not be the hardest."""
    for split in HALVED:
        saved = len(scores[split].score_N) if split in scores else 0
        if saved < sizes[split]:
            raise DataError(
                f"{where} saved outputs of {saved} of {sizes[split]} {split} images; make it with outputs: "
                "{splits: [retain, forget, test]}, and no retain_sample"
            )


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
    splits, *further = splits_held(store.held(ORIGINAL) or {})
    if further:
        raise DataError(f"{where}: it has {1 + len(further)} forget sets; expected a study with one")
    ids = read_image_names(store, splits).ids["forget"]
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
    outputs = read_outputs(store, population, _records(store, study, population, where))
    if "forget" not in outputs.splits:
        raise DataError(f"{where}: population {population} saved no outputs of its forget set")
    return outputs


def _records(store: StudyStore, study: Study, population: str, where: str) -> dict[int, Record]:
    """Return the records of exactly the planned runs: the hardest images must not depend on the progress of a study."""
    spec = study.populations.get(population)
    records = {index: r for index, r in store.made(population).items() if spec and index < spec.planned}
    if spec is None or len(records) < spec.planned:
        made = f"{len(records)} of {spec.planned}" if spec else "none"
        raise DataError(f"{where}: population {population}: {made} of its runs made; generate all of them first")
    return records

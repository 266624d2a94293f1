"""Which retain and forget images each model of a shadow population is trained on.

    half = half_of_train(0, "shadows", 7, {"retain": 1617, "forget": 180})
    half["retain"]                               # bool [1617]: the images in the order of the splits file
    fingerprint(half)                            # as the run's record holds it
    keep_RN = membership_matrix(store, "shadows")                   # of all runs, as other tools want it

Runs 2k and 2k+1 are trained on a random half and on the rest: each image is in exactly half of the runs of every even
number of them. Retain and forget images are halved apart, so that every run sees as many forget images as any other,
to one. A half depends on the study's seed, the population's name, the pair and the sizes of the two sets alone: it is
the same after a crash, and more runs move no earlier one. The identity of a population holds all image ids.

The halves are derived, not stored; a record holds the fingerprint of its run's, and `verify` and every reader compare.
Shadows that another program made were trained on other subsets, which no rule gives: their records hold them.

Does not cover: how a method is limited to a half (`run.worker`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import StoreError
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.records import Record
from ray_unlearn.store.splits import read_image_names
from ray_unlearn.store.study_store import StudyStore

HALVED = ("retain", "forget")
"""The splits that make up train, in the order of the fingerprint."""
MEMBERS = "members"
"""Option of an imported shadow's record that holds its half, as `packed` writes it."""
Members = dict[str, npt.NDArray[np.bool_]]
"""Split -> whether a model was trained on the image at each position."""


def half_of_train(study_seed: int, population: str, index: int, sizes: Mapping[str, int]) -> Members:
    """Return the half of the train split that run `index` of a population is trained on.

    Args:
        study_seed: the study's seed.
        population: name of the population of shadows.
        index: index of the run.
        sizes: number of images by split; those of retain and forget are read.

    """
    return {split: half_of(study_seed, population, index, split, sizes[split]) for split in HALVED}


def half_of(study_seed: int, population: str, index: int, split: str, size: int) -> npt.NDArray[np.bool_]:
    """Return a random half of a split for an even run, the rest for the odd run after it, bool [size].

    The even run has size // 2 images: those with the smallest 64-bit numbers, which no version of NumPy changes.
    """
    rng = Seeds(study=study_seed, population=population, run=index // 2).numpy(f"half-of-{split}")
    mask = np.zeros(size, dtype=np.bool_)
    mask[np.argsort(rng.bit_generator.random_raw(size), kind="stable")[: size // 2]] = True
    return mask if index % 2 == 0 else ~mask


def fingerprint(members: Members) -> str:
    """Return the sha256 of the sizes and of one bit for each image, as 64 hex digits."""
    sha256 = hashlib.sha256()
    for split in HALVED:
        sha256.update(f"{split} {len(members[split])}\n".encode())
        sha256.update(np.packbits(members[split]).tobytes())
    return sha256.hexdigest()


def packed(members: Members) -> dict[str, str]:
    """Return one bit for each image of a split, as hexadecimal digits."""
    return {split: np.packbits(members[split]).tobytes().hex() for split in HALVED}


def stated_half(record: Record, sizes: Mapping[str, int]) -> Members | None:
    """Return the images that an imported shadow was trained on; None where the half is derived.

    Raises:
        StoreError: the record holds no such bits.

    """
    on = record.options.get("on")
    if not isinstance(on, Mapping) or MEMBERS not in on:
        return None
    try:
        bits = {split: np.frombuffer(bytes.fromhex(on[MEMBERS][split]), np.uint8) for split in HALVED}
        return {split: np.unpackbits(bits[split], count=sizes[split]).astype(np.bool_) for split in HALVED}
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{record.population}/{record.index:05d}: does not hold which of {sum(sizes.values())} images it was "
            "trained on"
        ) from error


def split_sizes(store: StudyStore, digest: str) -> dict[str, int]:
    """Return the number of retain and forget images that a splits file names.

    Args:
        store: the study's folder.
        digest: digest of the splits, from a population's identity.

    Raises:
        StoreError: the file is missing or cannot be read.

    """
    ids = read_image_names(store, digest).ids
    return {split: len(ids.get(split, ())) for split in HALVED}


def membership_matrix(store: StudyStore, population: str) -> npt.NDArray[np.bool_]:
    """Return which images every made run of a population of shadows was trained on, bool [runs, retain + forget].

    Runs are in the order of their indexes, images in that of the splits file: retain images first.

    Raises:
        StoreError: the store has no such shadows, or a half differs from its record.

    """
    records = store.made(population)
    if not records:
        raise StoreError(f"{store.uri}: population {population} has no finished run; `ray-unlearn generate` makes them")
    if not is_shadow(first := next(iter(records.values()))):
        on = first.options.get("on", "no such option")
        raise StoreError(f"{store.uri}: population {population}: expected shadows, on: {{half_of: train}}; found {on}")
    identity = (store.held(population) or {})["identity"]
    sizes = split_sizes(store, str(identity["data"]["splits"]))
    halves = [members_of(records[index], population, sizes) for index in sorted(records)]
    return np.stack([np.concatenate([half[split] for split in HALVED]) for half in halves])


def is_shadow(record: Record) -> bool:
    """Return whether a run was trained on its own half of the train split."""
    return isinstance(record.options.get("on"), Mapping)


def members_of(record: Record, shadows: str, sizes: Mapping[str, int]) -> Members:
    """Return the images that a shadow, or the shadow that a run started from, was trained on.

    Args:
        record: a shadow's, or that of a run which started from one.
        shadows: name of the population of shadows.
        sizes: number of images by split.

    Raises:
        StoreError: the half differs from the fingerprint in the record.

    """
    members, problem = compared_half(record, shadows, sizes)
    if problem:
        raise StoreError(f"{record.population}/{record.index:05d}: {problem}; run `ray-unlearn verify STUDY`")
    return members


def compared_half(record: Record, shadows: str, sizes: Mapping[str, int]) -> tuple[Members, str]:
    """Return the same, and how it differs from the fingerprint in the record; an empty text where it does not."""
    index = record.index if record.population == shadows else record.original
    stated = stated_half(record, sizes)
    members = stated if stated is not None else half_of_train(record.seeds["study"], shadows, index, sizes)
    if (has := fingerprint(members)) == record.membership:
        return members, ""
    return members, (
        f"its record names another half of the train split ({record.membership[:12] or 'none'}) than run {index} of "
        f"{shadows} has ({has[:12]})"
    )

"""The set of every image: index arrays, disjoint by construction, drawn with the study's seed alone.

    splits = make_splits(study.data, Seeds(study=study.seed), table)
    splits.sets["retain"]                        # int64 indexes, sorted
    splits.digest                                # over the image ids of every set
    splits.arrow(table)                          # as saved with the study
    others = make_splits(study.data, Seeds(study=study.seed), table, 3)      # those of forget set 3

Order of the draws: ids named by the study are set aside; then `limit` and the test fraction are drawn from the rest;
then a class or whole groups to forget are set aside, so that no method meets them in the validation set; then the
validation fraction, and a forget fraction, are drawn; retain is what remains. Of a study with several forget sets, all
but forget and retain is the same for each, and so is train, their union.

Does not cover: pixels; only ids, labels and groups are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ray_unlearn.data.class_names import same_number
from ray_unlearn.data.id_lists import by_name, find, mask_of, names_of, no_image, no_position, positions, read_ids
from ray_unlearn.errors import DataError, did_you_mean
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.splits import encode_splits
from ray_unlearn.study.identity import digest
from ray_unlearn.study.schema import Data, Source

SPLITS = ("retain", "forget", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """Metadata of the images for splitting: training rows first, then validation's, then test's."""

    ids: Sequence[str]
    labels_N: np.ndarray
    groups: Sequence[str]
    given: Sequence[str]
    num_train: int
    num_validation: int
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class Splits:
    """Disjoint index sets over a study's images."""

    sets: Mapping[str, np.ndarray]
    """Sorted int64 indexes of retain, forget, validation and test; the last two may be empty."""
    digest: str

    @cached_property
    def train(self) -> np.ndarray:
        """Retain and forget together, sorted."""
        return np.sort(np.concatenate([self.sets["retain"], self.sets["forget"]]))

    def sizes(self) -> dict[str, int]:
        """Return {split: number of images}."""
        return {name: len(indexes) for name, indexes in self.sets.items()}

    def arrow(self, images: ImageTable) -> bytes:
        """Return the splits as the file that is saved with the study."""
        return encode_splits(self.sets, images.ids, images.labels_N, images.groups, images.class_names)


def make_splits(data: Data, seeds: Seeds, images: ImageTable, forget_set: int = 0) -> Splits:
    """Draw the study's sets.

    Args:
        data: the study's block.
        seeds: of the study.
        images: ids, labels and groups.
        forget_set: which of the study's forget sets, from 0; the stream of set 0 is that of a study with one.

    Raises:
        DataError: a set would be empty, an id or class is unknown, or sets would overlap.

    """
    pool = np.arange(images.num_train)
    named = _named(data, images)
    validation_end = images.num_train + images.num_validation
    validation = np.arange(images.num_train, validation_end)
    test = np.arange(validation_end, len(images.ids))
    if data.validation == "given":
        validation = _given(images, "validation")
    elif any(images.given):
        given_N = np.array(images.given[: images.num_train])
        pool = pool[given_N != "validation"]  # never trained on, even where the study has no validation set
    rest = _without(pool, np.concatenate([named, validation]) if data.validation == "given" else named)
    if data.limit is not None:
        rest = _draw(rest, data.limit - len(named), seeds, "limit", "data.limit")
    if isinstance(data.test, float):
        test = _draw(rest, round(data.test * (len(rest) + len(named))), seeds, "test-split", "data.test")
        rest = _without(rest, test)
    forget = named if len(named) else _selected(data, seeds, images, rest)
    rest = _without(rest, forget)
    if isinstance(data.validation, float):
        count = round(data.validation * (len(rest) + len(forget)))
        validation = _draw(rest, count, seeds, "validation-split", "data.validation")
        rest = _without(rest, validation)
    if data.forget.fraction is not None and len(rest):
        count = max(1, round(data.forget.fraction * len(rest)))
        purpose = f"forget-split/{forget_set}" if forget_set else "forget-split"
        forget = _draw(rest, count, seeds, purpose, "data.forget.fraction")
    sets = {"retain": _without(rest, forget), "forget": forget, "validation": validation, "test": test}
    _check_not_empty(data, sets)
    return splits_of(sets, images)


def _check_not_empty(data: Data, sets: Mapping[str, np.ndarray]) -> None:
    """Check that retain and forget have images; the error names the key that took them."""
    expected = "expected some images in both retain and forget"
    if not len(sets["retain"]):
        drawn = [name for name in ("validation", "test") if isinstance(getattr(data, name), float | str)]
        taken = {name: len(sets[name]) for name in ("forget", *drawn)}
        most = max(taken, key=lambda name: taken[name])
        shares = ", ".join(f"{name} took {count}" for name, count in taken.items())
        raise DataError(f"data.{most}: the retain set is empty: of {sum(taken.values())} images {shares}; {expected}")
    if not len(sets["forget"]):
        raise DataError(f"data.forget: the forget set is empty; {expected}")


def splits_of(sets: Mapping[str, np.ndarray], images: ImageTable) -> Splits:
    """Return these sets of images, sorted indexes by split, with their digest.

    Raises:
        DataError: an image is in two of them.

    """
    everything = np.concatenate(list(sets.values()))
    if np.bincount(everything).max() > 1:
        raise DataError("data: the sets overlap; an image is in two of retain, forget, validation and test")
    return Splits(sets, digest({name: [images.ids[i] for i in indexes] for name, indexes in sets.items()}))


def _without(pool: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return the indexes of a pool that are not taken, in its order: numpy's `setdiff1d` first hashes all of them."""
    return pool[~np.isin(pool, taken)]


def _draw(pool: np.ndarray, count: int, seeds: Seeds, purpose: str, key: str) -> np.ndarray:
    if not 0 < count <= len(pool):
        raise DataError(f"{key}: asks for {count} of {len(pool)} images")
    return np.sort(seeds.numpy(purpose).choice(pool, count, replace=False))


def _given(images: ImageTable, name: str) -> np.ndarray:
    found = np.array([i for i in range(images.num_train) if images.given[i] == name], dtype=np.int64)
    if not len(found):
        raise DataError(f"data: the source gives no {name} set; only the competition's layout does")
    return found


def _named(data: Data, images: ImageTable) -> np.ndarray:
    """Return forget images that the study or the source names one by one; empty where it draws or selects them."""
    if data.forget.given:
        return _given(images, "forget")
    if data.forget.ids is None:
        return np.array([], dtype=np.int64)
    position = {images.ids[i]: i for i in range(images.num_train)}
    listed = read_ids(data.forget.ids, images.num_train)
    places = [find(text, position) for _, text in listed]
    if listed and all(place is None for place in places):
        array = isinstance(data.forget.ids, str) and data.forget.ids.lower().endswith(".npy")
        found_positions = positions(listed, images.ids[: images.num_train], certain=array)
        places = [*(found_positions or places)]  # the starting kit's forget_idx
        if array and found_positions is None and (problem := no_position(listed, images.num_train)):
            raise DataError(problem)
    if any(place is None for place in places):
        names = names_of(position)
        places = [
            by_name(text, names, position, where, _elsewhere(data)) if place is None else place
            for (where, text), place in zip(listed, places, strict=True)
        ]
    found: dict[int, str] = {}
    for (where, image_id), place in zip(listed, places, strict=True):
        if place is None:
            hint = no_image(image_id, position, images.num_train)
            raise DataError(f"{where}: image id {image_id!r} is not in data.train{hint}")
        if place in found:
            hint = mask_of(listed, images.num_train)
            raise DataError(f"{where}: image id {image_id!r} was already named at {found[place]}{hint}")
        if images.given[place] == "validation":
            raise DataError(
                f"{where}: image id {image_id!r} is in the source's validation set; it cannot be forgotten too"
            )
        found[place] = where
    if not found:
        raise DataError("data.forget.ids: names no image; the forget set is empty")
    return np.array(sorted(found), dtype=np.int64)


def _elsewhere(data: Data) -> dict[str, str]:
    """Return the names of the folders that test and validation images come from, where those of train have others."""
    folders = {
        role: source.path.rstrip("/").rpartition("/")[2]
        for role in ("train", "test", "validation")
        if isinstance(source := getattr(data, role), Source) and isinstance(source.path, str)
    }
    train = folders.pop("train", "")
    return {folder: role for role, folder in folders.items() if folder != train}


def _selected(data: Data, seeds: Seeds, images: ImageTable, rest: np.ndarray) -> np.ndarray:
    """Return the forget images that a class or whole groups select; empty where the study forgets otherwise."""
    forget = data.forget
    if forget.label is not None:
        return np.asarray(rest[images.labels_N[rest] == _class(forget.label, images)])
    if forget.group is None:
        return np.array([], dtype=np.int64)
    groups = np.array(images.groups, dtype=object)[rest]
    names = sorted({group for group in groups if group})
    if not names:
        raise DataError(f"data.forget.group: {forget.group}: the source has no group for any image")
    count = forget.count or 1
    if count >= len(names):
        raise DataError(f"data.forget.count: asks for {count} of {len(names)} groups; some must remain")
    chosen = set(seeds.numpy("forget-split").choice(names, count, replace=False))
    return rest[[group in chosen for group in groups]]


def _class(label: int | str, images: ImageTable) -> int:
    names = images.class_names or ()
    if isinstance(label, int):
        other = same_number(label, names)
        if other is not None and other != label:
            named = f", {names[label]!r}," if 0 <= label < len(names) else ""
            raise DataError(
                f"data.forget.label: {label} could be class number {label}{named} or the class named {names[other]!r}, "
                f"which is number {other}; write the name in quotes: {{label: {json.dumps(names[other])}}}"
            )
        return label
    if label not in names:
        raise DataError(f"data.forget.label: {label!r} is none of the classes{did_you_mean(label, names)}")
    return names.index(label)

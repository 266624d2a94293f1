"""What a reader of another program's files returns: the images by position, and each population's numbers.

    images = Images.of(num_train=50_000, num_test=10_000, forget=[3, 7], prefix="cifar10")
    images.sets["forget"]                        # int64 indexes; training images first, then test images
    Brought(name="retrained", values=margins_RN, kind="log_odds", origins=rows_of({"oracle.pt": sha256}, range(100)))

Legend: R runs, N images (training images, then test images), C classes.

Does not cover: reading files (`arrays`), and the study that is written of it (`study`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ray_unlearn.errors import DataError
from ray_unlearn.store.outputs import UNKNOWN, Margin

FEWEST_CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that outputs are of."""

    ids: tuple[str, ...]
    labels_N: np.ndarray
    """int64; `UNKNOWN` where classes are not known."""
    num_train: int
    sets: Mapping[str, np.ndarray]
    """Sorted int64 indexes of retain, forget, validation (empty) and test."""

    @classmethod
    def of(
        cls,
        *,
        num_train: int,
        num_test: int,
        forget: Sequence[int] = (),
        labels: np.ndarray | None = None,
        prefix: str = "",
    ) -> Images:
        """Return images that are named by their positions: `train-00012`, or as the source `cifar10` names them.

        Args:
            num_train: training images.
            num_test: test images.
            forget: positions of the forget images among the training images.
            labels: class of every image; default: not known.
            prefix: first part of the ids.

        Raises:
            DataError: a position is no training image's, or named twice; labels are not one whole number per image.

        """
        start = f"{prefix}-" if prefix else ""
        ids = [
            f"{start}{part}-{i:05d}" for part, size in (("train", num_train), ("test", num_test)) for i in range(size)
        ]
        train, forgotten = np.arange(num_train), np.array(sorted(forget), dtype=np.int64)
        outside = [i for i in forgotten.tolist() if not 0 <= i < num_train]
        if outside:
            raise DataError(f"forget: position {outside[0]}: expected 0 to {num_train - 1}, a training image's")
        if len(set(forgotten.tolist())) < len(forgotten):
            raise DataError("forget: an image is named twice")
        sets = {
            "retain": train[~np.isin(train, forgotten)],
            "forget": forgotten,
            "validation": np.zeros(0, np.int64),
            "test": np.arange(num_train, num_train + num_test),
        }
        return cls(ids=tuple(ids), labels_N=_labels(labels, len(ids)), num_train=num_train, sets=sets)

    @property
    def saved(self) -> list[str]:
        """Splits that have images."""
        return [name for name, indexes in self.sets.items() if len(indexes)]


def _labels(labels: np.ndarray | None, count: int) -> np.ndarray:
    if labels is None:
        return np.full(count, UNKNOWN, np.int64)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            f"labels: expected {count:,} whole numbers from 0, one per training image and then one per test image; "
            f"found {labels.dtype} {list(labels.shape)}"
        )
    return labels.astype(np.int64)


class Origin(NamedTuple):
    """Where one run's values were read from."""

    files: Mapping[str, str]
    """sha256 by file name."""
    row: int = 0
    """Row of the run in files that hold several."""


def rows_of(files: Mapping[str, str], rows: Iterable[int]) -> list[Origin]:
    """Return the origins of runs that are rows of the same files."""
    return [Origin(files, int(row)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Brought:
    """One population of another program."""

    name: str
    values: np.ndarray
    """Margins [R, N], or logits [R, N, C]; any floating type."""
    kind: Margin | None
    """Kind of the margins; None for logits."""
    origins: Sequence[Origin]
    """Where each run's values were read from."""
    members_RN: np.ndarray | None = None
    """bool [R, training images]: what each run was trained on; None where it is not known."""
    notes: tuple[str, ...] = ()
    """What was left out, in words."""


def repeated(one: Brought) -> str:
    """Return which run has the numbers of an earlier one, such as a file that was copied; empty where none has."""
    first = dict[bytes, int]()
    for run, values in enumerate(one.values):
        known = first.setdefault(hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest(), run)
        if known != run:
            return f"run {run} has the same numbers as run {known}: is it a copy? Runs are taken as independent"
    return ""


def check(images: Images, populations: Sequence[Brought]) -> None:
    """Check that every population has finite numbers of every image, and classes where it has logits.

    Raises:
        DataError: it has not.

    """
    for one in populations:
        expected = len(images.ids)
        axes = 2 if one.kind else 3
        if one.values.ndim != axes or one.values.shape[1] != expected or one.values.dtype.kind != "f":
            wanted = f"[runs, {expected}]" if one.kind else f"[runs, {expected}, classes]"
            found = f"{one.values.dtype} {list(one.values.shape)}"
            raise DataError(f"{one.name}: expected {wanted} of a floating type; found {found}")
        if not len(one.values):
            raise DataError(f"{one.name}: no run")
        for run, values in enumerate(one.values):
            if not np.isfinite(values).all():
                raise DataError(
                    f"{one.name}: run {run} holds NaN or infinity; leave it out: such a run is not comparable"
                )
        if not one.kind and not FEWEST_CLASSES <= int(images.labels_N.max()) + 1 <= one.values.shape[2]:
            raise DataError(
                f"{one.name}: expected classes within 0 to {one.values.shape[2] - 1}, as the logits have; found labels "
                f"{int(images.labels_N.min())} to {int(images.labels_N.max())}; --labels FILE names them"
            )

"""All runs of a population in the order of their values, image by image; and several subsets of the same runs.

    ordered = ordered_by_value(phi_RN)           # kept by `SplitOutputs.ordered`: sorted once for all subsets
    found = together(pairs, "forget")            # Together(...), or None where the pairs are no such subsets

A subset's values, in order, are these without the runs that it lacks, so that no subset is sorted.

Does not cover: what is computed of them (`measures`, `compiled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.populations import FloatArray

if TYPE_CHECKING:
    from ray_unlearn.evaluation.measures.measure import Pair
    from ray_unlearn.evaluation.outputs import SplitOutputs

_IMAGES = 256
"""Images that are sorted at a time."""
LEAST = 4
"""Subsets from which sorting all runs pays."""


class Ordered(NamedTuple):
    """All runs of a side in the order of their values, image by image."""

    values_EN: FloatArray
    """Rising."""
    run_EN: npt.NDArray[np.uint16]
    """Which run each value is of."""


def ordered_by_value(phi_RN: FloatArray) -> Ordered:
    """Return the runs in order; E is the number of images, N that of runs, 65,536 at most."""
    images = phi_RN.shape[1]
    found = Ordered(np.empty(phi_RN.shape[::-1]), np.empty(phi_RN.shape[::-1], np.uint16))
    for start in range(0, images, _IMAGES):
        some = slice(start, start + _IMAGES)
        values_EN = np.ascontiguousarray(phi_RN[:, some].T)
        order_EN = np.argsort(values_EN, axis=1)
        found.values_EN[some] = np.take_along_axis(values_EN, order_EN, axis=1)
        found.run_EN[some] = order_EN
    return found


class Together(NamedTuple):
    """Subsets of the runs of two populations."""

    unlearned: SplitOutputs
    """All runs."""
    reference: SplitOutputs
    member_KU: npt.NDArray[np.int64]
    """1 for the unlearned runs of each subset, [subsets, all runs]."""
    member_KR: npt.NDArray[np.int64]


def together(pairs: Sequence[Pair], split: str) -> Together | None:
    """Return a split of pairs that are subsets of the same two populations, with finite values; else None."""
    if len(pairs) < LEAST:
        return None
    wholes, members = [], []
    for sides in ([pair.unlearned for pair in pairs], [pair.reference for pair in pairs]):
        splits = [side.splits.get(split) for side in sides]
        taken = [one.taken_of for one in splits if one is not None and one.taken_of is not None]
        if len(taken) < len(pairs) or any(whole is not taken[0][0] for whole, _ in taken):
            return None
        phi_RN = taken[0][0].phi_RN
        if phi_RN.dtype != np.float64 or not np.isfinite(phi_RN).all():
            return None
        wholes.append(taken[0][0])
        members.append(_members([rows for _, rows in taken], len(phi_RN)))
    return Together(wholes[0], wholes[1], members[0], members[1])


def _members(rows: Sequence[npt.ArrayLike], runs: int) -> npt.NDArray[np.int64]:
    found = np.zeros((len(rows), runs), np.int64)
    for member_N, some in zip(found, rows, strict=True):
        member_N[np.asarray(some)] = 1
    return found

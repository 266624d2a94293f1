"""Several subsets of the same runs, of which much is computed at once.

    found = together(pairs, "forget")            # Together(...), or None where the pairs are no such subsets

Does not cover: what is computed of them (`measures`, `compiled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.outputs import SplitOutputs

LEAST = 4
"""Subsets from which sorting all runs pays."""


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

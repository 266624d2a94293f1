"""Compiled: the area under a ROC curve and rates on it, from scores that are sorted once, without the curve's points.

    found = area_and_rates(positives_P, negatives_M, accused)    # (area, rates), or None where some scores are equal

The last bit of a score says which side it is of, so that both sides are sorted as one. Neighbours that differ in that
bit alone are not distinguished: there is no result then. `evaluation.roc` defines the numbers.

Needs Numba, which the extra `fast` installs. Does not cover: the points (`compiled.rates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import Floats, Indexes
from ray_unlearn.evaluation.compiled.search import compiled
from ray_unlearn.evaluation.compiled.sums import BLOCK, DEPTH, block_sum, first_half

_SPARE = 256
"""Negatives that are put in order besides those that are needed."""
_SAMPLE = 8192
"""Negatives that show where the highest begin."""


def area_and_rates(
    positives_P: Floats, negatives_M: Floats, accused: Sequence[int]
) -> tuple[float, list[float]] | None:
    """Return the area, and true positive rates where so many negatives may be accused, fewer than there are, rising.

    None where scores are equal, or nearly so, or not finite.
    """
    key_V = np.empty(len(positives_P) + len(negatives_M), np.int64)
    if not _mark(positives_P, negatives_M, key_V):
        return None
    key_V.view(np.float64).sort()
    if not _all_differ(key_V):
        return None
    above_F = np.zeros(len(accused), np.int64)
    twice = _area(key_V, *_steps(len(positives_P), len(negatives_M)), np.array(accused, np.int64), above_F)
    return twice / 2, (above_F / len(positives_P)).tolist()


@lru_cache(maxsize=4)
def _steps(positives: int, negatives: int) -> tuple[Floats, Floats]:
    """Return by how much each negative raises the false positive rate, and twice the rates of 0, 1, ... positives."""
    share_P = np.arange(positives + 1) / positives
    return np.append(np.diff(np.arange(negatives + 1) / negatives), 0.0), share_P + share_P


def rates_on_halves(
    positives_PE: Floats, negatives_ME: Floats, half_E: npt.NDArray[np.bool_], accused: Sequence[int]
) -> tuple[float, float] | None:
    """Return the true positive rates on a half of the images and on the others, or None where many would be accused.

    Args:
        positives_PE: scores.
        negatives_ME: scores.
        half_E: which images are of the half.
        accused: how many negatives of the half and of the others may be called positive.

    """
    most, size = 2 * sum(accused) + _SPARE, negatives_ME.size
    if 4 * most > size:
        return None
    some = np.sort(negatives_ME.ravel()[:: max(1, size // _SAMPLE)])
    cut = some[len(some) - 1 - most * len(some) // size]
    high, high_H = np.empty((2, 2 * most)), np.zeros(2, np.int64)
    side_E = np.where(half_E, 0, 1)
    _above_cut(negatives_ME, side_E, cut, high, high_H)
    if any(not allowed < found <= 2 * most for allowed, found in zip(accused, high_H.tolist(), strict=True)):
        return None
    least = [
        np.partition(values[:found], found - 1 - allowed)[found - 1 - allowed]
        for values, found, allowed in zip(high, high_H.tolist(), accused, strict=True)
    ]
    above_E = _count_above(positives_PE, np.array(least)[side_E])
    sizes = [len(positives_PE) * int((side_E == side).sum()) for side in range(2)]
    one, other = (int(above_E[side_E == side].sum()) / sizes[side] for side in range(2))
    return one, other


@compiled
def _above_cut(negatives_ME: Floats, side_E: Indexes, cut: float, high: Floats, high_H: Indexes) -> None:
    """Collect the negatives at or above a cut by side, and count them, also those for which there is no room."""
    room = high.shape[1]
    for run in range(len(negatives_ME)):
        for e in range(len(side_E)):
            if not negatives_ME[run, e] < cut:
                side = side_E[e]
                high[side, min(high_H[side], room - 1)] = negatives_ME[run, e]
                high_H[side] += 1


@compiled
def _count_above(positives_PE: Floats, least_E: Floats) -> Indexes:
    """Return how many positives of each image are above a value."""
    found_E = np.zeros(len(least_E), np.int64)
    for run in range(len(positives_PE)):
        for e in range(len(least_E)):
            found_E[e] += positives_PE[run, e] > least_E[e]
    return found_E


@compiled
def _mark(positives_P: Floats, negatives_M: Floats, found_V: Indexes) -> bool:
    """Fill the bits of all scores, the last bit 1 for the positives; return whether all are finite."""
    finite, positives_I, negatives_I = True, positives_P.view(np.int64), negatives_M.view(np.int64)
    for p in range(len(positives_P)):
        finite &= np.abs(positives_P[p]) < np.inf
        found_V[p] = 1 if positives_P[p] == 0 else positives_I[p] | 1
    for m in range(len(negatives_M)):
        finite &= np.abs(negatives_M[m]) < np.inf
        found_V[len(positives_P) + m] = 0 if negatives_M[m] == 0 else negatives_I[m] & ~1
    return finite


@compiled
def _all_differ(key_V: Indexes) -> bool:
    """Return whether no two neighbours are the same but for the last bit."""
    differ = True
    for v in range(1, len(key_V)):
        differ &= key_V[v] | 1 != key_V[v - 1] | 1
    return differ


@compiled
def _area(key_V: Indexes, false_step_M: Floats, true_twice_P: Floats, accused_F: Indexes, above_F: Indexes) -> float:
    """Return twice the area, and fill how many positives are above the negative after so many accused ones.

    Args:
        key_V: bits of the scores, rising, no two alike but for the last bit.
        false_step_M: by how much the m-th negative raises the false positive rate.
        true_twice_P: twice the true positive rate of 0, 1, ... positives.
        accused_F: numbers of negatives, rising; fewer than there are.
        above_F: positives above the negative that follows.

    """
    term_B, size_S, sum_S = np.empty(BLOCK), np.empty(DEPTH, np.int64), np.empty(DEPTH)
    size_S[0] = len(key_V)
    todo, sums, v, positives, negatives, rate = 1, 0, len(key_V), 0, 0, 0
    while todo > 0:
        todo -= 1
        size = size_S[todo]
        if size == 0:
            sums -= 1
            sum_S[sums - 1] += sum_S[sums]
        elif size <= BLOCK:
            for place in range(size):
                v -= 1
                positive = key_V[v] & 1
                term_B[place] = (1 - positive) * (false_step_M[negatives] * true_twice_P[positives])
                positives, negatives = positives + positive, negatives + 1 - positive
            sum_S[sums] = block_sum(term_B, 0, size)
            sums += 1
            while rate < len(accused_F) and negatives > accused_F[rate]:
                above_F[rate] = _above(key_V, v, positives, negatives - accused_F[rate])
                rate += 1
        else:
            half = first_half(size)
            size_S[todo], size_S[todo + 1], size_S[todo + 2] = 0, size - half, half
            todo += 3
    return float(sum_S[0])


@compiled
def _above(key_V: Indexes, v: int, positives: int, back: int) -> int:
    """Return how many positives are above a negative: the `back`-th from place v on, which so many are above or at."""
    while True:
        if key_V[v] & 1:
            positives -= 1
        else:
            back -= 1
            if back == 0:
                return positives
        v += 1

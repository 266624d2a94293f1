"""Compiled: counts of values below others, and in the bins of histograms, without the arrays that NumPy needs.

    below_UX = below(values_UX, sorted_UZ)                                            # RMIA
    unlearned_EB, retrained_EB = binned(unlearned_UE, retrained_RE, clip, bins)        # KLOM

Needs Numba, which the extra `fast` installs. Does not cover: what is made of the counts (`measures.rmia`,
`measures.klom`, whose NumPy forms define them).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import Floats, Indexes
from ray_unlearn.evaluation.compiled.search import compiled


@compiled
def below(values_UX: Floats, sorted_UZ: Floats) -> npt.NDArray[np.intp]:
    """Return how many of each row's sorted others are strictly below each of its values.

    All values of a row halve their ranges of others together, without a branch that depends on the values: half of
    these would be predicted wrongly.
    """
    found_UX, size, half = np.zeros(values_UX.shape, np.intp), sorted_UZ.shape[1], 1
    while 2 * half - 1 < size:
        half *= 2
    other_Z = np.full(2 * half - 1, np.inf)
    for row in range(len(values_UX)):
        other_Z[:size] = sorted_UZ[row]
        value_X, found_X, step = values_UX[row], found_UX[row], half
        while step:
            for x in range(len(value_X)):
                found_X[x] += step * int(other_Z[found_X[x] + step - 1] < value_X[x])
            step >>= 1
    return found_UX


@compiled
def binned(unlearned_UE: Floats, retrained_RE: Floats, clip: float, bins: int) -> tuple[Indexes, Indexes]:
    """Return how many models of each side have a value in each bin, [E, bins], of equal bins over all values.

    Values beyond +-clip count as +-clip; bins are left-closed, the last one closed.
    """
    images = unlearned_UE.shape[1]
    low_E, high_E, width_E = np.empty(images), np.empty(images), np.empty(images)
    low_E[:], high_E[:] = clip, -clip
    for values_RE in (unlearned_UE, retrained_RE):
        for run in range(len(values_RE)):
            for image in range(images):
                value = min(max(values_RE[run, image], -clip), clip)
                low_E[image], high_E[image] = min(low_E[image], value), max(high_E[image], value)
    for image in range(images):
        width_E[image] = high_E[image] - low_E[image] if high_E[image] > low_E[image] else 1.0
    unlearned_EB = _in_bins(unlearned_UE, clip, low_E, width_E, bins)
    return unlearned_EB, _in_bins(retrained_RE, clip, low_E, width_E, bins)


@compiled
def _in_bins(values_RE: Floats, clip: float, low_E: Floats, width_E: Floats, bins: int) -> Indexes:
    counts_EB = np.zeros((values_RE.shape[1], bins), np.int64)
    place_E = np.empty(values_RE.shape[1], np.int64)
    for run in range(len(values_RE)):
        for image in range(len(place_E)):
            value = min(max(values_RE[run, image], -clip), clip)
            place_E[image] = int(min((value - low_E[image]) * bins / width_E[image], bins - 1.0))
        for image in range(len(place_E)):
            counts_EB[image, place_E[image]] += 1
    return counts_EB


@compiled
def best_pair(below_r: npt.NDArray[np.intp], below_u: npt.NDArray[np.intp], tables_2VW: Floats) -> tuple[int, int, int]:
    """Return the table, left and right end of the first largest entry, by what each side has between two ends.

    First in the order of tables, then of left ends, then of right ends, which are beyond the left. The first table
    rises with what the first side has and falls with the second's, the second table the other way. So ends that would
    be better one value further in or out are left out: with two sides of single values, three of four.
    """
    best, found, last = -np.inf, (0, 0, 1), len(below_r) - 1
    rights_R = np.empty(last, np.intp)
    for table in range(len(tables_2VW)):
        wanted, other = (below_r, below_u) if table == 0 else (below_u, below_r)
        rights = 0
        for right in range(1, last + 1):
            if wanted[right] > wanted[right - 1] and (right == last or other[right + 1] > other[right]):
                rights_R[rights] = right
                rights += 1
        first = 0
        for left in range(last):
            while first < rights and rights_R[first] <= left:
                first += 1
            if wanted[left + 1] > wanted[left] and (left == 0 or other[left] > other[left - 1]):
                ends_R = rights_R[first:rights]
            else:  # nothing is further in than one value
                ends_R = np.array([left + 1])
            for right in ends_R:
                value = tables_2VW[table, below_r[right] - below_r[left], below_u[right] - below_u[left]]
                if value > best:
                    best, found = value, (table, left, right)
    return found

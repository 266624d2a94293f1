"""Compiled: RMIA's areas and rates of each target, from likelihood ratios that are sorted once, without scores.

    found = separations(forget, test, rows_U, population, fprs)  # areas and rates by target; which targets are left

The last two bits of a ratio say whose it is: a non-member's, a member's, or the population's. Neighbours of which one
is the population's and that differ in these bits alone are not distinguished: such targets are left to NumPy.

Needs Numba, which the extra `fast` installs. Does not cover: the definition (`measures.rmia`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import Floats, Indexes
from ray_unlearn.evaluation.compiled.search import compiled
from ray_unlearn.evaluation.compiled.sums import DEPTH, pairwise

_OTHER, _MEMBER, _POPULATION = 0, 1, 2
_ROWS = 32
"""Targets that are sorted at a time."""


class Separations(NamedTuple):
    """What each target gives."""

    twice_U: Floats
    """Twice the area."""
    tpr_FU: Floats
    """True positive rate by false positive rate."""
    left_U: npt.NDArray[np.bool_]
    """Targets that this module leaves to NumPy."""


@compiled
def sums_of(probability_NE: Floats, rows_R: Indexes) -> Floats:
    """Return the sum over some models, in order, [E]."""
    sum_E = np.zeros(probability_NE.shape[1])
    for run in range(len(rows_R)):
        probability_E = probability_NE[rows_R[run]]
        for e in range(len(sum_E)):
            sum_E[e] += probability_E[e]
    return sum_E


def separations(
    forget: tuple[Floats, Floats],
    test: tuple[Floats, Floats],
    rows_U: Indexes,
    population: npt.NDArray[np.bool_],
    fprs: tuple[float, ...],
) -> Separations:
    """Return areas and rates.

    Args:
        forget: probabilities of all models on the forget images, and pbar of each.
        test: likewise on test images.
        rows_U: which models are the targets.
        population: which test images are the population.
        fprs: false positive rates.

    """
    members, others, size = forget[0].shape[1], int((~population).sum()), int(population.sum())
    found = Separations(np.empty(len(rows_U)), np.zeros((len(fprs), len(rows_U))), np.zeros(len(rows_U), np.bool_))
    shares = np.arange(members + 1) / members, np.arange(others + 1) / others
    mark_T = np.where(population, _POPULATION, _OTHER)
    for start in range(0, len(rows_U), _ROWS):
        some = slice(start, start + _ROWS)
        key_UV = np.empty((len(rows_U[some]), members + len(population)), np.int64)
        _mark(forget, test, rows_U[some], mark_T, key_UV)
        key_UV.view(np.float64).sort(axis=1)
        part = Separations(found.twice_U[some], found.tpr_FU[:, some], found.left_U[some])
        _separate(key_UV, size, shares, np.array(fprs), part)
    return found


@compiled
def _mark(
    forget: tuple[Floats, Floats], test: tuple[Floats, Floats], rows_U: Indexes, mark_T: Indexes, key_UV: Indexes
) -> None:
    """Fill the bits of each target's ratios, the last two saying whose it is."""
    forget_NE, forget_pbar_E = forget
    test_NT, test_pbar_T = test
    images, ratio_V = len(forget_pbar_E), np.empty(key_UV.shape[1])
    bits_V = ratio_V.view(np.int64)
    for row in range(len(rows_U)):
        forget_E, test_T = forget_NE[rows_U[row]], test_NT[rows_U[row]]
        for e in range(images):
            ratio_V[e] = forget_E[e] / forget_pbar_E[e]
        for t in range(len(mark_T)):
            ratio_V[images + t] = test_T[t] / test_pbar_T[t]
        for e in range(images):
            key_UV[row, e] = (bits_V[e] & ~3) | _MEMBER
        for t in range(len(mark_T)):
            key_UV[row, images + t] = (bits_V[images + t] & ~3) | mark_T[t]


@compiled
def _separate(key_UV: Indexes, size: int, shares: tuple[Floats, Floats], fpr_F: Floats, found: Separations) -> None:
    """Fill the areas and rates of targets whose keys are in order; the population has so many images."""
    members_S, others_S = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    twice_S, stack_2S = np.empty(size + 1), np.empty((2, DEPTH))
    for row in range(len(key_UV)):
        members_S[:], others_S[:] = 0, 0
        below, before, alike = 0, key_UV[row, 0], False
        for v in range(key_UV.shape[1]):
            key = key_UV[row, v]
            alike |= ((key ^ before) < 4) & ((key & 2) != (before & 2))
            members_S[below] += key & 1
            others_S[below] += (key & 3) == 0
            below += (key & 2) >> 1
            before = key
        found.left_U[row] = alike
        points, ours, theirs, true, false = 0, 0, 0, 0.0, 0.0
        for score in range(size, -1, -1):
            if members_S[score] + others_S[score] > 0:
                ours, theirs = ours + members_S[score], theirs + others_S[score]
                twice_S[points] = (shares[1][theirs] - false) * (shares[0][ours] + true)
                true, false, points = shares[0][ours], shares[1][theirs], points + 1
                for rate in range(len(fpr_F)):
                    if false <= fpr_F[rate]:
                        found.tpr_FU[rate, row] = true
        found.twice_U[row] = pairwise(twice_S, points, stack_2S)

"""Compiled: the points of a ROC curve, from two sorted samples or counts, without NumPy's arrays in between.

    true, false = rates(np.sort(positives), np.sort(negatives))

Needs Numba, which the extra `fast` installs; `evaluation.roc` defines the points.

Does not cover: area and rates (`evaluation.roc`).
"""

from __future__ import annotations

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats, Indexes
from ray_unlearn.evaluation.compiled.search import compiled


@compiled
def rates(positives_P: Floats, negatives_M: Floats) -> tuple[Floats, Floats]:
    """Return the true and false positive rates at or above every distinct value, from the highest down, after a 0."""
    ours, theirs = len(positives_P), len(negatives_M)
    rates_2S = np.empty((2, ours + theirs + 1))
    rates_2S[:, 0] = 0.0
    step, p, m, before = 0, ours, theirs, np.nan
    while p > 0 and m > 0:  # without another branch, which would be predicted wrongly
        positive, negative = positives_P[p - 1], negatives_M[m - 1]
        value = max(positive, negative)
        p, m, step = p - int(positive == value), m - int(negative == value), step + int(value != before)
        rates_2S[0, step], rates_2S[1, step], before = (ours - p) / ours, (theirs - m) / theirs, value
    while p > 0 or m > 0:
        value = positives_P[p - 1] if p > 0 else negatives_M[m - 1]
        p, m, step = max(p - 1, 0), m - int(p == 0), step + int(value != before)
        rates_2S[0, step], rates_2S[1, step], before = (ours - p) / ours, (theirs - m) / theirs, value
    return rates_2S[0, : step + 1], rates_2S[1, : step + 1]


@compiled
def rates_of_counts(positives_UX: Indexes, negatives_UY: Indexes, most: int) -> tuple[Floats, Floats, Indexes]:
    """Return each row's rates, [U, most + 2] both, and how many of them there are; scores are numbers from 0 to `most`.

    As `rates`, by counting scores.
    """
    true_US, false_US = np.empty((len(positives_UX), most + 2)), np.empty((len(positives_UX), most + 2))
    points_U = np.empty(len(positives_UX), np.intp)
    for row in range(len(positives_UX)):
        counts_2S = np.zeros((2, most + 1), np.intp)
        for score in positives_UX[row]:
            counts_2S[0, score] += 1
        for score in negatives_UY[row]:
            counts_2S[1, score] += 1
        true_US[row, 0] = false_US[row, 0] = 0.0
        step, ours, theirs = 0, 0, 0
        for score in range(most, -1, -1):
            if counts_2S[0, score] or counts_2S[1, score]:
                step, ours, theirs = step + 1, ours + counts_2S[0, score], theirs + counts_2S[1, score]
                true_US[row, step] = ours / positives_UX.shape[1]
                false_US[row, step] = theirs / negatives_UY.shape[1]
        points_U[row] = step + 1
    return true_US, false_US, points_U

"""Compiled: the points of a ROC curve, from two sorted samples, without the arrays that NumPy needs in between.

    true, false = rates(np.sort(positives), np.sort(negatives))

Needs Numba, which the extra `fast` installs; `evaluation.roc` defines the points.

Does not cover: area and rates (`evaluation.roc`).
"""

from __future__ import annotations

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled


@compiled
def rates(positives_P: Floats, negatives_M: Floats) -> tuple[Floats, Floats]:
    """Return the true and false positive rates at or above every distinct value, from the highest down, after a 0."""
    ours, theirs = len(positives_P), len(negatives_M)
    rates_2S = np.empty((2, ours + theirs + 1))
    rates_2S[:, 0] = 0.0
    step, p, m = 0, ours, theirs
    while p > 0 or m > 0:
        value = -np.inf
        if p > 0:
            value = positives_P[p - 1]
        if m > 0:
            value = max(value, negatives_M[m - 1])
        while p > 0 and positives_P[p - 1] == value:
            p -= 1
        while m > 0 and negatives_M[m - 1] == value:
            m -= 1
        step += 1
        rates_2S[0, step], rates_2S[1, step] = (ours - p) / ours, (theirs - m) / theirs
    return rates_2S[0, : step + 1], rates_2S[1, : step + 1]

"""Compiled: kernel and decision function of scikit-learn's RBF classifier on one feature, to its last bit.

    SVC(kernel="precomputed").fit(kernel(values_K), labels_K)                # SVC(gamma=1).fit(values_K[:, None], ...)
    scores_X = decisions(values_X, support_S, coefficients_S, intercept)     # SVC(gamma=1).decision_function

libsvm adds the terms of the support vectors one after another, with the C library's exponential, which Numba calls too.

Needs Numba, which the extra `fast` installs. Does not cover: the fit, which is libsvm's (`measures.svc_efficacy`).
"""

from __future__ import annotations

import math

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled

_TILE = 32
"""Side of the squares that are mirrored at a time, within the cache."""


@compiled
def kernel(values_K: Floats) -> Floats:
    """Return exp(-(a - b)^2) of each pair of values, [K, K], with the square multiplied out as libsvm has it."""
    size, square_K = len(values_K), values_K * values_K
    found_KK = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            found_KK[i, j] = math.exp(-(square_K[i] + square_K[j] - 2 * (values_K[i] * values_K[j])))
    for top in range(0, size, _TILE):
        for left in range(top, size, _TILE):
            for i in range(top, min(top + _TILE, size)):
                for j in range(max(left, i + 1), min(left + _TILE, size)):
                    found_KK[i, j] = found_KK[j, i]
    return found_KK


@compiled
def decisions(values_X: Floats, support_S: Floats, coefficients_S: Floats, intercept: float) -> Floats:
    """Return the sum of coefficient * exp(-(value - support)^2), and the intercept, of each value, [X]."""
    found_X = np.empty(len(values_X))
    for x in range(len(values_X)):
        total = 0.0
        for s in range(len(support_S)):
            apart = values_X[x] - support_S[s]
            total += coefficients_S[s] * math.exp(-(apart * apart))
        found_X[x] = total + intercept
    return found_X

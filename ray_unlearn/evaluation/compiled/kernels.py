"""Compiled: the decision function of scikit-learn's RBF classifier on one feature, to its last bit.

    scores_X = decisions(values_X, support_S, coefficients_S, intercept)     # SVC(gamma=1).decision_function

libsvm adds the terms of the support vectors one after another, with the C library's exponential, which Numba calls too.

Needs Numba, which the extra `fast` installs. Does not cover: fitting (`measures.svc_efficacy`).
"""

from __future__ import annotations

import math

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled


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

"""Compiled: scikit-learn's `LogisticRegression()` of two kinds on one feature, to its last bit.

    weight, intercept = fit(losses_K, member_K)  # of member_K == 1: losses_K * weight + intercept > 0

scikit-learn gives the mean loss of all images and its gradient to SciPy's L-BFGS-B. So does this, with the same numbers
in the same order, but without scikit-learn's checks at each fit, which take longer than the sums.

Needs Numba, which the extra `fast` installs. Does not cover: which images are fitted to (`measures.logistic_attack`).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled

_OPTIONS = {"maxiter": 100, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(np.float64).eps}
"""scikit-learn's for its defaults."""


def fit(values_K: Floats, member_K: Floats) -> tuple[float, float]:
    """Return weight and intercept of the classifier.

    Args:
        values_K: the feature, [K].
        member_K: 1 of one kind, 0 of the other, float64 [K].

    """
    size = len(values_K)
    penalty, loss_K, slope_K = 1 / size, np.empty(size), np.empty(size)

    def objective(weights_2: Floats) -> tuple[float, Floats]:
        weight, intercept = weights_2
        losses(values_K, member_K, weight, intercept, loss_K, slope_K)
        slope_K[:] /= size
        slopes = (values_K[:, None].T @ slope_K)[0] + penalty * weight, slope_K.sum()
        return float(loss_K.sum() / size) + float(0.5 * penalty * (weight * weight)), np.array(slopes)

    weight, intercept = minimize(objective, np.zeros(2), method="L-BFGS-B", jac=True, options=_OPTIONS).x
    return float(weight), float(intercept)


@compiled
def losses(
    values_K: Floats, member_K: Floats, weight: float, intercept: float, loss_K: Floats, slope_K: Floats
) -> None:
    """Fill in each image's loss, log(1 + exp(raw)) - member * raw, and its derivative by raw.

    By cases, as scikit-learn's `HalfBinomialLoss`, with the C library's functions, which Numba calls too.
    """
    for k in range(len(values_K)):
        raw, member = values_K[k] * weight + intercept, member_K[k]
        if raw <= -2:
            power = math.exp(raw)
            loss_K[k] = (power if raw <= -37 else math.log1p(power)) - member * raw
            slope_K[k] = power - member if raw <= -37 else ((1 - member) * power - member) / (1 + power)
        else:
            power = math.exp(-raw)
            loss_K[k] = (math.log1p(power) if raw <= 18 else power) + (1 - member) * raw
            slope_K[k] = ((1 - member) - member * power) / (1 + power)

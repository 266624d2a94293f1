"""A fitted RBF classifier on one feature, and what needs its scores' signs and order alone.

    classifier = RbfClassifier(sklearn.svm.SVC(gamma=1).fit(...), values_K)
    classifier.scores(values_X)                  # its decision function, to the last bit
    classifier.below_zero(values_X)              # scores < 0, bool [X]
    ordered([classifier, ...], values_RX)        # [R, X]: less, equal and greater where the scores are

A score is a sum over hundreds of support vectors. On values from 0 to 1 it is a smooth function of the value, which a
polynomial through `_DEGREE` + 1 scores meets up to rounding: its coefficients fall at least as fast as 10^-degree times
a constant (Trefethen, Approximation Theory and Approximation Practice, 2013, theorem 8.2). So signs and order are those
of the polynomial, but for values that are as near to 0, or to one another, as rounding may be; these are summed.

Does not cover: fitting (`measures.svc_efficacy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.populations import FloatArray

_DEGREE = 32
_FROM = 4 * _DEGREE
"""Values from which a polynomial takes less time than their sums."""
_ROUNDING = 1e-12
"""Most by which polynomial and sum differ, as a share of all coefficients' absolute sum: a thousand roundings of a sum
come to 1.1e-13 at most, and those of the polynomial's 33 sums to less than four times that."""


class RbfClassifier:
    """What scikit-learn's `SVC(gamma=1)` was fitted to, or `SVC(kernel="precomputed")` with the compiled kernel."""

    def __init__(self, fitted: Any, values_K: FloatArray) -> None:
        self._fitted, self._compiled = fitted, fitted.kernel == "precomputed"
        self._support_S, self._coefficients_S = values_K[fitted.support_], fitted.dual_coef_[0]
        self._intercept = float(fitted.intercept_[0])
        self.rounding = _ROUNDING * (float(np.abs(self._coefficients_S).sum()) + abs(self._intercept))
        """Most by which `nearly` is off."""

    def scores(self, values_X: FloatArray) -> FloatArray:
        """Return the decision function, below 0 where a value is taken for one of class 0."""
        if self._compiled or pays(len(values_X) * len(self._support_S)):
            from ray_unlearn.evaluation.compiled.kernels import decisions

            return decisions(values_X, self._support_S, self._coefficients_S, self._intercept)
        return np.asarray(self._fitted.decision_function(values_X[:, None]))

    def nearly(self, values_X: FloatArray) -> FloatArray:
        """Return the same up to `rounding`, and the same of equal values; exactly for few values, or beyond 0 to 1."""
        if len(values_X) < _FROM or values_X.min() < 0 or values_X.max() > 1:
            return self.scores(values_X)
        nodes = chebyshev.chebpts1(_DEGREE + 1)
        coefficients = self.scores((nodes + 1) / 2) @ chebyshev.chebvander(nodes, _DEGREE) * (2 / len(nodes))
        coefficients[0] /= 2
        return np.asarray(chebyshev.chebval(2 * values_X - 1, coefficients))

    def below_zero(self, values_X: FloatArray) -> npt.NDArray[np.bool_]:
        """Return whether each value's score is below 0."""
        near_X = self.nearly(values_X)
        self.settle(near_X, values_X, np.abs(near_X) <= self.rounding)
        return near_X < 0

    def settle(self, near_X: FloatArray, values_X: FloatArray, open_X: npt.NDArray[np.bool_]) -> None:
        """Replace some of the scores by the exact ones."""
        if open_X.any():
            different, places = np.unique(values_X[open_X], return_inverse=True)
            near_X[open_X] = self.scores(different)[places]


def ordered(classifiers: Sequence[RbfClassifier], values_RX: FloatArray) -> FloatArray:
    """Return numbers that are less, equal and greater where the classifiers' scores are, each of its row, [R, X]."""
    near_RX = np.stack([one.nearly(values_X) for one, values_X in zip(classifiers, values_RX, strict=True)])
    order = np.argsort(near_RX, axis=None)
    close = np.diff(near_RX.ravel()[order]) <= 2 * max(one.rounding for one in classifiers)
    open_RX = np.zeros(near_RX.shape, np.bool_)
    open_RX.ravel()[order[:-1][close]] = open_RX.ravel()[order[1:][close]] = True
    for one, near_X, values_X, open_X in zip(classifiers, near_RX, values_RX, open_RX, strict=True):
        one.settle(near_X, values_X, open_X)
    return near_RX

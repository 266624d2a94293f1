"""How well a score separates two samples: every threshold at once.

    curve = roc(positives, negatives)      # a threshold t predicts "positive" where score >= t
    curve.auc                              # Mann-Whitney: P(positive > negative) + P(equal) / 2
    curve.tpr_at(0.001)                    # the largest true positive rate whose false positive rate is <= 0.1 %
    false_N, true_N = curve.thinned(200)   # for a plot

Does not cover: intervals, and which sample is the positive one; each attack documents that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.populations import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Roc:
    """A ROC curve: one point for each distinct threshold, from (0, 0) to (1, 1), both rates rising."""

    false_positive_rate: FloatArray
    """[points], float64: share of negatives at or above the threshold."""
    true_positive_rate: FloatArray
    """[points], float64: share of positives at or above the threshold. Scores that tie are one step, a slanted one."""

    @property
    def auc(self) -> float:
        """Area under the curve by trapezia, which is the Mann-Whitney statistic with ties counted 1/2."""
        false, true = self.false_positive_rate, self.true_positive_rate
        twice = false[1:] - false[:-1]
        twice *= true[1:] + true[:-1]
        return float(twice.sum()) / 2

    def tpr_at(self, fpr: float) -> float:
        """Return the largest true positive rate whose false positive rate is <= `fpr` (a share, not per cent).

        Nothing is interpolated: with M negatives the rates reached are multiples of 1/M, so that 0.001 with 64
        negatives means no false positive at all.

        Raises:
            EvaluationError: `fpr` outside [0, 1].

        """
        _check_rate(fpr)
        last = np.searchsorted(self.false_positive_rate, fpr, side="right") - 1
        return float(self.true_positive_rate[last])

    def thinned(self, points: int) -> tuple[FloatArray, FloatArray]:
        """Return at most `points` of the curve's own points with both ends: false and true positive rates, [points].

        Half are even along the curve and half even in the logarithm of the false positive rate, so that both linear
        and logarithmic plots stay faithful. They are for plots: area and rates belong to the whole curve.

        Raises:
            EvaluationError: fewer than 4 points.

        """
        if points < 4:
            raise EvaluationError(f"thinned: expected 4 points or more, found {points}")
        false, true = self.false_positive_rate, self.true_positive_rate
        if len(false) <= points:
            return false, true
        along = np.searchsorted(false + true, np.linspace(0, 2, points - points // 2))
        smallest = false[np.searchsorted(false, 0, side="right")]
        low = np.searchsorted(false, np.geomspace(smallest, 1, points // 2), side="right") - 1
        chosen = np.unique(np.concatenate([along, low]))
        return false[chosen], true[chosen]


def roc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> Roc:
    """Return the curve of "score >= threshold means positive" over every distinct score.

    Args:
        positives: scores of any shape; infinities are allowed.
        negatives: likewise, not necessarily as many.

    Raises:
        EvaluationError: a sample is empty or holds NaN.

    """
    ours, theirs = _scores(positives, "positives"), _scores(negatives, "negatives")
    ours, theirs = np.sort(ours), np.sort(theirs)
    if pays(len(ours) + len(theirs)):
        from ray_unlearn.evaluation.compiled.rates import rates

        true, false = rates(ours, theirs)
        return Roc(true_positive_rate=true, false_positive_rate=false)
    both = np.concatenate([ours, theirs])
    order = np.argsort(both, kind="stable")  # merges two sorted samples, in a quarter of the time of sorting them again
    values, positive = both[order], order < len(ours)
    first = np.flatnonzero(np.append(True, values[1:] > values[:-1]))
    below: npt.NDArray[np.intp] = np.cumsum(positive)[first] - positive[first]
    return Roc(
        true_positive_rate=_rate_from_above(below, len(ours)),
        false_positive_rate=_rate_from_above(first - below, len(theirs)),
    )


def rocs_of_counts(positives_UX: npt.NDArray[np.intp], negatives_UY: npt.NDArray[np.intp], most: int) -> list[Roc]:
    """Return `roc` of each row of scores that are whole numbers from 0 to `most`, without sorting them."""
    if pays(positives_UX.size + negatives_UY.size):
        from ray_unlearn.evaluation.compiled.rates import rates_of_counts

        true_US, false_US, points_U = rates_of_counts(positives_UX, negatives_UY, most)
        rows = zip(true_US, false_US, points_U.tolist(), strict=True)
        return [
            Roc(true_positive_rate=true[:points], false_positive_rate=false[:points]) for true, false, points in rows
        ]
    rows_U1 = np.arange(len(positives_UX))[:, None] * (most + 1)
    counts_2US = [
        np.bincount((rows_U1 + scores).ravel(), minlength=rows_U1.size * (most + 1)).reshape(-1, most + 1)
        for scores in (positives_UX, negatives_UY)
    ]
    there_US = (counts_2US[0] + counts_2US[1]) > 0
    ours_US, theirs_US = (np.cumsum(counts_US, axis=1) - counts_US for counts_US in counts_2US)
    return [
        Roc(
            true_positive_rate=_rate_from_above(ours_S[there_S], positives_UX.shape[1]),
            false_positive_rate=_rate_from_above(theirs_S[there_S], negatives_UY.shape[1]),
        )
        for ours_S, theirs_S, there_S in zip(ours_US, theirs_US, there_US, strict=True)
    ]


class Separation(NamedTuple):
    """What is read off a curve."""

    auc: float
    """As `Roc.auc`."""
    tpr: Mapping[float, float]
    """False positive rate -> what `Roc.tpr_at` returns."""


def separation(positives: FloatArray, negatives: FloatArray, fprs: tuple[float, ...]) -> Separation:
    """Return what `roc` gives at these rates, from large samples without the points of a curve.

    Args:
        positives: as in `roc`.
        negatives: as in `roc`.
        fprs: false positive rates, rising.

    """
    if pays(positives.size + negatives.size):
        from ray_unlearn.evaluation.compiled.areas import area_and_rates

        accused = [_accused(fpr, negatives.size) for fpr in fprs]
        if accused[-1] < negatives.size and (found := area_and_rates(positives.ravel(), negatives.ravel(), accused)):
            return Separation(found[0], dict(zip(fprs, found[1], strict=True)))
    curve = roc(positives, negatives)
    return Separation(curve.auc, {fpr: curve.tpr_at(fpr) for fpr in fprs})


def share_below(values: FloatArray, others: FloatArray) -> FloatArray:
    """Return for each value the share of the others that is below it, equal ones counted 1/2.

    Values are looked up in their order, which takes a fifth of the time with half a million.
    """
    sorted_M, order_N = np.sort(others, axis=None), np.argsort(values, axis=None)
    below_N, not_above_N = (
        np.searchsorted(sorted_M, np.take(values, order_N), side=side) for side in ("left", "right")
    )
    share_N = np.empty(values.size)
    share_N[order_N] = (below_N + not_above_N) / (2 * len(sorted_M))
    return share_N.reshape(values.shape)


def tpr_on_halves(
    positives_PE: FloatArray, negatives_ME: FloatArray, half_E: npt.NDArray[np.bool_], fpr: float
) -> tuple[float, float]:
    """Return `tpr_at` on the images of a half, and on the others.

    Of large samples only the highest negatives are put in order: those above a quantile of a few.
    """
    if pays(positives_PE.size + negatives_ME.size):
        from ray_unlearn.evaluation.compiled.areas import rates_on_halves

        images = len(half_E)
        accused = [_accused(fpr, len(negatives_ME) * size) for size in (int(half_E.sum()), int((~half_E).sum()))]
        if images > 1 and (found := rates_on_halves(positives_PE, negatives_ME, half_E, accused)):
            return found
    one, other = (tpr_at(positives_PE[:, mask_E], negatives_ME[:, mask_E], fpr) for mask_E in (half_E, ~half_E))
    return one, other


def tpr_at(positives: npt.ArrayLike, negatives: npt.ArrayLike, fpr: float) -> float:
    """Return `roc(positives, negatives).tpr_at(fpr)` without the other points of the curve.

    Raises:
        EvaluationError: a sample is empty or holds NaN, or `fpr` is outside [0, 1].

    """
    _check_rate(fpr)
    ours, theirs = _scores(positives, "positives"), _scores(negatives, "negatives")
    accused = _accused(fpr, len(theirs))
    if accused == len(theirs):
        return 1.0
    place = len(theirs) - accused - 1
    return int(np.count_nonzero(ours > np.partition(theirs, place)[place])) / len(ours)


def _accused(fpr: float, negatives: int) -> int:
    """Return how many negatives may be called positive."""
    accused = int(fpr * negatives)
    accused += (accused + 1) / negatives <= fpr  # the product is rounded
    return accused - (accused / negatives > fpr)


def _check_rate(fpr: float) -> None:
    if not 0 <= fpr <= 1:
        raise EvaluationError(f"tpr_at: expected a false positive rate in [0, 1], found {fpr}")


def _scores(values: npt.ArrayLike, name: str) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64).ravel()
    if not len(scores):
        raise EvaluationError(f"roc: expected one score or more among the {name}, found none")
    if missing := int(np.isnan(scores).sum()):
        raise EvaluationError(f"roc: expected numbers, found {missing} NaN among the {len(scores)} {name}")
    return scores


def _rate_from_above(below: npt.NDArray[np.intp], size: int) -> FloatArray:
    """Return 0 and then the share of a sample at or above each distinct score, from the highest down."""
    rates = np.empty(len(below) + 1)
    rates[0] = 0
    np.subtract(size, below[::-1], out=rates[1:])
    rates[1:] /= size
    return rates

"""Measures of distance after the images of one side are moved: what the ends of their intervals are made of.

    moved = moved_measures(pair, values, shift)["u_lira_auc"]    # Moved(value=0.58, shift=CommonShift(...), ...)
    lowest, highest = moved.shift.allowed()

A measure of how far two populations are apart, whatever the direction, is smallest where they are equal, and hardly
changes with their distance there. A jackknife sees how it changes at the distance that happens to be found. Where there
is no distance, it says one and a half times what such a measure varies by; where what images share cancels a distance,
much too little. So U-LiRA's area and the mean shift have ends as F has: from the shift that all images have in common
(`common_shift`). What images have alone varies by no more than their variance over their number says (`own`).

A score is F times two ratios of accuracies, which follow the shift, too: a model that is good at forget images is good
at others. Its ratios along the shift are those found times exp(slope x standard errors), with the slope from the
covariance of a run's accuracies and its mean phi. Where F falls, ratios may rise, so that a score has no smallest or
largest value where populations are equal, and its shift has a sign.

Does not cover: the margin beside the shift (`intervals`), several forget sets, and scores over originals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.common_shift import ALONG, CommonShift, Moves, moves
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.measure import Distance, Pair
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.populations import FloatArray

_LEAST_IMAGES = 8
"""Images from which their variance is known well enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """A measure of all runs, and what it is after moves."""

    value: float
    shift: CommonShift
    slope: float
    """Change by a standard error of the distance: the part of its error that a jackknife sees."""
    own: float
    """Variance of what images have alone, at most; 0 for a score, whose points tell."""
    images: int


def moved_measures(
    pair: Pair,
    values: Mapping[str, float],
    shift: CommonShift | None,
    originals_U: npt.NDArray[np.int64] | None = None,
) -> dict[str, Moved]:
    """Return the measures of distance, and the score where it is not 0, after moves of all forget images.

    Args:
        pair: all runs.
        values: measures of these; those that are not there are left out.
        shift: F along the shift; without it there is no score.
        originals_U: the original of each unlearned model, where distances are over originals; there is no score then.

    Returns:
        None of them with fewer than 8 images, or without a shift.

    """
    found = moves(*pair.phi("forget"), originals_U)
    if found is None or found.by_ME.shape[1] < _LEAST_IMAGES:
        return {}
    moved = {
        name: _along(one.distance, pair, values[name], found)
        for name, one in MEASURES.items()
        if one.distance and name in values
    }
    if shift is not None and originals_U is None and values.get("score"):
        along = _score_along(pair, values["score"] / values["forgetting_quality"], shift, found)
        moved["score"] = _moved(values["score"], along, along.slope, 0.0, found)
    return moved


def _along(measure: Distance, pair: Pair, value: float, found: Moves) -> Moved:
    values_M = measure.moved(pair, found.by_ME)
    none = len(values_M) // 2
    slope = float(values_M[none + 1] - values_M[none - 1]) / 2
    return _moved(value, found.shift(values_M), slope, measure.own(pair), found)


def _moved(value: float, shift: CommonShift, slope: float, own: float, found: Moves) -> Moved:
    return Moved(value=value, shift=shift, slope=slope, own=own, images=found.by_ME.shape[1])


def _score_along(pair: Pair, ratios: float, shift: CommonShift, found: Moves) -> CommonShift:
    """Return the score along the shift: F there, times the ratios."""
    sides = ((found.ours_U, pair.unlearned), (found.theirs_R, pair.reference))
    slope = sum(_covariance(mean_R, side) for mean_R, side in sides) / found.error
    return replace(shift, along=shift.along * ratios * np.exp(slope * ALONG), has_sign=True)


def _covariance(mean_R: FloatArray, side: Outputs) -> float:
    """Return the covariance of a side's mean phi and of the logarithm of its accuracies' product."""
    accuracies = (side.splits[split].accuracy_R for split in ("retain", "test"))
    relative_R = sum(accuracy_R / accuracy_R.mean() for accuracy_R in accuracies)
    return float(np.cov(mean_R, relative_R)[0, 1]) / len(mean_R)

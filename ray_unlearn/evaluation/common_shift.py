"""F along the shift that all images have in common, and the values of F that this shift allows.

    shift = common_shift(unlearned_UE, retrained_RE, "exact", f) # CommonShift(distance=1.3, along=..., ...)
    lowest, highest = shift.allowed()                            # of the mean of F over studies

A model that is better than another is better at many images, so that the runs' mean phi moves together on all images.
F depends on how far the unlearned models' mean lies from the retrained ones', on either side, and is largest where the
distance is 0. A distance of 1.3 standard errors may be chance, and the truth 0; it may as well be 2.5. So the interval
of F has to come from an interval of the distance, and is not symmetric: there is no F above that at a distance of 0.

F at other distances is found by moving all images of one side, each by as many of its standard deviations, and
computing F again. What studies would get on average at such a distance is its mean over the chance shifts of studies,
which are normal with the same standard error (`along`). In 24 kinds of simulated studies the mean of `along` at the
true distance is the mean of F to within 1 %.

The distance's estimate is the absolute value of a normal one. Its interval is that of Feldman and Cousins ("A unified
approach to the classical statistical analysis of small signals", Physical Review D 57, 3873, 1998): of each true
distance, estimates are accepted in the order of their density over that of the distance that fits them best, until 95 %
are. It has a coverage of 95 % at 0 as elsewhere. The paper's own case is a normal estimate of a mean that is not below
0; ours has lost its sign, too. Read in gammapy's `feldman_cousins.py` at 0407b81, which orders by this ratio after the
paper; of the paper itself, arXiv physics/9711021, the abstract alone could be had.

Does not cover: what an image has alone, what only some images share, and spread (`intervals` adds them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.evaluation.epsilon import MAX_PARITY
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.originals import error_of_mean
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.t_distribution import degrees_of_sum, t_quantile

_MOVES = np.arange(-6.0, 7.0)
"""Shifts that F is computed after, in standard errors of the distance."""
_CHANCE = np.linspace(-2.5, 2.5, 11)
"""Chance shifts of studies, in standard errors, and the normal distribution's weights."""
_WEIGHTS = np.exp(-(_CHANCE**2) / 2) / np.exp(-(_CHANCE**2) / 2).sum()
ALONG = np.linspace(-3.5, 3.5, 29)
"""Shifts at which the mean over studies is known: as far as all chance shifts lie between the moves."""
_STEP = 0.01
"""Step of estimates, in standard errors."""
_NORMAL = 1.959963984540054
"""The normal distribution's quantile of 0.975."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonShift:
    """How far the means of two populations lie apart on all images together, and F after shifts."""

    distance: float
    """Mean over images of the difference in standard deviations, unlearned minus retrained, in standard errors."""
    wider: float
    """Quantile of the t distribution that the distance has, over the normal one's."""
    along: FloatArray
    """[29] mean of F over studies after a shift by -3.5, -3.25, ..., 3.5 standard errors."""
    has_sign: bool = False
    """Whether a distance below 0 is another one than that above: its interval is then the t distribution's."""

    def allowed(self) -> tuple[float, float]:
        """Return the smallest and the largest mean of F over studies at distances within the 95 % interval."""
        found = self.distance / self.wider
        ends = np.array([found - _NORMAL, found + _NORMAL])
        if not self.has_sign:
            ends = np.array(distances(abs(found))) * (1 if found >= 0 else -1)
        first, last = sorted((ends - found) * self.wider)
        steps = np.linspace(first, last, 33)
        values = np.interp(steps, ALONG, self.along)
        return float(values.min()), float(values.max())

    @property
    def may_be_none(self) -> bool:
        """Whether a distance of 0 is within the 95 % interval."""
        return not self.has_sign and distances(abs(self.distance) / self.wider)[0] == 0

    @property
    def slope(self) -> float:
        """Change of F by a standard error of the distance: the part of its error that a jackknife sees."""
        before, after = np.interp([-1.0, 1.0], ALONG, self.along)
        return float(after - before) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Moves:
    """Moves of all images of the unlearned models, and how far these are from the retrained ones."""

    by_ME: FloatArray
    """[13, images] moves by -6 to 6 standard errors of the distance, in phi."""
    ours_U: FloatArray
    """Mean over images of phi in standard deviations, of each unlearned model."""
    theirs_R: FloatArray
    error: float
    """Standard error of the difference of both means."""
    df: float
    """Its degrees of freedom."""

    def shift(self, values_M: Sequence[float] | FloatArray) -> CommonShift:
        """Return the shift from a measure's values after the moves."""
        shifts = ALONG[:, None] + _CHANCE
        return CommonShift(
            distance=float(self.ours_U.mean() - self.theirs_R.mean()) / self.error,
            wider=t_quantile(0.975, self.df) / _NORMAL,
            along=np.interp(shifts, _MOVES, values_M) @ _WEIGHTS,
        )


def moves(
    unlearned_UE: FloatArray, retrained_RE: FloatArray, originals_U: NDArray[np.int64] | None = None
) -> Moves | None:
    """Return moves of the unlearned models' images; None where no image varies, or the images' mean does not.

    Args:
        unlearned_UE: phi of the unlearned models, [runs, images].
        retrained_RE: phi of the retrained models.
        originals_U: the original of each unlearned model, where the distance is one over originals.

    """
    sides = (unlearned_UE, retrained_RE)
    varies_E = np.any([np.ptp(side, axis=0) > 0 for side in sides], axis=0)
    if not varies_E.any():
        return None
    sd_E = np.where(varies_E, np.sqrt(sum(side.var(axis=0, ddof=1) for side in sides) / 2), 0.0)
    ours_U, theirs_R = ((side[:, varies_E] / sd_E[varies_E]).mean(axis=1) for side in sides)
    error, df = _error(ours_U, theirs_R, originals_U)
    if not error:
        return None
    return Moves(by_ME=(_MOVES * error)[:, None] * sd_E, ours_U=ours_U, theirs_R=theirs_R, error=error, df=df)


def common_shift(
    unlearned_UE: FloatArray,
    retrained_RE: FloatArray,
    mode: Mode,
    value: float,
    originals_U: NDArray[np.int64] | None = None,
) -> CommonShift | None:
    """Return the shift that all images have in common; None where there are no `moves`.

    None in `parity`, too, where moved images would be beyond what it takes (`epsilon.MAX_PARITY`).

    Args:
        unlearned_UE: phi of the unlearned models, [runs, images].
        retrained_RE: phi of the retrained models; in `parity` as many runs.
        mode: that of F.
        value: their F, without any shift.
        originals_U: the original of each unlearned model, where the distance is one over originals.

    """
    found = moves(unlearned_UE, retrained_RE, originals_U)
    if found is None:
        return None
    farthest = float((np.abs(unlearned_UE).max(axis=0) + found.by_ME[-1]).max())
    if mode == "parity" and farthest > MAX_PARITY:
        return None
    return found.shift(
        [
            forgetting_quality(unlearned_UE + by_E, retrained_RE, mode).score if by_E.any() else value
            for by_E in found.by_ME
        ]
    )


def _error(ours_U: FloatArray, theirs_R: FloatArray, originals_U: NDArray[np.int64] | None) -> tuple[float, float]:
    """Return the standard error of a difference of means, and its degrees of freedom (Welch's, over originals)."""
    theirs = float(theirs_R.var(ddof=1)) / len(theirs_R)
    if originals_U is None:
        return float(np.sqrt(ours_U.var(ddof=1) / len(ours_U) + theirs)), len(ours_U) + len(theirs_R) - 2
    ours, originals = error_of_mean(ours_U, originals_U)
    return (ours + theirs) ** 0.5, degrees_of_sum(ours, originals - 1, theirs, len(theirs_R) - 1)


def distances(found: float) -> tuple[float, float]:
    """Return the 95 % interval of a distance, from the absolute value of its normal estimate of standard error 1.

    >>> [round(end, 2) for end in distances(1.0)]
    [0.0, 2.92]
    """
    lowest_X, highest_X = _belt()
    nearest = int(found / _STEP)
    if nearest >= len(lowest_X):
        return found - _NORMAL, found + _NORMAL
    return float(lowest_X[nearest]), float(highest_X[nearest])


@cache
def _belt() -> tuple[FloatArray, FloatArray]:
    """Return the smallest and the largest distance that accepts each estimate from 0 to 6, in steps of `_STEP`."""
    estimates_X, truths_T = (np.arange(1400) + 0.5) * _STEP, np.arange(451) * 2 * _STEP
    apart_TX = [estimates_X + sign * truths_T[:, None] for sign in (-1, 1)]
    density_TX = sum(np.exp(-(one_TX**2) / 2) for one_TX in apart_TX) / np.sqrt(2 * np.pi)
    order_TX = np.argsort(-density_TX / density_TX.max(axis=0), axis=1, kind="stable")
    densities_TX = np.take_along_axis(density_TX, order_TX, axis=1)
    before_TX = np.cumsum(densities_TX, axis=1) - densities_TX
    accepted_TX = np.zeros(before_TX.shape, dtype=bool)
    np.put_along_axis(accepted_TX, order_TX, before_TX * _STEP < 0.95, axis=1)
    accepted_TX = accepted_TX[:, :600]
    return truths_T[accepted_TX.argmax(axis=0)], truths_T[::-1][accepted_TX[::-1].argmax(axis=0)]

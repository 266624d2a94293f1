"""Plain distances from the retrained population: shift of the mean and ratio of spreads, example by example.

    distance = shift_and_spread(unlearned_UE, retrained_RE)    # phi, margins or losses
    distance.mean_absolute_shift, distance.median_spread_ratio

Does not cover: tests of significance (`evaluation.permutation`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.measures.measure import Distance, Measure, Pair
from ray_unlearn.evaluation.populations import FloatArray, compared, variance_of_mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShiftAndSpread:
    """Distance of the unlearned models' mean and spread from the retrained ones', per example."""

    shift: FloatArray
    """[E], float64: (mean of unlearned - mean of retrained) / sd of retrained; NaN where that sd is 0."""
    log_spread_ratio: FloatArray
    """[E]: log(sd of unlearned / sd of retrained); -inf where unlearned models do not differ, NaN as above."""

    @property
    def undefined(self) -> int:
        """Number of examples on which all retrained models agree exactly; the summaries leave them out."""
        return int(np.isnan(self.shift).sum())

    @property
    def mean_absolute_shift(self) -> float:
        """Mean of |shift| in sd of retrained; NaN if no example is left."""
        return float(np.abs(self.shift[self._defined]).mean()) if self._defined.any() else float("nan")

    @property
    def median_spread_ratio(self) -> float:
        """Median of sd of unlearned / sd of retrained: 1 if as varied, 0 if constant; NaN if no example is left."""
        return float(np.median(np.exp(self.log_spread_ratio[self._defined]))) if self._defined.any() else float("nan")

    @property
    def _defined(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.shift)


def shift_and_spread(unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike) -> ShiftAndSpread:
    """Return the standardised shift of the mean and the log ratio of standard deviations (ddof 1) for each example.

    Raises:
        EvaluationError: wrong shapes, fewer than 2 runs, different examples, NaN or infinity.

    """
    unlearned_UE, retrained_RE = compared(unlearned_UE, retrained_RE, at_least=2)
    (our_mean_E, our_sd_E), (mean_E, sd_E) = _moments(unlearned_UE), _moments(retrained_RE)
    sd_E[sd_E == 0] = np.nan
    with np.errstate(divide="ignore"):  # log 0 = -inf is the answer
        log_ratio_E = np.log(our_sd_E / sd_E)
    return ShiftAndSpread(shift=(our_mean_E - mean_E) / sd_E, log_spread_ratio=log_ratio_E)


def _moments(values_RE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return means and standard deviations (ddof 1) over runs, exactly 0 where all runs agree, [E] both."""
    if values_RE.shape[1] > 1 and pays(values_RE.size):
        from ray_unlearn.evaluation.compiled.gaussians import moments

        return moments(values_RE)
    return values_RE.mean(axis=0), np.where(np.ptp(values_RE, axis=0) > 0, values_RE.std(axis=0, ddof=1), 0)


def _distance(pair: Pair) -> ShiftAndSpread:
    return shift_and_spread(*pair.phi("forget"))


def _mean_shift(pair: Pair) -> float | None:
    return _or_none(pair.once(_distance).mean_absolute_shift)


def _moved(pair: Pair, by_ME: FloatArray) -> FloatArray:
    """Return the mean absolute shift after moves, in standard deviations of the retrained models, [moves]."""
    shift_E, (_, sd_E) = pair.once(_distance).shift, _moments(pair.phi("forget")[1])
    defined_E = ~np.isnan(shift_E)
    return np.asarray(np.abs(shift_E[defined_E] + by_ME[:, defined_E] / sd_E[defined_E]).mean(axis=1))


def _own(pair: Pair) -> float:
    size_E = np.abs(pair.once(_distance).shift)
    return variance_of_mean(size_E[~np.isnan(size_E)])


def _spread_ratio(pair: Pair) -> float | None:
    return _or_none(pair.once(_distance).median_spread_ratio)


def _halves(pair: Pair) -> tuple[float, float] | None:
    """Return the spread ratio on two halves of the images; None where retrained models differ on none of one."""
    found, half_E = pair.once(_distance), pair.half_of("forget")
    if half_E is None:
        return None
    one, other = (
        replace(found, shift=found.shift[mask_E], log_spread_ratio=found.log_spread_ratio[mask_E]).median_spread_ratio
        for mask_E in (half_E, ~half_E)
    )
    return None if np.isnan(one + other) else (one, other)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


MEASURES = {
    "mean_shift": Measure(
        label="shift of the mean",
        better="low",
        meaning="mean over forget images of |mean phi - the reference's| in the reference's standard deviations",
        source="this project",
        compute=_mean_shift,
        distance=Distance(_moved, _own),
    ),
    "spread_ratio": Measure(
        label="spread ratio",
        better="null",
        meaning="median over forget images of the standard deviation of phi over the reference's; 1 is equal",
        source="this project",
        compute=_spread_ratio,
        error=0.7,
        halves=_halves,
    ),
}

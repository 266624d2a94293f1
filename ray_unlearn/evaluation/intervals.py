"""Intervals of measures from subsets of runs, calibrated by simulation.

    drawn = subsets(unlearned, reference, settings)              # rows of both sides, 13/16 of each
    draws = values_on(unlearned, reference, drawn.pairs, settings, alone)
    error = standard_error("score", draws, drawn, settings.mode) # Error(se=..., df=...)
    low, high = interval("score", value, error)                  # 95 %

A number over m of N runs, drawn without replacement, varies by (N - m) / m of its variance at N, where it is an average
over runs (delete-d jackknife; Shao and Wu, Annals of Statistics 1989). So its standard error at N is the standard
deviation over subsets times sqrt(m / (N - m)). Subsets leave out 3/16 of the runs: with halves, the intervals of F
covered 84 to 93 % in parity mode.

F is two things at once. What images share, because a model is good or bad at many of them, is an average over runs, and
the factor holds. What each image has alone jumps between the buckets of epsilon: it varies between subsets nearly as
much as between studies, and the factor would make it four times too large. The variance of F over subsets is therefore
split: `apart`, the sum over images of each image's own variance, and the rest, `shared`. Then

    se^2 = SHARED x shared x m / (N - m) + APART x apart

In `exact` mode epsilon takes few values, which depend on the number of runs. Where the edges of buckets lie between
them decides how far the points of images lie apart: at N = 32 their variance is 5 % below that at the subsets' 26 runs,
at N = 16 and 64 it is 30 % below. So `apart` is multiplied by the variance over images of the points at N, over its
mean on the subsets. The grid of `parity` is so fine that this ratio is 1 (0.9 to 1.05), and it is left out there.

F also is largest where both populations are alike, and an interval that reaches as far up as down covers equal
populations in 98 to 99 %. Most of what images share is a shift that all have in common, and `common_shift` gives the
values of F that this shift allows. So where it is known the ends of F's interval are

    F - (margin^2 + (F - lowest)^2)^0.5  and  F + (margin^2 + (highest - F)^2)^0.5

with the margin of what images have alone (`ALONE`) and of what they share beside that shift: the jackknife's variance
less the square of F's change by a standard error of the shift (`REST`). Where there may be no shift, the lower end is
often so far down that equal populations are never below it; then the upper end has what is left of the 5 %. They are
`Error.below` and `above`. Differences of populations (`ranks`, `planning`) go by `se`. Over several forget sets, and
for scores over originals, no shift is known, and intervals are symmetric.

Over originals the factors are the same: subsets leave out all runs of an original, and degrees of freedom are those of
originals, or, of the common shift and of averages over runs, of originals and retrained runs together.

U-LiRA's area and the shift of the mean are distances, smallest where both populations are alike, and a score is F times
ratios of accuracies that follow the shift. Their ends come from the common shift in the same way (`moved`), and what
they have beside it is the jackknife's variance less that of images alone and the square of their slope.

Percentiles over images (KLOM), medians (spread) and true positive rates have a factor of their own, `Measure.error`. It
holds for what images have alone; what they share is the covariance of the values on two halves of the images.
U-LiRA's rates vary with their mean, as counts do: their intervals are symmetric on the scale of the square root.

The factors were chosen with simulated populations of known truth, in both modes, N from 16 to 128, 40 and 200 images;
README.md of this room has the tables and says on which of their cells, and tests/bench/calibration.py measures them.

Does not cover: nulls (`nulls`), tests (`permutation`), and intervals over forget sets or data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.common_shift import CommonShift
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.moved import Moved
from ray_unlearn.evaluation.originals import degrees_of_freedom
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS, LEFT_OUT, Draws, Rows, Settings
from ray_unlearn.evaluation.t_distribution import degrees_of_sum, t_quantile

SHARED: Mapping[Mode, float] = {"parity": 1.8, "exact": 1.3}
"""Variance between studies of what images share, over the jackknife's estimate: F is not quite an average over runs."""
APART: Mapping[Mode, float] = {"parity": 1.8, "exact": 1.7}
"""Variance between studies of what an image has alone, over that between subsets that lack 3/16 of the runs."""
REST: Mapping[Mode, float] = {"parity": 2.0, "exact": 1.0}
"""`SHARED` for the ends of intervals that know the common shift: of what images share beside it."""
ALONE: Mapping[Mode, float] = {"parity": 1.35, "exact": 1.15}
"""`APART` for the ends of intervals that know the common shift."""
OF_SCORE: Mapping[Mode, tuple[float, float]] = {"parity": (1.5, 1.3), "exact": (0.75, 1.05)}
"""`REST` and `ALONE` for a score: its ratios are averages over runs, and vary less beside the shift than F does."""
_LATTICE = (0.5, 2.0)
"""Ends of the ratio of two variances over images."""
OWN_SEEN = 2
"""What the jackknife sees of what images have alone in a measure of distance, over their variance: 1 to 1.3 where
populations are far apart, and 2 where they are equal."""
SHARED_DF = 5
"""Degrees of freedom of the shared part. Its estimate varies as one with 8 does (a coefficient of variation of 0.2 to
0.25 at N = 16 to 64), and is small where F is small by chance, which takes longer tails."""
_LEAST_RUNS = 6
_MADE_OF_POINTS = ("forgetting_quality", "score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subsets:
    """Rows of both sides for intervals."""

    pairs: list[tuple[Rows, Rows]]
    factor: float
    """m / (N - m)."""
    units: int
    """Number of units that subsets are drawn from: runs, or originals where there are enough."""
    over_originals: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Error:
    """Standard error of a number, and its degrees of freedom."""

    se: float
    df: float
    """Degrees of freedom of the t distribution that its interval is of."""
    apart: float = 0.0
    """Part of it that images have alone, which more runs hardly reduce."""
    below: float | None = None
    """Standard errors that the lower and the upper end are made of, where they are others than `se`."""
    above: float | None = None


def subsets(
    unlearned: Outputs, reference: Outputs, settings: Settings, originals: npt.NDArray[np.int64] | None = None
) -> Subsets:
    """Return subsets of as many runs of both sides; none where there are fewer than 6.

    With 4 originals or more, the unlearned side loses all runs of an original at once; a number's error is then that
    over originals and runs.

    Args:
        unlearned: the population.
        reference: the retrained models.
        settings: gives the draws.
        originals: those that the runs of all forget sets together start from, of a study with several: with 4 or
            more, the k-th subset of every set lacks the same ones, also where a set has no run of some of them.

    """
    runs, starts_R = len(unlearned), unlearned.originals_R
    names = np.unique(starts_R if originals is None else originals)
    over_originals = len(names) >= LEAST_ORIGINALS and len(np.unique(starts_R)) < runs
    block_R = starts_R
    if not over_originals and (originals is None or len(names) < LEAST_ORIGINALS):
        block_R = names = np.arange(runs)
    units = len(names)
    left_out = max(1, round(LEFT_OUT * units))
    factor = (units - left_out) / left_out
    if runs < _LEAST_RUNS:
        return Subsets(pairs=[], factor=factor, units=units, over_originals=over_originals)
    ours = settings.blocks(unlearned.population, block_R, names, left_out)
    orders = _orders(reference.population, runs, settings)
    theirs = [np.sort(order[: len(rows)]) for order, rows in zip(orders, ours, strict=True)]
    return Subsets(
        pairs=list(zip(ours, theirs, strict=True)), factor=factor, units=units, over_originals=over_originals
    )


def _orders(population: str, runs: int, settings: Settings) -> list[Rows]:
    """Return the reference's runs in orders whose beginnings are its subsets: the same for every method."""
    rng = settings.rng(f"subsets-{runs}", population)
    return [rng.permutation(runs) for _ in range(settings.resamples)]


def standard_error(name: str, draws: Draws, drawn: Subsets, mode: Mode) -> Error:
    """Return the standard error of a measure at N."""
    values_K = draws.values[name]
    if name in _MADE_OF_POINTS and values_K.any() and draws.values["forgetting_quality"].any():
        return _of_points(name, draws, drawn, mode)
    variance = float(np.var(values_K, ddof=1))
    shared = _in_both(draws.halves[name], variance) if name in draws.halves else 0.0
    variance = (shared + (variance - shared) * MEASURES[name].error ** 2) * drawn.factor
    if (moved := draws.moved.get(name)) and name not in _MADE_OF_POINTS:
        return _of_distance(variance, moved, drawn.units - 1)
    return Error(se=variance**0.5, df=_df(name, draws, drawn))


def _of_points(name: str, draws: Draws, drawn: Subsets, mode: Mode) -> Error:
    """Return the error of F, or of a score, from what images share and what each has alone."""
    points_KE, values_K = draws.points_KE, draws.values[name]
    f, mean = float(draws.values["forgetting_quality"].mean()), float(values_K.mean())
    apart = float(points_KE.var(axis=0, ddof=1).sum()) / points_KE.shape[1] ** 2 * (mean / f) ** 2  # F times two ratios
    shared = max(float(np.var(values_K, ddof=1)) - apart, 0) * drawn.factor
    apart *= _lattice(draws) if mode == "exact" else 1.0
    of_se, of_ends = _degrees(drawn, points_KE.shape[1])
    se, df = _of_two_parts(SHARED[mode] * shared, APART[mode] * apart, *of_se)
    error = Error(se=se, df=df, apart=(APART[mode] * apart) ** 0.5)
    found = _along(name, draws)
    if found is None:
        return error
    value, shift = found
    of_rest, of_alone = OF_SCORE[mode] if name == "score" else (REST[mode], ALONE[mode])
    parts = (of_rest * max(shared - shift.slope**2, 0), of_alone * apart)
    below, above = _sides(value, shift, parts, of_ends)
    return replace(error, below=below / t_quantile(0.975, df), above=above / t_quantile(0.975, df))


def _along(name: str, draws: Draws) -> tuple[float, CommonShift] | None:
    """Return F or the score, and what it is along the common shift; None where that is not known."""
    if name == "forgetting_quality":
        return None if draws.shift is None else (float(draws.points_E.mean()), draws.shift)
    moved = draws.moved.get(name)
    return (moved.value, moved.shift) if moved else None


def _degrees(drawn: Subsets, images: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return degrees of freedom of what images share and of what each has alone: of `se`, and of the ends.

    What images have alone has as many at the ends as there are images: with one image a 95 % interval of 16 runs
    holds the truth in 96 to 99 % of simulated studies, and in 86 to 89 % in `parity` with those of runs. Over originals
    each image has those of originals.
    """
    units = drawn.units - 1
    over_originals = (units, units * images)
    return (over_originals, over_originals) if drawn.over_originals else ((units, units), (SHARED_DF, images))


def _of_two_parts(shared: float, apart: float, df_shared: int, df_apart: int) -> tuple[float, float]:
    """Return the standard error of two variances, and its degrees of freedom (Welch and Satterthwaite).

    Args:
        shared: variance of what images share; it has `SHARED_DF` degrees of freedom at most.
        apart: variance of what images have alone.
        df_shared: degrees of freedom of the first, where they are fewer.
        df_apart: of the second.

    """
    df = min(SHARED_DF, df_shared)
    return (shared + apart) ** 0.5, degrees_of_sum(shared, df, apart, df_apart)


def _sides(
    value: float, shift: CommonShift, parts: tuple[float, float], degrees: tuple[int, int]
) -> tuple[float, float]:
    """Return how far the ends of the 95 % interval of F, or of a score, lie below and above it.

    Args:
        value: of all runs.
        shift: what the images have in common.
        parts: variances of what images share beside it, and of what they have alone.
        degrees: degrees of freedom of both.

    """
    se, df = _of_two_parts(*parts, *degrees)
    quantile = t_quantile(0.975, df)
    lowest, highest = shift.allowed()
    below = math.hypot(quantile * se, max(0.0, value - lowest))
    if shift.may_be_none and se:
        quantile = t_quantile(1 - max(0.025, 0.05 - _beyond(below / se)), df)
    return below, math.hypot(quantile * se, max(0.0, highest - value))


def _df(name: str, draws: Draws, drawn: Subsets) -> float:
    """Return degrees of freedom of a jackknife's error: over originals, those of both sides for averages over runs.

    Percentiles and rates, whose `Measure.error` is below 1, have those of originals: with more, intervals of KLOM over
    4 originals held the truth in 88 to 92 % where originals make up 9 tenths of the variance.
    """
    if not drawn.over_originals or MEASURES[name].error < 1:
        return drawn.units - 1
    lacking_K = np.unique([ours.tobytes() for ours, _ in drawn.pairs], return_inverse=True)[1]
    return degrees_of_freedom(draws.values[name], lacking_K, drawn.units, len(drawn.pairs[0][1]))


def _of_distance(variance: float, moved: Moved, df: int) -> Error:
    """Return the error of a measure of distance, by the shift that all images have in common.

    Args:
        variance: the jackknife's.
        moved: the measure after moves.
        df: degrees of freedom of `variance`.

    """
    own = min(variance, moved.own)
    rest = max(variance - OWN_SEEN * own - moved.slope**2, 0.0)
    se, df_of_both = _of_two_parts(rest, own, df, moved.images - 1)
    quantile = t_quantile(0.975, df_of_both)
    lowest, highest = moved.shift.allowed()
    below = math.hypot(se, max(0.0, moved.value - lowest) / quantile)
    above = math.hypot(se, max(0.0, highest - moved.value) / quantile)
    return Error(se=(below + above) / 2, df=df_of_both, below=below, above=above)


def _in_both(halves_K2: npt.NDArray[np.float64], variance: float) -> float:
    """Return what two halves of the images have in common: their covariance, from 0 to the variance of the whole."""
    return float(np.clip(np.cov(halves_K2.T)[0, 1], 0.0, variance))


def _lattice(draws: Draws) -> float:
    """Return the variance over images of the points of all runs, over its mean on subsets; 1 where none vary."""
    on_subsets = float(draws.points_KE.var(axis=1).mean()) if len(draws.points_E) else 0.0
    return float(np.clip(draws.points_E.var() / on_subsets, *_LATTICE)) if on_subsets else 1.0


def interval(name: str, value: float, error: Error, level: float = 0.95) -> tuple[float, float]:
    """Return a measure's two-sided interval, cut where the measure ends; a measure's smallest value is 0."""
    quantile, upper = t_quantile((1 + level) / 2, error.df), MEASURES[name].upper
    below, above = (quantile * (error.se if end is None else end) for end in (error.below, error.above))
    low, high = max(0.0, value - below), value + above
    if MEASURES[name].rare:
        low, high = _of_roots(value, below)
    return low, high if upper is None else max(value, min(upper, high))


def _of_roots(value: float, margin: float) -> tuple[float, float]:
    """Return an interval that is symmetric on the scale of the square root; a value of 0 has twice the margin above."""
    if margin >= 2 * value:
        return 0.0, value + margin + min(margin, margin**2 / (4 * value) if value else margin)
    shift = margin**2 / (4 * value)
    return value - margin + shift, value + margin + shift


def _beyond(errors: float) -> float:
    """Return the chance that a normal number lies more than so many standard errors above its mean."""
    from scipy.special import ndtr

    return float(ndtr(-errors))

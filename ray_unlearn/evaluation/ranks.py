"""Which places populations may have: an order that admits ties.

    found = ranks(estimates, draws)              # {"kookmin": Rank(best=1, worst=3, low=..., high=...), ...}

Two populations differ if the 95 % interval of their difference, widened for all pairs at once (by the studentized
range), leaves out 0. They are scored on the same subsets of the same retrained runs, so that what these have in common
cancels: se^2 of the difference is `OF_DIFFERENCE` x (se_a^2 + se_b^2 - 2 r se_a se_b), with r the correlation of both
over the subsets. Of two equal methods, one is called better in 3.5 % of simulated studies. The places of
a population run from 1 + how many are surely better to how many are not surely worse: all true places are in these sets
with 95 % confidence (in the way of Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies 2024).

The best of several is the luckiest of several, and its own 95 % interval may miss too often (symmetric ones in 19 % of
studies of twelve equal methods). The interval of a `Rank` holds for all populations at once, hence for the best.

Of populations with different numbers of runs, whose F do not compare, each may have any place.

Does not cover: the order in which they are shown (`report.ranking`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from ray_unlearn.evaluation.intervals import Error, interval
from ray_unlearn.evaluation.scores import Estimate, Rank
from ray_unlearn.evaluation.t_distribution import degrees_of_sum, t_quantile

RANKED = ("score", "forgetting_quality")
"""Measures by which populations are ranked."""
OF_DIFFERENCE = 0.75
"""Variance of a difference of two populations, over what their standard errors and the correlation of their draws say.
Those have a margin, because an interval of F ends where F is largest, which a difference does not. And draws correlate
less than populations do that share their retrained runs, because each takes its own unlearned ones."""
_ERROR = 0.05


def ranks(
    measure: str,
    estimates: Mapping[str, Estimate],
    draws: Mapping[str, Sequence[float]],
    error: float = _ERROR,
    share: float = OF_DIFFERENCE,
) -> dict[str, Rank]:
    """Return the places of all populations that have an interval.

    Where numbers of runs differ, or an interval is missing, no difference is sure: all tie.

    Args:
        measure: its name; high is better.
        estimates: of the measure, by population.
        draws: values of the measure on subsets, by population; the k-th are of the same subset of the reference.
        error: chance that any difference is called sure and is none; intervals hold with 95 % confidence in any case.
        share: see `OF_DIFFERENCE`; 1 where standard errors are over forget sets.

    """
    found = {name: one for name, one in estimates.items() if one.value is not None}
    sized = {name: one for name, one in found.items() if one.se is not None and one.df is not None}
    compare = len({one.n for one in found.values()}) == 1 and len(sized) == len(found)
    values = {name: float(one.value or 0.0) for name, one in found.items()}
    errors = {name: error_of(one) for name, one in sized.items()}
    pairs = list(combinations(found, 2)) if compare else []
    better = dict.fromkeys(found, 0)
    worse = dict.fromkeys(found, 0)
    for one, other in pairs:
        difference = values[one] - values[other]
        together = correlation(draws.get(one, ()), draws.get(other, ()))
        apart = difference_error(errors[one], errors[other], together, share)
        if difference and (not apart.se or _differ(abs(difference) / apart.se, apart.df, len(found), error)):
            first, last = (one, other) if difference > 0 else (other, one)
            worse[first] += 1
            better[last] += 1
    level = 1 - _ERROR / max(1, len(found))
    places = {}
    for name in sized:
        low, high = interval(measure, values[name], errors[name], level)
        places[name] = Rank(best=1 + better[name], worst=len(found) - worse[name], low=low, high=high)
    return places


def error_of(estimate: Estimate) -> Error:
    """Return an estimate's standard error, and those that the ends of its interval are made of."""
    value, df = estimate.value, estimate.df or 1.0
    below = above = None
    if value is not None and estimate.low is not None and estimate.high is not None:
        below, above = (abs(value - end) / t_quantile(0.975, df) for end in (estimate.low, estimate.high))
    return Error(se=estimate.se or 0.0, df=df, below=below, above=above)


def correlation(draws: Sequence[float], others: Sequence[float]) -> float:
    """Return what two populations' values on the same subsets have in common, from 0 to 1."""
    if len(draws) == len(others) > 2 and np.ptp(draws) > 0 and np.ptp(others) > 0:
        return max(0.0, float(np.corrcoef(draws, others)[0, 1]))
    return 0.0


def difference_error(one: Error, other: Error, together: float, share: float = OF_DIFFERENCE) -> Error:
    """Return the standard error of a difference.

    Args:
        one: error of a population's value.
        other: of another's.
        together: their `correlation`.
        share: see `OF_DIFFERENCE`.

    """
    variance = share * (one.se**2 + other.se**2 - 2 * together * one.se * other.se)
    return Error(se=max(variance, 0.0) ** 0.5, df=degrees_of_sum(one.se**2, one.df, other.se**2, other.df))


def _differ(errors: float, df: float, populations: int, error: float) -> bool:
    """Return whether a difference of so many standard errors is sure, for all pairs of populations at once.

    By the studentized range, which is exact for equal populations and safe for others (Tukey; Hayter, Annals of
    Statistics 12, 1984). It takes 20 ms, so that Bonferroni's inequality, which asks for a little more, and a pair's
    own test, which asks for less, are tried before.
    """
    from scipy.stats import studentized_range

    pairs = populations * (populations - 1) / 2
    if errors <= t_quantile(1 - error / 2, df):
        return False
    if errors > t_quantile(1 - error / (2 * pairs), df):
        return True
    return bool(studentized_range.sf(2**0.5 * errors, populations, df) <= error)

"""Which places populations may have: an order that admits ties.

    found = ranks(estimates, draws)              # {"kookmin": Rank(best=1, worst=3, low=..., high=...), ...}

Two populations differ if the 95 % interval of their difference, widened for all pairs at once (Bonferroni), leaves out
0. They are scored on the same subsets of the same retrained runs, so that what these have in common cancels:
se^2 of the difference = se_a^2 + se_b^2 - 2 r se_a se_b, with r the correlation of both over the subsets. The places of
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
from ray_unlearn.evaluation.t_distribution import t_quantile

RANKED = ("score", "forgetting_quality")
"""Measures by which populations are ranked."""
_ERROR = 0.05


def ranks(
    measure: str, estimates: Mapping[str, Estimate], draws: Mapping[str, Sequence[float]], error: float = _ERROR
) -> dict[str, Rank]:
    """Return the places of all populations that have an interval.

    Where numbers of runs differ, or an interval is missing, no difference is sure: all tie.

    Args:
        measure: its name; high is better.
        estimates: of the measure, by population.
        draws: values of the measure on subsets, by population; the k-th are of the same subset of the reference.
        error: chance that any difference is called sure and is none; intervals hold with 95 % confidence in any case.

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
        apart = difference_error(errors[one], errors[other], draws.get(one, ()), draws.get(other, ()))
        if abs(difference) > t_quantile(1 - error / (2 * len(pairs)), apart.df) * apart.se:
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


def difference_error(one: Error, other: Error, draws: Sequence[float], others: Sequence[float]) -> Error:
    """Return the standard error of a difference; taken as independent where the draws are not paired or do not vary."""
    together = correlation(draws, others)
    variance = one.se**2 + other.se**2 - 2 * together * one.se * other.se
    return Error(se=max(variance, 0.0) ** 0.5, df=min(one.df, other.df))

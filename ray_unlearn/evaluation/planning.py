"""What more runs would buy: how wide intervals would be, and at which N two populations would separate.

    found = plan("score", estimates, draws)
    found.widths["kookmin"]                      # of 95 % intervals, at found.sizes runs a side
    found.separations[0].runs                    # runs a side that show this difference in 80 % of studies

The variance of a measure at N has two parts: what images share falls as 1 / N, what an image has alone (of F, whose
images jump between buckets of epsilon) does not (`intervals`). So the standard error at n runs is taken for
sqrt(shared x N / n + apart). F itself falls with N, and by much where models are easily distinguished: 64 runs of
digits had a seventh of the F of 8. So widths are those of a number that goes on falling as F did at the last doubling,
N^-b, which leaves them in proportion to it. Differences and their errors fall alike, which cancels. The plan is of this
study's order, not of the third digit. Two populations separate where their difference is at least t + 0.84 of its
standard errors, t being the quantile that `ranks` compares with: then 80 % of studies show it.

Does not cover: originals. With several, N means as many more originals as runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

from ray_unlearn.evaluation.intervals import Error, t_quantile
from ray_unlearn.evaluation.ranks import difference_error, error_of
from ray_unlearn.evaluation.scores import Estimate, Growth, Plan, Separation

_LARGEST = 8192
"""Runs beyond which a plan says that more runs do not separate two populations."""
_POWER = 0.8
_STEEPEST = 1.0
"""Largest b: beyond it a few unlucky subsets would promise too much."""


def plan(
    measure: str, estimates: Mapping[str, Estimate], draws: Mapping[str, Sequence[float]], falling: float = 0.0
) -> Plan | None:
    """Return what more runs would buy; None with populations of different N, or without intervals.

    Args:
        measure: its name.
        estimates: of the measure, by population.
        draws: values on subsets by population, as for `ranks`.
        falling: b, as `falls` returns it.

    """
    found = {name: one for name, one in estimates.items() if one.value is not None and one.se is not None}
    if not found or len({one.n for one in found.values()}) != 1:
        return None
    runs = next(iter(found.values())).n
    sizes = tuple(runs * 2**k for k in range(5))
    widths = {
        name: tuple(_width(error_of(one), runs, size) * (runs / size) ** falling for size in sizes)
        for name, one in found.items()
    }
    order = sorted(found, key=lambda name: -float(found[name].value or 0.0))
    pairs = max(1, len(list(combinations(order, 2))))
    separations = []
    for first, second in pairwise(order):
        gap = float(found[first].value or 0.0) - float(found[second].value or 0.0)
        error = difference_error(
            error_of(found[first]), error_of(found[second]), draws.get(first, ()), draws.get(second, ())
        )
        separations.append(
            Separation(first=first, second=second, difference=gap, runs=runs_needed(gap, error, runs, pairs))
        )
    return Plan(measure=measure, n=runs, sizes=sizes, widths=widths, separations=tuple(separations))


def falls(growths: Iterable[Sequence[Growth]]) -> float:
    """Return b where F falls as N^-b: from the last two points of all growth curves together; 0 where it does not."""
    last = [(points[-2], points[-1]) for points in growths if len(points) > 1]
    before, after = (sum(pair[k].value for pair in last) for k in (0, 1))
    if not last or after <= 0 or before <= after:
        return 0.0
    first, second = last[0]
    return min(_STEEPEST, math.log(before / after) / math.log(second.n / first.n))


def se_at(error: Error, runs: int, size: int) -> float:
    """Return the standard error at `size` runs a side of one that was estimated at `runs`."""
    apart = min(error.apart, error.se) ** 2
    return float(((error.se**2 - apart) * runs / size + apart) ** 0.5)


def _width(error: Error, runs: int, size: int) -> float:
    ends = sum(error.se if end is None else end for end in (error.below, error.above))
    share = se_at(error, runs, size) / error.se if error.se else 1.0
    return t_quantile(0.975, error.df * size / runs) * ends * share


def runs_needed(gap: float, error: Error, runs: int, pairs: int) -> int | None:
    """Return the least number of runs a side, 6 or more, that shows a difference in 80 % of studies; None: no number.

    Args:
        gap: difference of two populations, not below 0.
        error: of the difference, at `runs`.
        runs: runs a side now.
        pairs: pairs of populations that are compared at once.

    """
    from scipy.special import ndtri

    for size in range(6, _LARGEST + 1):
        quantile = t_quantile(1 - 0.05 / (2 * pairs), max(1.0, error.df * size / runs))
        if gap >= (quantile + float(ndtri(_POWER))) * se_at(error, runs, size) and gap > 0:
            return size
    return None

"""What more runs would buy: how wide intervals would be, and at which N two populations would separate.

    found = plan("score", estimates, draws, {"kookmin": falls(growth), ...})
    found.widths["kookmin"]                      # of 95 % intervals, at found.sizes runs a side
    found.separations[0].runs                    # runs a side that show this difference in 80 % of studies

F falls with N, the faster the easier models are distinguished, and its interval with it: in simulated studies the width
over F hardly changes from N = 16 to 128, because the same difference between populations moves F the more, the more
runs see it. So each population's F, score and standard error are taken to go on as N^-b, with its own b from the last
doubling of its growth curve. Two populations then separate because the one falls faster. They do where their
difference is at least t + 0.84 of its standard errors, t being Bonferroni's quantile for all pairs (which asks for a
little more than the studentized range of `ranks`): then 80 % of studies show it. The difference at hand is itself
uncertain, so a plan is of the right order, not of the second digit.

Does not cover: originals. With several, N means as many more originals as runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from ray_unlearn.evaluation.intervals import Error
from ray_unlearn.evaluation.ranks import OF_DIFFERENCE, correlation, difference_error, error_of
from ray_unlearn.evaluation.scores import Estimate, Growth, Plan, Separation
from ray_unlearn.evaluation.t_distribution import t_quantile

_DOUBLINGS = 4
"""A curve is followed to 16 times the runs, and no farther."""
_POWER = 0.8
_STEEPEST = 1.0
"""Largest b: beyond it a few unlucky subsets would promise too much."""


def plan(
    measure: str,
    estimates: Mapping[str, Estimate],
    draws: Mapping[str, Sequence[float]],
    falling: Mapping[str, float] | None = None,
    share: float = OF_DIFFERENCE,
) -> Plan | None:
    """Return what more runs would buy; None with populations of different N, or without intervals.

    Args:
        measure: its name.
        estimates: of the measure, by population.
        draws: values on subsets by population, as for `ranks`.
        falling: b by population, as `falls` returns it; default 0.
        share: as in `ranks`.

    """
    found = {name: one for name, one in estimates.items() if one.value is not None and one.se is not None}
    if not found or len({one.n for one in found.values()}) != 1:
        return None
    runs, b = next(iter(found.values())).n, {name: (falling or {}).get(name, 0.0) for name in found}
    sizes = tuple(runs * 2**k for k in range(_DOUBLINGS + 1))
    widths = {
        name: tuple(((one.high or 0.0) - (one.low or 0.0)) * (runs / size) ** b[name] for size in sizes)
        for name, one in found.items()
    }
    order = sorted(found, key=lambda name: -float(found[name].value or 0.0))
    pairs = max(1, len(list(combinations(order, 2))))
    separations = []
    for first, second in pairwise(order):
        sides = [(float(found[name].value or 0.0), error_of(found[name]), b[name]) for name in (first, second)]
        together = correlation(draws.get(first, ()), draws.get(second, ()))
        gap = sides[0][0] - sides[1][0]
        needed = runs_needed(sides, together, runs, pairs, share)
        separations.append(Separation(first=first, second=second, difference=gap, runs=needed))
    return Plan(measure=measure, n=runs, sizes=sizes, widths=widths, separations=tuple(separations))


def falls(growth: Sequence[Growth]) -> float:
    """Return b where F falls as N^-b, from the last two points of a growth curve; 0 where it does not fall."""
    if len(growth) < 2 or not growth[-2].value > growth[-1].value:
        return 0.0
    before, after = growth[-2:]
    if after.value <= 0:
        return _STEEPEST
    return min(_STEEPEST, math.log(before.value / after.value) / math.log(after.n / before.n))


def runs_needed(
    sides: Sequence[tuple[float, Error, float]], together: float, runs: int, pairs: int, share: float = OF_DIFFERENCE
) -> int | None:
    """Return the least number of runs a side, from those at hand on, that shows a difference in 80 % of studies.

    None where 16 times the runs do not.

    Args:
        sides: value, standard error and b of the better and of the other population.
        together: correlation of their errors.
        runs: runs a side now.
        pairs: pairs of populations that are compared at once.
        share: as in `ranks`.

    """
    from scipy.special import ndtri

    (high, ours, fast), (low, theirs, faster) = sides
    df = difference_error(ours, theirs, together, share).df
    quantile = t_quantile(1 - 0.05 / (2 * pairs), df) + float(ndtri(_POWER))
    for size in range(runs, runs * 2**_DOUBLINGS + 1):
        one, other = (runs / size) ** fast, (runs / size) ** faster
        errors = (replace(ours, se=ours.se * one), replace(theirs, se=theirs.se * other))
        if (gap := high * one - low * other) > 0 and gap >= quantile * difference_error(*errors, together, share).se:
            return size
    return None

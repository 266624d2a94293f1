"""Compiled: U-LiRA's scores of models that are left out one at a time, without the arrays that NumPy needs in between.

    spread_2RE = spreads(own, other, floor_E)
    scores_RE = log_ratios(own_RE, own, other, spread_2RE, np.log(spread_2RE))

`own` and `other` are deviations from the mean, means and sums of squares of two populations. NumPy takes the
logarithms: its vector form has other last bits than the C library's.

Needs Numba, which the extra `fast` installs. Does not cover: blocks of several models (`measures.u_lira`, which also
defines the scores).
"""

from __future__ import annotations

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled

Sums = tuple[Floats, Floats, Floats]
"""Deviations [R, E], means [E] and sums of squared deviations [E] of a population."""


@compiled
def spreads(own: Sums, other: Sums, floor_E: Floats) -> Floats:
    """Return variances of both populations without the run at each place of the first, [2, R, E]; 1 where they are 0.

    Of a smaller second population, places begin again.
    """
    found_2RE = np.empty((2, *own[0].shape))
    for side in range(2):
        deviation_RE, _, squares_E = own if side == 0 else other
        left = len(deviation_RE) - 1
        for run in range(found_2RE.shape[1]):
            place = run % len(deviation_RE)
            for e in range(len(floor_E)):
                square = deviation_RE[place, e] * deviation_RE[place, e]
                variance = max(max(squares_E[e] - square - square / left, 0.0) / (left - 1), floor_E[e])
                found_2RE[side, run, e] = variance if variance > 0 else 1.0
    return found_2RE


@compiled
def log_ratios(phi_RE: Floats, own: Sums, other: Sums, spread_2RE: Floats, log_2RE: Floats) -> Floats:
    """Return the log density of each value by its own population without its run, less that by the other's, [R, E]."""
    found_RE = np.empty(phi_RE.shape)
    for side in range(2):
        deviation_RE, mean_E, _ = own if side == 0 else other
        left = len(deviation_RE) - 1
        for run in range(len(phi_RE)):
            place = run % len(deviation_RE)
            for e in range(phi_RE.shape[1]):
                apart = phi_RE[run, e] - (mean_E[e] - deviation_RE[place, e] / left)
                density = -(apart * apart) / (2 * spread_2RE[side, run, e]) - log_2RE[side, run, e] / 2
                found_RE[run, e] = density if side == 0 else found_RE[run, e] - density
    return found_RE

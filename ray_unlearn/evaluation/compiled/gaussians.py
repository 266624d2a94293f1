"""Compiled: U-LiRA's scores of models that are left out one at a time, without the arrays that NumPy needs in between.

    ours_UE, theirs_RE = scores_of(unlearned_UE, retrained_RE, VARIANCE_FLOOR)
    mean_E, sd_E = moments(phi_RE)

A model's density by either population lacks the run at its place, whichever of both it belongs to: so one variance and
one logarithm for each run serve both. NumPy takes the logarithms: its vector form has other last bits than the C
library's. Sums are in NumPy's order, row by row. `moments` are those of `measures.shift_and_spread`.

Needs Numba, which the extra `fast` installs. Does not cover: blocks of several models (`measures.u_lira`, which also
defines the scores).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled

WIDTH = 32
"""Images at a time: a constant, so that loops over them are vectors without a rest; what is kept stays in the cache."""


class Gaussians(NamedTuple):
    """`WIDTH` images under a population, some of them empty: values, and Gaussians without each run."""

    value_mean_RF: Floats
    """Values less those of one model, and means without each run, [runs, 2 * WIDTH]."""
    spread_RE: Floats
    """Variance without it; 1 where that is 0."""
    log_RE: Floats
    """Its logarithm."""


def scores_of(seen_UE: Floats, unseen_RE: Floats, share: float) -> tuple[Floats, Floats]:
    """Return U-LiRA's scores of both populations, every run left out alone.

    Args:
        seen_UE: phi of unlearned models on two images or more.
        unseen_RE: phi of retrained models.
        share: smallest variance, as a share of that over both populations.

    """
    found = np.empty_like(seen_UE), np.empty_like(unseen_RE)
    seen, unseen = (
        Gaussians(np.zeros((len(phi_RE), 2 * WIDTH)), *np.empty((2, len(phi_RE), WIDTH)))
        for phi_RE in (seen_UE, unseen_RE)
    )
    for first in range(0, seen_UE.shape[1], WIDTH):
        _fit(seen_UE, unseen_RE, first, share, seen, unseen)
        for side in (seen, unseen):
            np.log(side.spread_RE, out=side.log_RE)
        _log_ratios(seen, unseen, 1.0, found[0], first)
        _log_ratios(unseen, seen, -1.0, found[1], first)
    return found


@compiled
def _fit(seen_UE: Floats, unseen_RE: Floats, first: int, share: float, seen: Gaussians, unseen: Gaussians) -> None:
    """Fill values, means and variances of images from `first` on."""
    all_E, origin_E = np.zeros(WIDTH), unseen_RE[0, first : first + WIDTH].copy()
    _take(seen_UE, first, origin_E, seen.value_mean_RF)
    _take(unseen_RE, first, origin_E, unseen.value_mean_RF)
    _add(seen.value_mean_RF, all_E)
    seen_mean_E, sum_E = all_E / len(seen_UE), np.zeros(WIDTH)
    _add(unseen.value_mean_RF, sum_E)
    _add(unseen.value_mean_RF, all_E)
    unseen_mean_E, runs = sum_E / len(unseen_RE), len(seen_UE) + len(unseen_RE)
    all_E /= runs
    square_E, seen_E, unseen_E = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
    _add_squares(seen.value_mean_RF, seen_mean_E, seen_E)
    _add_squares(seen.value_mean_RF, all_E, square_E)
    _add_squares(unseen.value_mean_RF, unseen_mean_E, unseen_E)
    _add_squares(unseen.value_mean_RF, all_E, square_E)
    floor_E = share * (square_E / (runs - 1))
    _leave_out(seen, seen_mean_E, seen_E, floor_E)
    _leave_out(unseen, unseen_mean_E, unseen_E, floor_E)


@compiled
def _take(phi_RE: Floats, first: int, origin_E: Floats, value_mean_RF: Floats) -> None:
    """Fill values less the origin."""
    for run in range(len(phi_RE)):
        phi_E, row_F = phi_RE[run, first:], value_mean_RF[run]
        for e in range(len(origin_E)):
            row_F[e] = phi_E[e] - origin_E[e]


@compiled
def _add(value_mean_RF: Floats, sum_E: Floats) -> None:
    for run in range(len(value_mean_RF)):
        for e in range(WIDTH):
            sum_E[e] += value_mean_RF[run, e]


@compiled
def _add_squares(value_mean_RF: Floats, mean_E: Floats, sum_E: Floats) -> None:
    for run in range(len(value_mean_RF)):
        for e in range(WIDTH):
            apart = value_mean_RF[run, e] - mean_E[e]
            sum_E[e] += apart * apart


@compiled
def _leave_out(side: Gaussians, mean_E: Floats, squares_E: Floats, floor_E: Floats) -> None:
    """Fill means and variances without each run."""
    left = len(side.value_mean_RF) - 1
    for run in range(left + 1):
        row_F, spread_E = side.value_mean_RF[run], side.spread_RE[run]
        for e in range(WIDTH):
            apart = row_F[e] - mean_E[e]
            square = apart * apart
            variance = max(max(squares_E[e] - square - square / left, 0.0) / (left - 1), floor_E[e])
            spread_E[e] = variance if variance > 0 else 1.0
        for e in range(WIDTH):
            row_F[WIDTH + e] = mean_E[e] - (row_F[e] - mean_E[e]) / left


@compiled
def _log_ratios(own: Gaussians, other: Gaussians, sign: float, found_RE: Floats, first: int) -> None:
    """Fill the log density of each value by its own population without its run, less that by the other's, with a sign.

    Of a smaller other population, places begin again.
    """
    images, others, ratio_E = min(WIDTH, found_RE.shape[1] - first), len(other.value_mean_RF), np.empty(WIDTH)
    for run in range(len(own.value_mean_RF)):
        place = run % others
        own_F, own_spread_E, own_log_E = own.value_mean_RF[run], own.spread_RE[run], own.log_RE[run]
        other_F, spread_E, log_E = other.value_mean_RF[place], other.spread_RE[place], other.log_RE[place]
        for e in range(WIDTH):
            apart = own_F[e] - own_F[WIDTH + e]
            density = -(apart * apart) / (2 * own_spread_E[e]) - own_log_E[e] / 2
            apart = own_F[e] - other_F[WIDTH + e]
            without = -(apart * apart) / (2 * spread_E[e]) - log_E[e] / 2
            ratio_E[e] = sign * (density - without)
        found_RE[run, first : first + images] = ratio_E[:images]


@compiled
def moments(values_RE: Floats) -> tuple[Floats, Floats]:
    """Return means and standard deviations (ddof 1) over runs of two images or more, exactly 0 where all agree."""
    runs, images = values_RE.shape
    mean_E, sd_E, varied_E = np.zeros(images), np.zeros(images), np.zeros(images, np.int64)
    for run in range(runs):
        for e in range(images):
            mean_E[e] += values_RE[run, e]
            varied_E[e] += values_RE[run, e] != values_RE[0, e]
    for e in range(images):
        mean_E[e] /= runs
    for run in range(runs):
        for e in range(images):
            apart = values_RE[run, e] - mean_E[e]
            sd_E[e] += apart * apart
    for e in range(images):
        sd_E[e] = np.sqrt(sd_E[e] / (runs - 1)) if varied_E[e] else 0.0
    return mean_E, sd_E

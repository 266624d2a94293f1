"""Compiled: U-LiRA's scores of models that are left out one at a time, without the arrays that NumPy needs in between.

    ours_UE, theirs_RE = scores_of(unlearned_UE, retrained_RE, VARIANCE_FLOOR, 1 << 14)
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


class Gaussians(NamedTuple):
    """Some images under a population: values less those of one model, and what Gaussians without a run are made of."""

    value_RE: Floats
    deviation_RE: Floats
    """Value less the mean."""
    mean_E: Floats
    squares_E: Floats
    """Sum of squared deviations."""
    spread_RE: Floats
    """Variance without each run; 1 where it is 0."""
    log_RE: Floats
    """Its logarithm."""


def scores_of(seen_UE: Floats, unseen_RE: Floats, share: float, values: int) -> tuple[Floats, Floats]:
    """Return U-LiRA's scores of both populations, every run left out alone.

    Args:
        seen_UE: phi of unlearned models on two images or more.
        unseen_RE: phi of retrained models.
        share: smallest variance, as a share of that over both populations.
        values: values of both populations at a time, which stay in the cache.

    """
    images, runs = seen_UE.shape[1], len(seen_UE) + len(unseen_RE)
    found = np.empty_like(seen_UE), np.empty_like(unseen_RE)
    parts = max(1, min(images // 2, images * runs // values))
    for part in range(parts):
        columns = part * images // parts, (part + 1) * images // parts
        origin_E = unseen_RE[0, columns[0] : columns[1]]
        sides = [_deviations(phi_RE, columns, origin_E) for phi_RE in (seen_UE, unseen_RE)]
        floor_E = _floor(sides[0], sides[1], share)
        for side in sides:
            _variances(side, floor_E)
            np.log(side.spread_RE, out=side.log_RE)
        _log_ratios(sides[0], sides[1], 1.0, found[0], columns[0])
        _log_ratios(sides[1], sides[0], -1.0, found[1], columns[0])
    return found


@compiled
def _deviations(phi_RE: Floats, columns: tuple[int, int], origin_E: Floats) -> Gaussians:
    """Return values, means, deviations and squares of some images."""
    runs, images, first = len(phi_RE), columns[1] - columns[0], columns[0]
    value_RE, deviation_RE = np.empty((runs, images)), np.empty((runs, images))
    mean_E, squares_E = np.zeros(images), np.zeros(images)
    for run in range(runs):
        for e in range(images):
            value_RE[run, e] = phi_RE[run, first + e] - origin_E[e]
            mean_E[e] += value_RE[run, e]
    for e in range(images):
        mean_E[e] /= runs
    for run in range(runs):
        for e in range(images):
            deviation = value_RE[run, e] - mean_E[e]
            deviation_RE[run, e] = deviation
            squares_E[e] += deviation * deviation
    return Gaussians(value_RE, deviation_RE, mean_E, squares_E, np.empty((runs, images)), np.empty((runs, images)))


@compiled
def _floor(seen: Gaussians, unseen: Gaussians, share: float) -> Floats:
    """Return the smallest variances: a share of that over both populations."""
    runs, images = len(seen.value_RE) + len(unseen.value_RE), seen.value_RE.shape[1]
    mean_E, squares_E = np.zeros(images), np.zeros(images)
    for value_RE in (seen.value_RE, unseen.value_RE):
        for run in range(len(value_RE)):
            for e in range(images):
                mean_E[e] += value_RE[run, e]
    for e in range(images):
        mean_E[e] /= runs
    for value_RE in (seen.value_RE, unseen.value_RE):
        for run in range(len(value_RE)):
            for e in range(images):
                apart = value_RE[run, e] - mean_E[e]
                squares_E[e] += apart * apart
    for e in range(images):
        squares_E[e] = share * (squares_E[e] / (runs - 1))
    return squares_E


@compiled
def _variances(side: Gaussians, floor_E: Floats) -> None:
    """Fill the variances without each run."""
    left = len(side.value_RE) - 1
    for run in range(left + 1):
        for e in range(len(floor_E)):
            square = side.deviation_RE[run, e] * side.deviation_RE[run, e]
            variance = max(max(side.squares_E[e] - square - square / left, 0.0) / (left - 1), floor_E[e])
            side.spread_RE[run, e] = variance if variance > 0 else 1.0


@compiled
def _log_ratios(own: Gaussians, other: Gaussians, sign: float, found_RE: Floats, first: int) -> None:
    """Fill the log density of each value by its own population without its run, less that by the other's, with a sign.

    Of a smaller other population, places begin again.
    """
    own_left, other_left = len(own.value_RE) - 1, len(other.value_RE) - 1
    for run in range(own_left + 1):
        place = run % (other_left + 1)
        for e in range(own.value_RE.shape[1]):
            value = own.value_RE[run, e]
            apart = value - (own.mean_E[e] - own.deviation_RE[run, e] / own_left)
            density = -(apart * apart) / (2 * own.spread_RE[run, e]) - own.log_RE[run, e] / 2
            apart = value - (other.mean_E[e] - other.deviation_RE[place, e] / other_left)
            without = -(apart * apart) / (2 * other.spread_RE[place, e]) - other.log_RE[place, e] / 2
            found_RE[run, first + e] = sign * (density - without)


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

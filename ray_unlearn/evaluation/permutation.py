"""Permutation tests of "indistinguishable from retraining": whether it matters which runs are the method's.

    found = permutation_tests(unlearned_UE, retrained_RE, rng)   # phi of the forget images
    found["energy"].p, found["log_variance"].p
    adjusted = holm({"a": 0.01, "b": 0.04})                      # {"a": 0.02, "b": 0.04}

If a method's models are distributed as retrained ones are, any division of all runs into groups of these sizes is as
likely as the true one. Two statistics look at what F looks at little:

- `energy`: the energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of runs x, x' of the one and y, y' of the other
  population, as points with one coordinate per image (Szekely and Rizzo, Journal of Statistical Planning and Inference
  2013): sees shifts.
- `log_variance`: the mean over images of log(variance of the one / variance of the other)^2: sees spread.

phi is standardised for each image by mean and standard deviation over all runs. p = (1 + divisions with a statistic as
large or larger) / (1 + divisions drawn) (Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology
2010): never 0, and not too small at any number of divisions. Both at once, and several populations, take Holm's
correction (Scandinavian Journal of Statistics 1979).

Runs that share an original are alike, and retrained models share none: a method that is perfect over originals was
called different in 80 % of studies with 4 originals x 8 runs and a quarter of the variance between originals. So from 4
originals on, one run of each is compared with the reference at a time, which makes all runs exchangeable again. The p
of all such choices become one by the Cauchy combination (Liu and Xie, Journal of the American Statistical Association
115, 2020; read in `R/ACAT.R` of yaowuliu/ACAT at 08f0297): the mean of tan((1/2 - p) pi) has a Cauchy distribution
again where p is small, however the choices depend on each other. It errs as often as one choice, in 3 to 7 % of
studies, and finds a difference far more often. The mean of their statistics errs in 0 to 2 %, and finds less. Choices
are compared with the divisions of all of them together, and p is at least the smallest that one choice can have.

Does not cover: how far apart the populations are (`measures`), and what a new original would change where there are
fewer than 4: then the question is whether models made from these are retrained models.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.populations import FloatArray, compared
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS

Key = TypeVar("Key", bound=Hashable)

PERMUTATIONS = 1999
"""Divisions drawn: the smallest p is 0.0005, small enough for Holm over 50 populations."""
LEAST_RUNS = 3
"""Runs a side; with 3, p is 0.05 at best, because there are 20 divisions."""
CHOICES = 16
"""Choices of one run of each original that are compared with the reference, at most."""
Stratum = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]
"""phi of unlearned and of retrained models, and the original that each unlearned one started from."""
_FLOOR = 1e-4
"""Smallest variance, as a share of that over all runs: runs that do not differ have a ratio, too."""
_BLOCK = 256
"""Divisions at a time: 256 x 1,024 runs are 2 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One test's result."""

    statistic: float
    p: float


def permutation_tests(
    unlearned_UE: npt.ArrayLike,
    retrained_RE: npt.ArrayLike,
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
    originals_U: npt.ArrayLike | None = None,
) -> dict[str, Found]:
    """Return both tests; none where no image's phi differs between runs.

    Args:
        unlearned_UE: phi of U >= 3 unlearned models on E images.
        retrained_RE: phi of R >= 3 retrained models on the same images; R may differ from U.
        rng: draws the divisions.
        permutations: how many.
        originals_U: which original each unlearned model started from; default a different one for each.

    Raises:
        EvaluationError: wrong shapes, too few runs, different images, NaN or infinity.

    """
    return stratified_tests([(unlearned_UE, retrained_RE, originals_U)], rng, permutations)


def least_p(sizes: Sequence[tuple[int, int]], permutations: int = PERMUTATIONS) -> float:
    """Return the smallest p that both tests can have with so few runs, but for luck in drawing the divisions.

    Both statistics are symmetric, so that where sides are of one size each division counts twice.

    Args:
        sizes: runs of the method and of the reference, for each forget set.
        permutations: divisions drawn.

    >>> round(least_p([(4, 4)]), 3), round(least_p([(5, 5)]), 4)
    (0.029, 0.0079)

    """
    divisions = math.prod(math.comb(ours + theirs, ours) // (1 + (ours == theirs)) for ours, theirs in sizes)
    return max(1 / divisions, 1 / (1 + permutations))


def stratified_tests(
    strata: Sequence[Stratum], rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> dict[str, Found]:
    """Return both tests over several forget sets: runs are divided within each, and the statistics are added up.

    Args:
        strata: as in `permutation_tests`, of each set.
        rng: draws the divisions, of one set after the other.
        permutations: how many.

    Raises:
        EvaluationError: as `permutation_tests`.

    """
    found = [one for stratum in strata if (one := _over_choices(*stratum, rng, permutations))]
    most = max((len(one["energy"][0]) for one in found), default=0)
    least = least_p(compared_sizes(strata), permutations)
    return {
        name: _found(
            np.sum([np.resize(one[name][0], most) for one in found], axis=0),
            np.sum([one[name][1] for one in found], axis=0),
            least,
        )
        for name in (found[0] if found else ())
    }


def compared_sizes(strata: Sequence[Stratum]) -> list[tuple[int, int]]:
    """Return how many runs of the method and of the reference are compared at a time, for each set."""
    return [(len(choices(starts, np.shape(ours)[0])[0]), np.shape(theirs)[0]) for ours, theirs, starts in strata]


def choices(originals_U: npt.ArrayLike | None, runs: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows that are compared with the reference at a time: all, or one of each of 4 originals or more.

    >>> [one.tolist() for one in choices([0, 1, 2, 3, 0, 1], 6)]
    [[0, 1, 2, 3], [4, 5, 2, 3]]

    """
    of_R = np.arange(runs) if originals_U is None else np.asarray(originals_U)
    rows = [np.flatnonzero(of_R == one) for one in np.unique(of_R)]
    if not LEAST_ORIGINALS <= len(rows) < runs:
        return [np.arange(runs)]
    most = min(CHOICES, max(map(len, rows)))
    return [np.array([mine[choice % len(mine)] for mine in rows]) for choice in range(most)]


def _over_choices(
    unlearned_UE: npt.ArrayLike,
    retrained_RE: npt.ArrayLike,
    originals_U: npt.ArrayLike | None,
    rng: np.random.Generator,
    permutations: int,
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return both statistics, [choices], and those of the divisions of all choices together; none without spread."""
    phi_UE = np.asarray(unlearned_UE)
    rows = choices(originals_U, len(phi_UE))
    drawn = [len(some) for some in np.array_split(np.arange(permutations), len(rows))]
    each = [_statistics(phi_UE[one], retrained_RE, rng, many) for one, many in zip(rows, drawn, strict=True)]
    names = next((list(one) for one in each if one), [])
    of_choices = {name: [one.get(name, np.zeros(1 + n)) for one, n in zip(each, drawn, strict=True)] for name in names}
    return {
        name: (np.array([one[0] for one in found]), np.concatenate([one[1:] for one in found]))
        for name, found in of_choices.items()
    }


def _statistics(
    unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike, rng: np.random.Generator, permutations: int
) -> dict[str, FloatArray]:
    """Return both statistics of the true division and of those drawn, [1 + permutations] each; none without spread."""
    unlearned_UE, retrained_RE = compared(unlearned_UE, retrained_RE, at_least=LEAST_RUNS)
    all_NE = np.concatenate([unlearned_UE, retrained_RE])
    differs_E = np.ptp(all_NE, axis=0) > 0
    if not differs_E.any():
        return {}
    z_NE = all_NE[:, differs_E]
    z_NE = (z_NE - z_NE.mean(axis=0)) / z_NE.std(axis=0)
    runs, ours = len(z_NE), len(unlearned_UE)
    first_BN = np.zeros((permutations + 1, runs))
    first_BN[0, :ours] = 1  # the true division
    places = rng.permuted(np.broadcast_to(np.arange(runs), (permutations, runs)), axis=1)[:, :ours]
    np.put_along_axis(first_BN[1:], places, 1.0, axis=1)
    blocks = [first_BN[start : start + _BLOCK] for start in range(0, permutations + 1, _BLOCK)]
    distances_NN = _distances(z_NE)
    return {
        "energy": np.concatenate([_energy(block, distances_NN) for block in blocks]),
        "log_variance": np.concatenate([_log_variance(block, z_NE, z_NE**2) for block in blocks]),
    }


def _found(true_C: FloatArray, drawn_B: FloatArray, least: float) -> Found:
    """Return p of the choices' statistics among those of divisions; equal ones, up to rounding, count as large.

    Args:
        true_C: statistics of the choices.
        drawn_B: those of the divisions of all choices.
        least: smallest p that one choice can have: the largest of its own divisions may be larger than all others'.

    """
    larger_C = (drawn_B >= (true_C - 1e-9 * np.abs(true_C))[:, None]).sum(axis=1)
    p = combined((1 + larger_C) / (1 + len(drawn_B)))
    return Found(statistic=float(true_C.mean()), p=p if len(true_C) == 1 else max(least, p))


def combined(p_C: npt.ArrayLike) -> float:
    """Return one p for several of the same question, by the Cauchy combination; a p of 1 counts as 0.9999.

    >>> round(combined([0.02, 0.0004, 0.2, 0.1, 0.8]), 6)
    0.001953

    """
    p_C = np.atleast_1d(np.asarray(p_C, dtype=np.float64))
    if len(p_C) == 1:
        return float(p_C[0])
    return float(0.5 - np.arctan(np.tan((0.5 - np.minimum(p_C, 0.9999)) * np.pi).mean()) / np.pi)


def _distances(z_NE: FloatArray) -> FloatArray:
    """Return Euclidean distances between runs, [N, N]."""
    square_N = (z_NE**2).sum(axis=1)
    squares_NN = square_N[:, None] + square_N[None, :] - 2 * z_NE @ z_NE.T
    np.fill_diagonal(squares_NN, 0)
    return np.asarray(np.sqrt(np.maximum(squares_NN, 0)))


def _energy(first_BN: FloatArray, distances_NN: FloatArray) -> FloatArray:
    """Return the energy distance of each division, [B]; means within a group include a run's distance 0 to itself."""
    second_BN = 1 - first_BN
    ours, theirs = first_BN[0].sum(), second_BN[0].sum()
    to_first_BN, to_second_BN = first_BN @ distances_NN, second_BN @ distances_NN
    across = (to_first_BN * second_BN).sum(axis=1) / (ours * theirs)
    within = (to_first_BN * first_BN).sum(axis=1) / ours**2 + (to_second_BN * second_BN).sum(axis=1) / theirs**2
    return np.asarray(2 * across - within)


def _log_variance(first_BN: FloatArray, z_NE: FloatArray, squares_NE: FloatArray) -> FloatArray:
    """Return the mean squared log ratio of variances (ddof 1) of each division, [B]; z has variance 1 over all runs."""
    logs = []
    for group_BN in (first_BN, 1 - first_BN):
        size = group_BN[0].sum()
        sum_BE, square_BE = group_BN @ z_NE, group_BN @ squares_NE
        logs.append(np.log(np.maximum((square_BE - sum_BE**2 / size) / (size - 1), _FLOOR)))
    return np.asarray(((logs[0] - logs[1]) ** 2).mean(axis=1))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return p values adjusted for being several: those at most 0.05 keep the chance of any false one at 5 %."""
    adjusted, running = dict[Key, float](), 0.0
    for place, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - place) * p))
        adjusted[key] = running
    return adjusted

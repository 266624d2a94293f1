"""Random halves of populations: the one source of intervals, nulls, and values at the null's N.

    settings = Settings(mode="parity", resamples=100, seed=0)
    halves = settings.halves("retrained", 128, 64)               # [(rows, other rows), ...], disjoint
    found_K = values_on(unlearned, reference, pairs, "parity", alone)["score"]
    low, high = interval("score", value, found_K)                # 95 %

The bootstrap used here takes half of the runs without replacement (half-sampling; Shao and Wu, Annals of Statistics
1989, call it the delete-d jackknife): the variance of a number at N / 2 under that draw, (1 - 1/2) sigma^2 / (N / 2),
is its variance at N. The usual bootstrap repeats runs, and repeated runs bias both a maximum over intervals and a
leave-one-out fit; CHANGELOG.md has the figures.

Does not cover: which numbers there are (`comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_unlearn.evaluation.comparison import PerRun, compare
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.measures.measure import Mode, Pair
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.seeds import Seeds

Rows = np.ndarray
"""int64, sorted positions on the run axis."""

_NORMAL_975 = 1.959963984540054
_GROWTH_FROM = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What changes an evaluation's numbers, besides the outputs."""

    mode: Mode
    resamples: int
    """Halvings."""
    seed: int
    """The study's; every draw comes from it."""
    growth_draws: int = 5
    """Subsets per size of the growth curve."""

    def rng(self, purpose: str, population: str = "") -> np.random.Generator:
        """Return the stream of one draw."""
        return Seeds(study=self.seed, population=population).numpy(f"evaluation-{purpose}")

    def attack_rng(self) -> np.random.Generator:
        """Return the generator that chooses the images of an attack that takes a subset; the same each time."""
        return self.rng("attack-subsets")

    def halves(self, population: str, runs: int, size: int) -> list[tuple[Rows, Rows]]:
        """Return disjoint pairs of `size` rows out of `runs`, the second shorter where there are not enough.

        They depend on the population's name and the sizes alone: every method meets the same halves of the reference.
        """
        if size < LEAST_TO_SCORE:  # an interval or a null of F would say nothing
            return []
        rng = self.rng(f"halves-{runs}-{size}", population)
        orders = [rng.permutation(runs) for _ in range(self.resamples)]
        return [(np.sort(order[:size]), np.sort(order[size : 2 * size])) for order in orders]


def values_on(
    unlearned: Outputs, reference: Outputs, pairs: Sequence[tuple[Rows, Rows]], mode: Mode, alone: PerRun
) -> dict[str, np.ndarray]:
    """Return every measure on each pair (rows of the one, rows of the other), float64 [K]."""
    found = [
        compare(Pair(unlearned.take(ours), reference.take(theirs), mode, {name: v[ours] for name, v in alone.items()}))
        for ours, theirs in pairs
    ]
    names = [name for name in MEASURES if found and all(name in values for values in found)]
    return {name: np.array([values[name] for values in found]) for name in names}


def interval(name: str, value: float, found_K: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a measure from its values on halves, cut where the measure ends.

    Recentred normal quantiles, not percentiles: many measures change with N, so that the values on halves lie around
    another number than `value`.
    """
    margin, upper = _NORMAL_975 * float(np.std(found_K, ddof=1)), MEASURES[name].upper
    low, high = max(0.0, value - margin), value + margin
    return low, high if upper is None else max(value, min(upper, high))


def growth_sizes(largest: int) -> list[int]:
    """Return 8, 16, 32, ... up to `largest`.

    >>> growth_sizes(64)
    [8, 16, 32, 64]
    """
    return [_GROWTH_FROM * 2**k for k in range(int(math.log2(largest / _GROWTH_FROM)) + 1)] if largest >= 8 else []

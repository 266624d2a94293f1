"""Random subsets of populations: the one source of intervals, nulls, and values at the null's N.

    settings = Settings(mode="parity", resamples=100, seed=0)
    halves = settings.halves("retrained", 128, 64)               # [(rows, other rows), ...], disjoint
    draws = values_on(unlearned, reference, pairs, settings, alone)
    draws.values["score"]                                        # float64 [K]

Subsets are drawn without replacement. The usual bootstrap repeats runs, and repeated runs bias both a maximum over
intervals and a leave-one-out fit; CHANGELOG.md has the figures. Nulls come from disjoint halves of the reference;
intervals (`intervals`) from subsets of 13/16 of the runs of both sides.

Does not cover: which numbers there are (`measures`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from ray_unlearn.evaluation.common_shift import CommonShift
from ray_unlearn.evaluation.comparison import PerRun, Values, compare
from ray_unlearn.evaluation.measures import MEASURES, TOGETHER
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE, points_of, quality_of
from ray_unlearn.evaluation.measures.measure import Mode, Pair
from ray_unlearn.evaluation.moved import Moved
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.seeds import Seeds

T = TypeVar("T")
R = TypeVar("R")
Rows = np.ndarray
"""int64, sorted positions on the run axis."""

LEFT_OUT = 3 / 16
"""Share of the runs that a subset leaves out for intervals; `intervals` explains why so few."""
LEAST_ORIGINALS = 4
"""Least number of originals for an interval over originals too; with fewer, it is conditional on these originals."""
_GROWTH_FROM = 8
_TOGETHER = 100
"""Subsets that are computed together at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings that change an evaluation's numbers, in addition to the outputs."""

    mode: Mode
    resamples: int
    """Subsets drawn for an interval, and halvings for a null."""
    seed: int
    """The study's; every draw comes from it."""
    growth_draws: int = 5
    """Subsets per size of the growth curve."""

    def rng(self, purpose: str, population: str = "") -> np.random.Generator:
        """Return the stream of one draw."""
        return Seeds(study=self.seed, population=population).numpy(f"evaluation-{purpose}")

    def attack_rng(self) -> np.random.Generator:
        """Return the generator that chooses the images of an attack that takes a part of them; the same each time."""
        return self.rng("attack-subsets")

    def halves(self, population: str, runs: int, size: int) -> list[tuple[Rows, Rows]]:
        """Return disjoint pairs of `size` rows out of `runs`, the second shorter where there are not enough.

        They depend on the population's name and the sizes alone: every method meets the same halves of the reference.
        """
        if size < LEAST_TO_SCORE:  # an interval or a null of F would have no meaning
            return []
        rng = self.rng(f"halves-{runs}-{size}", population)
        orders = [rng.permutation(runs) for _ in range(self.resamples)]
        return [(np.sort(order[:size]), np.sort(order[size : 2 * size])) for order in orders]

    def blocks(self, population: str, block_R: np.ndarray, names: np.ndarray, left_out: int) -> list[Rows]:
        """Return the rows outside of `left_out` blocks that are drawn at random, once per subset.

        Args:
            population: whose runs they are; with the sizes, it decides the draws.
            block_R: which block each run belongs to: itself, or the runs of one original.
            names: all blocks, in order, also those that these runs have none of.
            left_out: blocks that a subset lacks, fewer than there are.

        """
        rng = self.rng(f"blocks-{len(block_R)}-{len(names)}-{left_out}", population)
        chosen = (names[rng.permutation(len(names))[left_out:]] for _ in range(self.resamples))
        return [np.flatnonzero(np.isin(block_R, kept)) for kept in chosen]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Every measure on K subsets of two populations."""

    values: dict[str, FloatArray]
    """[K] by the name of the measure."""
    points_KE: FloatArray
    """Points of each forget image, whose mean is F; [0, 0] where F is not computed."""
    points_E: FloatArray = field(default_factory=lambda: np.empty(0))
    """The same of all runs; empty where they are not known."""
    halves: dict[str, FloatArray] = field(default_factory=dict)
    """[K, 2] by measure, of those that state it: values on two halves of the images; this and what follows are for
    intervals, and empty where none is made."""
    shift: CommonShift | None = None
    """The shift that the images of all runs have in common, for the ends of F's interval; None where they need none."""
    moved: Mapping[str, Moved] = field(default_factory=dict)
    """The same for the ends of other intervals, by measure."""
    first: Pair | None = None
    """The first of the pairs, with what was computed of it; None without any."""


def values_on(
    unlearned: Outputs,
    reference: Outputs,
    pairs: Sequence[tuple[Rows, Rows]],
    settings: Settings,
    alone: PerRun,
    whole: Pair | None = None,
    threads: int = 1,
) -> Draws:
    """Return every measure on each pair (rows of the one, rows of the other).

    Of few runs the same rows are drawn several times, and computed once.

    Args:
        unlearned: the population.
        reference: retrained models, or the other half of them.
        pairs: rows of both.
        settings: the mode, and the generator of attacks.
        alone: values [R] of the population's runs, of measures that look at one model at a time.
        whole: all runs, whose images' values intervals take; None where no interval follows.
        threads: how many pairs are computed at once; no number depends on it.

    """

    def pair_of(rows: tuple[Rows, Rows]) -> Pair:
        taken = {name: values_R[rows[0]] for name, values_R in alone.items()}
        sides = unlearned.take(rows[0]), reference.take(rows[1])
        return Pair(*sides, settings.mode, settings.attack_rng, taken)

    different = {_key(*rows): rows for rows in pairs}
    first = pair_of(pairs[0]) if pairs else None
    first_key = _key(*pairs[0]) if pairs else None

    def of_some(keys: Sequence[tuple[bytes, bytes]]) -> list[_OnRows]:
        some = [first if first and key == first_key else pair_of(different[key]) for key in keys]
        for compute, together in TOGETHER.items():
            for pair, value in zip(some, together(some) or (), strict=False):
                pair.knows(compute, value)
        some.reverse()  # a pair's arrays go when it is done
        return [_on_rows(some.pop(), whole is not None) for _ in keys]

    keys, size = list(different), min(_TOGETHER, -(-len(different) // threads))
    computed = in_order(of_some, [keys[start : start + size] for start in range(0, len(keys), size or 1)], threads)
    known = dict(zip(different, chain.from_iterable(computed), strict=True))
    found = [known[_key(*rows)] for rows in pairs]
    names, halved = _of_all([one.values for one in found]), _of_all([one.halves for one in found])
    scored = "forgetting_quality" in names
    return Draws(
        values={name: np.array([one.values[name] for one in found]) for name in names},
        points_KE=np.stack([one.points_E for one in found]) if scored else np.empty((0, 0)),
        points_E=whole.once(quality_of).points_E if whole and scored else np.empty(0),
        halves={name: np.array([one.halves[name] for one in found]) for name in halved},
        first=first,
    )


def in_order(compute: Callable[[T], R], values: Sequence[T], threads: int) -> list[R]:
    """Return what a function makes of each value, in order; NumPy and compiled loops let other threads go on."""
    if threads == 1:
        return [compute(value) for value in values]
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(compute, values))
    finally:
        pool.shutdown(cancel_futures=True)


class _OnRows(NamedTuple):
    """What some runs of both sides give."""

    values: Values
    points_E: FloatArray
    halves: dict[str, tuple[float, float]]


def _on_rows(pair: Pair, for_interval: bool) -> _OnRows:
    """Return all measures, and what intervals take of them besides, where one follows."""
    values = compare(pair)
    measured = values if for_interval else ()
    halves = {
        name: both for name in measured if (of := MEASURES[name].halves) is not None and (both := of(pair)) is not None
    }
    points_E = pair.once(points_of) if "forgetting_quality" in values else np.empty(0)
    return _OnRows(values, points_E, halves)


def _of_all(found: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the measures that all have, in the order of tables."""
    return [name for name in MEASURES if found and all(name in one for one in found)]


def _key(ours: Rows, theirs: Rows) -> tuple[bytes, bytes]:
    return ours.tobytes(), theirs.tobytes()


def growth_sizes(largest: int) -> list[int]:
    """Return 8, 16, 32, ... up to `largest`.

    >>> growth_sizes(64)
    [8, 16, 32, 64]
    """
    return [_GROWTH_FROM * 2**k for k in range(int(math.log2(largest / _GROWTH_FROM)) + 1)] if largest >= 8 else []

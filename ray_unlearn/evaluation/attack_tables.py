"""Tables for the attacks on one example: a table of all epsilons, and cumulative counts that index it.

    tables = attack_tables(num_retrained, num_unlearned)            # made once, kept
    pooled = PooledCounts.of(unlearned_N, retrained_N)              # both sorted
    largest(tables.retrained, pooled.up_to(right) - pooled.below(left))   # the best of the intervals [left, right]

An attack is a region of the line: models whose phi falls inside are called retrained (or unlearned). Its epsilon is
max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR)) and depends on two counts only, the models of either
kind inside. The flat index of two counts is linear, so that of an interval is the difference of its ends', and no
attack is ever compared with a sample.

Legend: N runs, V distinct pooled values.

Does not cover: which attacks are tried (`epsilon.py`: all; `parity.py`: the official grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DELTA = 1e-5
"""Delta of the (epsilon, delta) definition; the challenge's value."""

Floats = NDArray[np.float64]
Indexes = NDArray[np.intp]
Table = NDArray[np.float32]


class AttackTables(NamedTuple):
    """Epsilon by the counts inside: flat index retrained x (N_unlearned + 1) + unlearned; float32."""

    retrained: Table
    """Table of the attacks "inside means retrained"."""
    unlearned: Table
    """Table of the attacks "inside means unlearned"."""
    either: Table
    """Larger entry of both tables."""


@lru_cache(maxsize=2)
def attack_tables(num_retrained: int, num_unlearned: int) -> AttackTables:
    """Return every attack's epsilon; -inf where it is dropped or undefined, +inf where it makes no error."""
    retrained = _attacks(num_retrained, num_unlearned)
    unlearned = _attacks(num_unlearned, num_retrained).T
    tables = AttackTables(retrained.ravel(), unlearned.ravel(), np.maximum(retrained, unlearned).ravel())
    for table in tables:
        table.setflags(write=False)
    return tables


def _attacks(num_positive: int, num_negative: int) -> Table:
    """Return epsilon [positives inside, negatives inside], float32, for "inside means positive".

    An attack with exactly one error that it never makes is dropped; with none of both, log 0 makes it +inf.
    """
    fnr = (np.arange(num_positive, -1, -1) / num_positive).astype(np.float32)[:, None]
    fpr = (np.arange(num_negative + 1) / num_negative).astype(np.float32)[None, :]
    rest = np.float32(1.0 - DELTA)
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon: Table = np.fmax(_log(rest - fpr) - _log(fnr), _log(rest - fnr) - _log(fpr))
    epsilon[np.isnan(epsilon) | ((fnr == 0) ^ (fpr == 0))] = -np.inf
    return epsilon


def _log(rate: Table) -> Table:
    """Return the float32 nearest to the logarithm; NumPy's own float32 log differs from torch's more often."""
    return np.log(rate.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledCounts:
    """One example's two samples, sorted, pooled and counted."""

    retrained_N: Floats
    unlearned_N: Floats
    values_V: Floats
    """Distinct values of both, ascending."""
    counts: Indexes
    """[V + 1] flat index of the models at or below value v - 1; 0 at 0."""

    @classmethod
    def of(cls, unlearned_N: Floats, retrained_N: Floats) -> PooledCounts:
        """Pool two sorted samples."""
        pooled = np.sort(np.concatenate([retrained_N, unlearned_N]))
        values_V = pooled[np.append(pooled[1:] > pooled[:-1], True)]
        below = np.searchsorted(retrained_N, values_V, "right") * (len(unlearned_N) + 1)
        below += np.searchsorted(unlearned_N, values_V, "right")
        counts = np.concatenate([np.zeros(1, np.intp), below])
        return cls(retrained_N=retrained_N, unlearned_N=unlearned_N, values_V=values_V, counts=counts)

    def below(self, ends: Floats) -> Indexes:
        """Return the flat index of the models strictly below each end."""
        return self.counts[np.searchsorted(self.values_V, ends, "left")]

    def up_to(self, ends: Floats) -> Indexes:
        """Return the flat index of the models at or below each end."""
        return self.counts[np.searchsorted(self.values_V, ends, "right")]


def largest(table: NDArray[np.float32], blocks: Indexes) -> float:
    """Return the largest entry; a negative index is an interval whose ends are crossed: no run inside, entry 0."""
    return float(table.take(blocks, mode="clip").max())

"""Tables for the attacks on one example: epsilon by how many models of either kind are inside.

    tables = attack_tables(num_retrained, num_unlearned)            # made once, kept
    tables.retrained[retrained_inside * (num_unlearned + 1) + unlearned_inside]

An attack is a region of the line: models whose phi falls inside are called retrained (or unlearned). Its epsilon is
max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR)) and depends on two counts only, the models of either
kind inside. The flat index of two counts is linear, so that of an interval is the difference of its ends', and no
attack is ever compared with a sample.

Legend: N runs.

Does not cover: which attacks are tried (`epsilon.py`: all; `parity.py`: the official grid).
"""

from __future__ import annotations

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
    """Epsilon by the counts inside: flat index retrained x (num_unlearned + 1) + unlearned; float32."""

    flat: Table
    """Both tables, one after the other."""
    either: Table
    """Larger entry of both tables."""
    num_retrained: int
    num_unlearned: int

    @property
    def retrained(self) -> Table:
        """Table of the attacks "inside means retrained"."""
        return self.flat[: len(self.flat) // 2]

    @property
    def unlearned(self) -> Table:
        """Table of the attacks "inside means unlearned"."""
        return self.flat[len(self.flat) // 2 :]


@lru_cache(maxsize=2)
def attack_tables(num_retrained: int, num_unlearned: int) -> AttackTables:
    """Return every attack's epsilon; -inf where it is dropped or undefined, +inf where it makes no error."""
    retrained = _attacks(num_retrained, num_unlearned)
    unlearned = _attacks(num_unlearned, num_retrained).T
    flat, either = np.concatenate([retrained.ravel(), unlearned.ravel()]), np.maximum(retrained, unlearned).ravel()
    for table in (flat, either):
        table.setflags(write=False)
    return AttackTables(flat, either, num_retrained, num_unlearned)


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

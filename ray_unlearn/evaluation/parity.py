"""The official evaluator's attacks on one example: a grid of single thresholds, and 160,000 intervals.

    parity_epsilon(pooled, attack_tables(n, n))       # -inf: every attack dropped

The ends are the evaluator's to the last bit, and so are the counts, but most of the 160,000 left ends are not looked
up one by one: they are on 799 diagonals.

Legend: N runs, V distinct pooled values, I x J the grid of right x left ends, D = i + j its diagonals.

Does not cover: the guard, the cap, unequal N (`epsilon.py`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ray_unlearn.evaluation.attack_tables import AttackTables, Floats, Indexes, PooledCounts, Table, largest

THRESHOLDS_PER_UNIT = 100
BUFFER = 2.0
"""Distance that interval ends reach around the narrower sample's upper and lower end, in phi."""
NUM_LEFT = 400


def parity_epsilon(pooled: PooledCounts, tables: AttackTables) -> float:
    """Return the largest epsilon over the official grids of thresholds and intervals."""
    retrained_N, unlearned_N = pooled.retrained_N, pooled.unlearned_N
    if np.median(retrained_N) > np.median(unlearned_N):
        positive, negative = tables.retrained, tables.unlearned
        positive_N, negative_N = retrained_N, unlearned_N
    else:
        positive, negative = tables.unlearned, tables.retrained
        positive_N, negative_N = unlearned_N, retrained_N
    single = largest(positive, pooled.counts[-1] - pooled.below(_thresholds(pooled.values_V)))
    if positive_N[-1] - positive_N[0] < negative_N[-1] - negative_N[0]:
        return max(single, _intervals(pooled, positive, positive_N))
    return max(single, _intervals(pooled, negative, negative_N))


def _thresholds(values_V: Floats) -> Floats:
    """Return the official grid from the smallest to the largest value, which torch.linspace makes in float32.

    Each half is counted from its own end, with one rounding per place (a fused multiply-add, as torch has on x86-64
    with AVX2; elsewhere its last bits may differ).
    """
    num = math.ceil((values_V[-1] - values_V[0]) * THRESHOLDS_PER_UNIT)
    start, end = np.float32(values_V[0]), np.float32(values_V[-1])
    step = float((end - start) / np.float32(max(num - 1, 1)))
    place = np.arange(num)
    grid = np.where(place < max(num // 2, 1), start + step * place, end - step * (num - 1 - place))
    return grid.astype(np.float32).astype(np.float64)


def _intervals(pooled: PooledCounts, table: Table, peaky_N: Floats) -> float:
    """Return the largest epsilon over the official intervals, which follow the narrower sample's ends.

    There are 400 x 400, or 401 x 400 where rounding makes the 4 units between the outer right ends longer; those take
    ten times as long (3 ms at N = 512; 6 to 22 % of examples), because their left ends are on no diagonals.
    """
    width = peaky_N[-1] - peaky_N[0]
    low, high = (peaky_N[0] + width) - BUFFER, peaky_N[-1] + BUFFER
    right_I = np.linspace(low, high, math.ceil((high - low) * THRESHOLDS_PER_UNIT))
    start_I, stop_I = (right_I - width) - BUFFER, (right_I - width) + BUFFER
    inside_I = pooled.up_to(right_I)
    if len(right_I) == NUM_LEFT:
        return _diagonals(pooled, table, start_I, stop_I, inside_I)
    left_IJ = np.linspace(start_I, stop_I, NUM_LEFT, axis=-1)
    return largest(table, inside_I[:, None] - pooled.below(left_IJ))


def _diagonals(pooled: PooledCounts, table: Table, start_I: Floats, stop_I: Floats, inside_I: Indexes) -> float:
    """Return the same as all 400 x 400 left ends would, from 799 of them.

    Right ends step by 4/399, and so do left ends: end (i, j) is at diagonal i + j, up to rounding. Where a value is
    so near that rounding may decide (the narrower sample's minimum always is, at i + j = 399), the ends themselves are
    asked.
    """
    diagonal_D = start_I[0] + np.arange(2 * NUM_LEFT - 1) * (2 * BUFFER / (NUM_LEFT - 1))
    place_D = np.searchsorted(pooled.values_V, diagonal_D)
    fence = np.concatenate([[-np.inf], pooled.values_V, [np.inf]])
    distance_D = np.minimum(diagonal_D - fence[place_D], fence[place_D + 1] - diagonal_D)
    near_D = distance_D < 1e-9 * max(1.0, abs(start_I[0]), abs(stop_I[-1]))
    counts_D = pooled.counts[place_D]
    counts_D[near_D] = len(table)  # left out: more than any count, so the interval is empty
    blocks_IJ = inside_I[:, None] - sliding_window_view(counts_D, NUM_LEFT)
    return max(largest(table, blocks_IJ), _near(pooled, table, start_I, stop_I, inside_I, np.flatnonzero(near_D)))


def _near(
    pooled: PooledCounts, table: Table, start_I: Floats, stop_I: Floats, inside_I: Indexes, diagonals: Indexes
) -> float:
    """Return the largest epsilon over the intervals of some diagonals, each left end as it is."""
    last = NUM_LEFT - 1
    column, row = np.divmod(np.arange(len(diagonals) * NUM_LEFT), NUM_LEFT)
    column = diagonals[column] - row
    row, column = row[(column >= 0) & (column <= last)], column[(column >= 0) & (column <= last)]
    left = _left_ends(start_I[row], stop_I[row], column)
    return largest(table, np.append(inside_I[row] - pooled.below(left), 0))


def _left_ends(start: Floats, stop: Floats, column: Indexes) -> Floats:
    """Return np.linspace(start, stop, 400)[column] for each of many starts, to the bit."""
    last = NUM_LEFT - 1
    return np.where(column == last, stop, column * ((stop - start) / last) + start)

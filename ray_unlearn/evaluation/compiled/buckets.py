"""Compiled: the bucket of epsilon of each image on many subsets of the same runs, by the official grids.

    bins_KE = buckets(together(pairs, "forget"), 416, 14, 0.5)   # 416 runs a side; 0: not found here

A bucket takes no largest epsilon, only whether any attack reaches its edge: a linear condition on the models inside
(`compiled.search`). Subsets of an image share most of the work. All runs are sorted once; the models of a subset below
each place are a running sum of weights; and interval ends depend on the smallest and largest run of the narrower side
alone, which many subsets have in common.

Needs Numba, which the extra `fast` installs. Does not cover: epsilon itself (`compiled.parity`), and images of which no
attack reaches the first edge, where all may be dropped.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ray_unlearn.evaluation.attack_tables import Floats, Indexes, Table, attack_tables
from ray_unlearn.evaluation.compiled.parity import Line, beside, falling, has_threshold, left_end, right_ends, slack
from ray_unlearn.evaluation.compiled.search import ROUNDING, Room, add, by_positives, compiled, new_room, weights_of
from ray_unlearn.evaluation.epsilon import guarded
from ray_unlearn.evaluation.ordered import Ordered
from ray_unlearn.evaluation.parity import NUM_LEFT, Grid, Rules, Thresholds
from ray_unlearn.evaluation.together import Together

_RIGHTS = NUM_LEFT + 1
UNLEARNED = 1
RETRAINED = 1 << 16
"""What a run adds to the running sum; both counts are in one number."""


def buckets(found: Together, size: int, last: int, width: float) -> Indexes:
    """Return the bucket of each image on each subset, [K, E], `last` + 1 beyond the last that scores; 0: not found.

    Args:
        found: subsets of `size` runs of both sides.
        size: runs of a side.
        last: number of buckets that score.
        width: of a bucket.

    """
    unlearned, reference = found.unlearned.ordered, found.reference.ordered
    ends = [
        summaries(side, member_KN, size)
        for side, member_KN in ((unlearned, found.member_KU), (reference, found.member_KR))
    ]
    rules = Rules.of(*ends)  # of four runs that have the same ends and median
    sides_2E = np.where(np.stack([rules.retrained_above_E, rules.retrained_inside_E]), 0, 1)
    weight_KV = np.concatenate([RETRAINED * found.member_KR, UNLEARNED * found.member_KU], axis=1)
    tables = by_positives(attack_tables(size, size))
    bins_KE = bins_of(
        reference, unlearned, weight_KV, sides_2E, rules.thresholds, rules.grid, size, tables, last, width
    )
    bins_KE[guarded(*ends).reshape(bins_KE.shape)] = last + 1
    return bins_KE


class Ends(NamedTuple):
    """Interval ends of an image that several subsets share, and what one subset has below them.

    Two arrays, because each array of a tuple is counted at every call of a compiled function.
    """

    whole: Indexes
    """Of left ends: runs below, first and last right end that each may have, and the two windows that cover these. Of
    right ends: runs below. Left and right end that were best on another subset, -1 where none is known. The largest
    power of 2 up to 0 (as of 1), 1, 2, ..."""
    real: Floats
    """Of a subset: positives and negatives below each left and below each right end; largest sum of each left end;
    largest sum of 1, 2, 4, ... right ends from each on."""


PLACE_L, LOW_L, HIGH_L, FIRST_L, SECOND_L, PLACE_R, BEST, LEVEL = range(8)
P_LEFT, N_LEFT, P_RIGHT, N_RIGHT, SUM_L, WINDOW = range(6)


@compiled
def _new_ends(lefts: int) -> Ends:
    """Return memory for so many left ends."""
    whole = np.zeros((8, lefts), np.int64)
    for length in range(2, _RIGHTS + 1):
        whole[LEVEL, length] = whole[LEVEL, length >> 1] + 1
    return Ends(whole, np.empty((6, max(lefts, 10 * _RIGHTS))))


@compiled
def _merge(retrained: Ordered, unlearned: Ordered, image: int, room: Room, run_V: Indexes) -> None:
    """Merge all runs of both sides, in order; unlearned runs are numbered after the retrained ones."""
    ours_N, theirs_N = unlearned.values_EN[image], retrained.values_EN[image]
    r, u = 0, 0
    while r + u < len(run_V):
        if u == len(ours_N) or (r < len(theirs_N) and theirs_N[r] <= ours_N[u]):
            room.values_V[r + u], run_V[r + u] = theirs_N[r], retrained.run_EN[image, r]
            r += 1
        else:
            room.values_V[r + u], run_V[r + u] = ours_N[u], len(theirs_N) + unlearned.run_EN[image, u]
            u += 1


@compiled
def _one_by_one(room: Room, line: Line, pieces: int, diagonal: int, places: tuple[int, int], place_I: Indexes) -> int:
    """Add the left ends of a diagonal that rounding puts at one of these places or another."""
    low, high = max(0, diagonal - NUM_LEFT + 1), min(line.steps - 1, diagonal)
    for i in range(low, high + 1):
        end, place = left_end(line, i, diagonal - i), places[1]
        while place > places[0] and room.values_V[place - 1] >= end:
            place -= 1
        place_I[i] = place
    for place in range(places[0], places[1] + 1):
        for i in range(low, high + 1):
            if place_I[i] == place and pieces < room.piece_3L.shape[1]:
                pieces = add(room.piece_3L, pieces, place, room.right_3R[2, i], room.right_3R[2, i])
    return pieces


@compiled
def _share(room: Room, line: Line, ends: Ends, place_I: Indexes) -> tuple[int, int]:
    """Find all interval ends among all runs; return how many left and right ends, 0 where there is no room.

    As `parity._best_interval`; side 0 of the counts is places here.
    """
    rights, pieces, first, upto, values_V = right_ends(room, line, 0), 0, 0, 0, room.values_V
    near, fall = slack(line, values_V)
    diagonal = 0
    while diagonal < NUM_LEFT + line.steps - 1:
        following, low, high, first, upto = beside(line, values_V, near, fall, diagonal, first, upto)
        if pieces + 2 * NUM_LEFT > ends.whole.shape[1]:
            return 0, 0
        if first == upto:
            pieces = add(room.piece_3L, pieces, first, room.right_3R[2, low], room.right_3R[2, high])
        elif fall > 0:
            pieces = falling(room, line, pieces, diagonal, (first, upto), fall)
        else:
            pieces = _one_by_one(room, line, pieces, diagonal, (first, upto), place_I)
        diagonal = following
    if pieces >= ends.whole.shape[1]:
        return 0, 0
    for right in range(rights):
        ends.whole[PLACE_R, right] = room.right_3R[0, right]
    for left in range(pieces):
        low, high = room.piece_3L[1, left], room.piece_3L[2, left]
        level = ends.whole[LEVEL, high - low + 1]
        ends.whole[PLACE_L, left], ends.whole[LOW_L, left], ends.whole[HIGH_L, left] = room.piece_3L[0, left], low, high
        ends.whole[FIRST_L, left] = level * _RIGHTS + low
        ends.whole[SECOND_L, left] = level * _RIGHTS + high + 1 - (1 << level)
    return pieces, rights


@compiled
def _by_interval(ends: Ends, lefts: int, rights: int, sizes: tuple[int, int], edge: float, table_PN: Table) -> float:
    """Return the epsilon of an interval where it reaches an edge, else -inf."""
    window_W, sum_L = ends.real[WINDOW], ends.real[SUM_L]
    for way in range(2):
        positive, negative, begin = weights_of(way, math.exp(edge), sizes)
        for right in range(rights):
            window_W[right] = positive * ends.real[P_RIGHT, right] - negative * ends.real[N_RIGHT, right]
        level, width = 1, 2
        while width <= rights:
            half, shorter_R, longer_R = width >> 1, window_W[(level - 1) * _RIGHTS :], window_W[level * _RIGHTS :]
            for right in range(rights - width + 1):
                longer_R[right] = max(shorter_R[right], shorter_R[right + half])
            level, width = level + 1, width << 1
        hits = 0
        for left in range(lefts):
            largest = max(window_W[ends.whole[FIRST_L, left]], window_W[ends.whole[SECOND_L, left]])
            sum_L[left] = begin + largest - (positive * ends.real[P_LEFT, left] - negative * ends.real[N_LEFT, left])
            hits += int(sum_L[left] > -ROUNDING)
        for left in range(lefts) if hits else range(0):
            if sum_L[left] > -ROUNDING:
                found = _of_left(ends, left, rights, sizes, (positive, negative, begin), table_PN)
                if found >= edge:
                    return found
    return -np.inf


@compiled
def _of_left(
    ends: Ends, left: int, rights: int, sizes: tuple[int, int], weights: tuple[float, float, float], table_PN: Table
) -> float:
    """Return the largest epsilon of a left end with the right ends that may reach the edge, without dropped attacks."""
    low, high, (positive, negative, begin) = ends.whole[LOW_L, left], ends.whole[HIGH_L, left], weights
    p_left, n_left = ends.real[P_LEFT, left], ends.real[N_LEFT, left]
    low = max(low, _first_above(ends.real[N_RIGHT], rights, n_left))
    if p_left == 0:
        all_from = _first_above(ends.real[P_RIGHT], rights, sizes[0] - 1.0)
        with_all = max(ends.whole[LOW_L, left], all_from)
        if with_all <= high and ends.real[N_RIGHT, with_all] == n_left:
            return np.inf
        high = min(high, all_from - 1)
    if low > high:
        return -np.inf
    level, least = ends.whole[LEVEL, high - low + 1], positive * p_left - negative * n_left - begin - 2 * ROUNDING
    window_W = ends.real[WINDOW]
    if max(window_W[level * _RIGHTS + low], window_W[level * _RIGHTS + high + 1 - (1 << level)]) < least:
        return -np.inf
    best = -np.inf
    for right in range(low, high + 1):
        if window_W[right] >= least:
            found = float(table_PN[int(ends.real[P_RIGHT, right] - p_left), int(ends.real[N_RIGHT, right] - n_left)])
            if found > best:
                best, ends.whole[BEST, 0], ends.whole[BEST, 1] = found, left, right
    return best


@compiled
def _of_best(ends: Ends, table_PN: Table) -> float:
    """Return the epsilon between the ends that were best on another subset."""
    left, right = ends.whole[BEST, 0], ends.whole[BEST, 1]
    p = int(ends.real[P_RIGHT, right] - ends.real[P_LEFT, left])
    return float(table_PN[p, int(ends.real[N_RIGHT, right] - ends.real[N_LEFT, left])])


@compiled
def _first_above(count_R: Floats, rights: int, limit: float) -> int:
    """Return the first right end whose count, which rises, is above a limit."""
    low, high = 0, rights
    while low < high:
        middle = (low + high) >> 1
        if count_R[middle] > limit:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def _by_threshold(
    values_V: Floats, line: Line, count_C: Indexes, positive: int, sizes: tuple[int, int], edge: float, table_PN: Table
) -> float:
    """Return the epsilon of "all at or above a threshold" where it reaches an edge, else -inf."""
    shift, all_p, all_n, hits = 16 * (1 - positive), sizes[0], sizes[1], 0
    other = 16 - shift
    a, b, c = weights_of(0, math.exp(edge), sizes)
    d, e, f = weights_of(1, math.exp(edge), sizes)
    for place in range(len(count_C) - 1):
        p, n = all_p - ((count_C[place] >> shift) & 65535), all_n - ((count_C[place] >> other) & 65535)
        hits += int(((n > 0) == (p < all_p)) & ((c + a * p - b * n > -ROUNDING) | (f + d * p - e * n > -ROUNDING)))
    below = -np.inf
    for place in range(len(count_C) - 1) if hits else range(0):
        if count_C[place + 1] > count_C[place]:
            p, n = all_p - ((count_C[place] >> shift) & 65535), all_n - ((count_C[place] >> other) & 65535)
            found = float(table_PN[p, n])
            if found >= edge and has_threshold(line, below, values_V[place]):
                return found
            below = values_V[place]
    return -np.inf


@compiled
def _bucket(
    values_V: Floats,
    line: Line,
    ends: Ends,
    lefts: int,
    rights: int,
    count_C: Indexes,
    sides: tuple[int, int],
    size: int,
    tables_2PN: tuple[Table, Table],
    last: int,
    width: float,
    guess: int,
) -> int:
    """Return the bucket of a subset, `last` + 1 beyond the last that scores, 0 where none of its edges is reached."""
    shift = 16 * (1 - sides[1])
    for left in range(lefts):
        count = count_C[ends.whole[PLACE_L, left]]
        ends.real[P_LEFT, left], ends.real[N_LEFT, left] = (count >> shift) & 65535, (count >> (16 - shift)) & 65535
    for right in range(rights):
        count = count_C[ends.whole[PLACE_R, right]]
        ends.real[P_RIGHT, right], ends.real[N_RIGHT, right] = (count >> shift) & 65535, (count >> (16 - shift)) & 65535
    reached, missed, edge = 0, last + 1, min(max(guess, 1), last)
    if ends.whole[BEST, 0] >= 0:
        found = _of_best(ends, tables_2PN[sides[1]])
        reached = last if found >= width * last else int(max(found, 0.0) / width)
        edge = reached + 1 if reached else edge
    while missed - reached > 1:
        found = _by_interval(ends, lefts, rights, (size, size), width * edge, tables_2PN[sides[1]])
        if found == -np.inf:
            found = _by_threshold(values_V, line, count_C, sides[0], (size, size), width * edge, tables_2PN[sides[0]])
        if found == -np.inf:
            missed = edge
        else:
            reached = last if found >= width * last else int(found / width)
        edge = missed - 1 if reached == 0 else reached + 1
    return reached + 1 if reached else 0


@compiled
def bins_of(
    retrained: Ordered,
    unlearned: Ordered,
    weight_KV: Indexes,
    sides_2KE: Indexes,
    thresholds: Thresholds,
    grid: Grid,
    size: int,
    tables_2PN: tuple[Table, Table],
    last: int,
    width: float,
) -> Indexes:
    """Return the bucket of each image on each subset, [K, E], `last` + 1 beyond the last that scores; 0: not found.

    Args:
        retrained: all runs.
        unlearned: all runs of the other side.
        weight_KV: what each retrained and then each unlearned run adds to the running sum of a subset.
        sides_2KE: as in `parity.parity_best`, [2, K * E].
        thresholds: grids of each subset and image, [K * E].
        grid: likewise.
        size: runs of a subset on each side.
        tables_2PN: as in `parity.parity_best`.
        last: number of buckets that score.
        width: of a bucket.

    """
    subsets, values = weight_KV.shape
    images = len(retrained.values_EN)
    room, ends = new_room(values, 4 * values + 4 * NUM_LEFT, _RIGHTS), _new_ends(4 * values + 4 * NUM_LEFT)
    room.counts_2C[0] = np.arange(values + 1)
    run_V, count_C, place_I = np.empty(values, np.int64), np.zeros(values + 1, np.int64), np.empty(_RIGHTS, np.int64)
    bins_KE, done_K = np.zeros((subsets, images), np.int64), np.empty(subsets, np.bool_)
    for image in range(images):
        _merge(retrained, unlearned, image, room, run_V)
        done_K[:] = False
        guess = 3
        for first in range(subsets):
            if done_K[first]:
                continue
            line = _line(thresholds, grid, first * images + image)
            ends.whole[BEST, 0] = -1
            lefts, rights = _share(room, line, ends, place_I)
            for k in range(first, subsets):
                at = k * images + image
                if (
                    done_K[k]
                    or grid.low_E[at] != line.low
                    or grid.width_E[at] != line.width
                    or grid.high_E[at] != line.high
                ):
                    continue
                done_K[k] = True
                if lefts == 0:
                    continue
                weight_V, count = weight_KV[k], 0
                for place in range(values):
                    count += weight_V[run_V[place]]
                    count_C[place + 1] = count
                sides = (sides_2KE[0, at], sides_2KE[1, at])
                line_of = _line(thresholds, grid, at)
                found = _bucket(
                    room.values_V, line_of, ends, lefts, rights, count_C, sides, size, tables_2PN, last, width, guess
                )
                bins_KE[k, image] = found
                guess = found if found else guess
    return bins_KE


@compiled
def _line(thresholds: Thresholds, grid: Grid, at: int) -> Line:
    return Line(
        thresholds.start_E[at],
        thresholds.end_E[at],
        thresholds.step_E[at],
        thresholds.num_E[at],
        grid.low_E[at],
        grid.high_E[at],
        grid.width_E[at],
        grid.steps_E[at],
    )


@compiled
def summaries(side: Ordered, member_KN: Indexes, size: int) -> Floats:
    """Return the smallest, both middle ones and the largest of the `size` runs of each subset, [K * E, 4]."""
    subsets, images = len(member_KN), len(side.values_EN)
    found = np.empty((subsets * images, 4))
    for image in range(images):
        for k in range(subsets):
            member_N, middle, upper, seen = member_KN[k], (size - 1) // 2, size // 2, 0
            low, lower, higher, high = 0, 0, 0, 0
            for place in range(len(member_N)):  # without a branch: half of them would be predicted wrongly
                seen += member_N[side.run_EN[image, place]]
                low, high = low + int(seen < 1), high + int(seen < size)
                lower, higher = lower + int(seen <= middle), higher + int(seen <= upper)
            row, values_N = found[k * images + image], side.values_EN[image]
            row[0], row[1], row[2], row[3] = values_N[low], values_N[lower], values_N[higher], values_N[high]
    return found

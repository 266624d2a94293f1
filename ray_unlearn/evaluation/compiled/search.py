"""Compiled: the best of very many intervals, from a few looks at their left ends.

    exact_compiled(unlearned_EN, retrained_EN, tables)           # both sorted; -inf: every attack dropped

Needs Numba, which the extra `fast` installs. The best is found without trying all pairs of ends. With p of P positives
and n of N negatives inside, epsilon is above b if and only if (1 - delta - n / N) > e^b (1 - p / P), or
(1 - delta - (1 - p / P)) > e^b n / N. Both are linear in p and n, so that the best partner of a left end is where the
right end's share of the sum is largest: a maximum over a range of right ends. Raising b to the best interval that was
found, and looking again, ends after three or four rounds (Dinkelbach, On Nonlinear Fractional Programming, 1967).
Attacks with exactly one kind of error are dropped, so that ranges begin with the first right end that has a negative
inside, and end before the first with all positives.

Legend: E images, N runs, V runs of both sides, C = V + 1 places between values, L left and R right ends.

Does not cover: the official grid's ends (`compiled.parity`), the guard, the cap and undecided images (`epsilon`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

from ray_unlearn.evaluation.attack_tables import DELTA, AttackTables, Floats, Indexes, Table

F = TypeVar("F", bound=Callable[..., object])

ROUNDING = 3e-6
"""Most by which the sum of an attack may be below 0 although the table's float32 says that its epsilon is above b.

The table's rates, differences and logarithms are rounded to float32: 1.5e-7 of the sum, and 2e-6 of epsilon.
"""


def compiled(function: F) -> F:
    """Return the function, compiled at its first call and kept in a file; threads may call it at once."""
    return cast(F, njit(cache=True, nogil=True)(function))


class Room(NamedTuple):
    """Memory of one image's search, used again for the next."""

    values_V: Floats
    counts_2C: Indexes
    """Retrained (0) and unlearned (1) models among the first 0, 1, ... V values."""
    piece_3L: Indexes
    """Left ends as they are found: values below, and the first and last right end that they may have."""
    left_4L: Indexes
    """Left ends with an attack that is not dropped: positives and negatives below, first and last right end."""
    right_3R: Indexes
    """Positives and negatives up to each right end, of those that differ in them; which each end of a grid is.

    One array, because each array of a room adds to the time of every image.
    """
    first_N: Indexes
    """First right end that has so many negatives below."""
    window_KR: Floats
    """Largest sum of 1, 2, 4, ... right ends from each on."""
    found_2L: Floats
    """Largest sum of each left end by both logarithms."""


@compiled
def new_room(values: int, lefts: int, rights: int) -> Room:
    """Return memory for so many values, left and right ends."""
    levels = 1 + int(math.log2(rights))
    return Room(
        np.empty(values),
        np.zeros((2, values + 1), np.int64),
        np.empty((3, lefts), np.int64),
        np.empty((4, lefts), np.int64),
        np.empty((3, rights), np.int64),
        np.empty(values + 2, np.int64),
        np.empty((levels, rights)),
        np.empty((2, lefts)),
    )


@compiled
def pool(unlearned_N: Floats, retrained_N: Floats, room: Room) -> None:
    """Merge two sorted samples and count them."""
    r, u, values_V, counts_2C = 0, 0, room.values_V, room.counts_2C
    while r < len(retrained_N) and u < len(unlearned_N):  # without another branch, which would be predicted wrongly
        of_retrained = int(retrained_N[r] <= unlearned_N[u])
        values_V[r + u] = min(retrained_N[r], unlearned_N[u])
        r, u = r + of_retrained, u + 1 - of_retrained
        counts_2C[0, r + u], counts_2C[1, r + u] = r, u
    while r + u < len(values_V):
        of_retrained = int(r < len(retrained_N))
        values_V[r + u] = retrained_N[r] if of_retrained else unlearned_N[u]
        r, u = r + of_retrained, u + 1 - of_retrained
        counts_2C[0, r + u], counts_2C[1, r + u] = r, u


@compiled
def _search(room: Room, lefts: int, rights: int, sizes: tuple[int, int], table_PN: Table, best: float) -> float:
    """Return the best of all left ends with the right ends that they may have, or `best` where that is larger.

    Args:
        room: `left_4L` and `right_3R` are filled.
        lefts: how many left ends there are.
        rights: how many right ends there are.
        sizes: P and N.
        table_PN: epsilon by positives and negatives inside.
        best: what other attacks gave; below 0, results below 0 are -inf or any number up to 0.

    """
    if lefts == 0 or best == np.inf:
        return best
    again, first = True, True
    while again:
        factor, before = math.exp(max(best, 0.0)), best
        many = False
        for way in range(2):
            top, few = _sums(room, lefts, rights, weights_of(way, factor, sizes), room.found_2L[way])
            many |= not few
            limit = room.found_2L[way, top]
            if first or limit > -ROUNDING:
                weights = weights_of(way, factor, sizes)
                best = max(best, _partners(room, top, weights, min(limit, 0.0) - ROUNDING, table_PN))
        again, first = best > before, False
        if many and not again:  # rounding may decide between several
            for way in range(2):
                weights = weights_of(way, factor, sizes)
                for left in range(lefts):
                    if room.found_2L[way, left] > -ROUNDING:
                        best = max(best, _partners(room, left, weights, -ROUNDING, table_PN))
    return best


@compiled
def weights_of(way: int, factor: float, sizes: tuple[int, int]) -> tuple[float, float, float]:
    """Return what each positive and each negative inside add to the sum that is above 0, and what it begins with."""
    if way == 0:
        return factor / sizes[0], 1.0 / sizes[1], 1.0 - DELTA - factor
    return 1.0 / sizes[0], factor / sizes[1], -DELTA


@compiled
def _sums(
    room: Room, lefts: int, rights: int, weights: tuple[float, float, float], found_L: Floats
) -> tuple[int, bool]:
    """Find each left end's largest sum; return which has the largest of all, and whether no other comes near 0."""
    window_KR, (positive, negative, begin) = room.window_KR, weights
    for right in range(rights):
        window_KR[0, right] = positive * room.right_3R[0, right] - negative * room.right_3R[1, right]
    level, width = 1, 2
    while width <= rights:
        half, shorter_R, longer_R = width >> 1, window_KR[level - 1], window_KR[level]
        for right in range(rights - width + 1):
            longer_R[right] = max(shorter_R[right], shorter_R[right + half])
        level, width = level + 1, width << 1
    top, near = 0, 0
    for left in range(lefts):
        low, high = room.left_4L[2, left], room.left_4L[3, left]
        level, length = 0, (high - low + 1) >> 1
        while length:
            level, length = level + 1, length >> 1
        largest = max(window_KR[level, low], window_KR[level, high + 1 - (1 << level)])
        found_L[left] = begin + largest - (positive * room.left_4L[0, left] - negative * room.left_4L[1, left])
        near += found_L[left] > -ROUNDING
        if found_L[left] > found_L[top]:
            top = left
    return top, near <= 1


@compiled
def _partners(room: Room, left: int, weights: tuple[float, float, float], limit: float, table_PN: Table) -> float:
    """Return the largest epsilon of a left end with the right ends whose sum reaches a limit."""
    positives, negatives, low, high = room.left_4L[:, left]
    best = -np.inf
    for right in range(low, high + 1):
        p, n = room.right_3R[0, right] - positives, room.right_3R[1, right] - negatives
        if weights[2] + weights[0] * p - weights[1] * n >= limit:
            best = max(best, float(table_PN[p, n]))
    return best


@compiled
def add(piece_3L: Indexes, pieces: int, place: int, low: int, high: int) -> int:
    """Add right ends that a left end may have; return how many left ends there are then."""
    last = pieces - 1
    if pieces and piece_3L[0, last] == place and piece_3L[1, last] <= high + 1 and low <= piece_3L[2, last] + 1:
        piece_3L[1, last] = min(low, piece_3L[1, last])
        piece_3L[2, last] = max(high, piece_3L[2, last])
        return pieces
    piece_3L[0, pieces], piece_3L[1, pieces], piece_3L[2, pieces] = place, low, high
    return pieces + 1


@compiled
def _kept(room: Room, pieces: int, rights: int, positive: int) -> tuple[int, bool]:
    """Fill `left_4L` without right ends whose attack is dropped; return how many left ends, and if one is perfect."""
    all_p, all_n = room.counts_2C[positive, -1], room.counts_2C[1 - positive, -1]
    all_from, lefts = rights, 0
    while all_from > 0 and room.right_3R[0, all_from - 1] == all_p:
        all_from -= 1
    right = 0
    for negatives in range(all_n + 2):
        while right < rights and room.right_3R[1, right] < negatives:
            right += 1
        room.first_N[negatives] = right
    for piece in range(pieces):
        place, low, high = room.piece_3L[0, piece], room.piece_3L[1, piece], room.piece_3L[2, piece]
        positives, negatives = room.counts_2C[positive, place], room.counts_2C[1 - positive, place]
        if positives == 0:
            with_all = max(low, all_from)
            if with_all <= high and room.right_3R[1, with_all] == negatives:
                return 0, True
            high = min(high, all_from - 1)
        low = max(low, room.first_N[negatives + 1])
        if low <= high:
            room.left_4L[0, lefts], room.left_4L[1, lefts] = positives, negatives
            room.left_4L[2, lefts], room.left_4L[3, lefts] = low, high
            lefts += 1
    return lefts, False


@compiled
def best_of(room: Room, pieces: int, rights: int, positive: int, table_PN: Table, best: float) -> float:
    """Return the best of all left ends that were added, or `best` where that is larger."""
    lefts, perfect = _kept(room, pieces, rights, positive)
    if perfect:
        return np.inf
    sizes = (room.counts_2C[positive, -1], room.counts_2C[1 - positive, -1])
    return _search(room, lefts, rights, sizes, table_PN, best)


@compiled
def _all_blocks(room: Room, positive: int, table_PN: Table, best: float) -> float:
    """Return the best of all intervals between different values, and outside of all."""
    ends, last = 0, len(room.values_V)
    for place in range(last + 1):
        if place in (0, last) or room.values_V[place] > room.values_V[place - 1]:
            room.right_3R[0, ends] = room.counts_2C[positive, place]
            room.right_3R[1, ends] = room.counts_2C[1 - positive, place]
            room.piece_3L[0, ends] = place
            ends += 1
    for end in range(ends - 1):
        room.piece_3L[1, end], room.piece_3L[2, end] = end + 1, ends - 1
    return best_of(room, ends - 1, ends, positive, table_PN, best)


@compiled
def exact_best(unlearned_EN: Floats, retrained_EN: Floats, tables_2PN: tuple[Table, Table]) -> Floats:
    """Return the largest epsilon over all blocks of neighbouring values, of sorted samples; no cap, no guard.

    `tables_2PN`: epsilon by positives and negatives inside, with retrained models as the positives, and unlearned ones.
    """
    num_r, num_u = retrained_EN.shape[1], unlearned_EN.shape[1]
    room = new_room(num_r + num_u, num_r + num_u + 1, num_r + num_u + 1)
    best_E = np.full(len(unlearned_EN), -np.inf)
    for image in range(len(best_E)):
        pool(unlearned_EN[image], retrained_EN[image], room)
        for side in range(2):
            best_E[image] = _all_blocks(room, side, tables_2PN[side], best_E[image])
    return best_E


def exact_compiled(unlearned_EN: Floats, retrained_EN: Floats, tables: AttackTables) -> Floats:
    """Return what `epsilon.exact_epsilons` returns; where that is below 0, any number up to 0."""
    return exact_best(unlearned_EN, retrained_EN, by_positives(tables))


def by_positives(tables: AttackTables) -> tuple[Table, Table]:
    """Return epsilon by positives and negatives inside, with retrained models as the positives, and unlearned ones."""
    shape = tables.num_retrained + 1, tables.num_unlearned + 1
    return tables.retrained.reshape(shape).copy(), np.ascontiguousarray(tables.unlearned.reshape(shape).T)

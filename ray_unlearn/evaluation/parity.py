"""The official evaluator's attacks on each example: a grid of single thresholds, and 160,000 intervals.

    parity_epsilons(unlearned_EN, retrained_EN, attack_tables(n, n))     # both sorted; -inf: every attack dropped

The ends are the evaluator's to the last bit, and so is every count. But the 160,000 intervals are not looked up one by
one: what counts is which models an end cuts off, and which left ends a right end has. Ends are found by their place on
the grid; where a value is so near one that rounding may decide, the end itself is computed.

Legend: E examples, N runs, V runs of both sides, right end i, left end j of a right end, diagonal d = i + j.

Does not cover: the guard, the cap, unequal N (`epsilon.py`), and which pairs of ends are looked up (`blocks.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.evaluation.attack_tables import AttackTables, Floats, Indexes
from ray_unlearn.evaluation.blocks import Attacks, Ends, Pooled, Range, best_intervals

THRESHOLDS_PER_UNIT = 100
BUFFER = 2.0
"""Distance that interval ends reach around the narrower sample's upper and lower end, in phi."""
NUM_LEFT = 400
STEP = 2 * BUFFER / (NUM_LEFT - 1)
"""Distance of neighbouring left ends of a right end, and of diagonals."""
NEAR = 1e-7
"""Share of a step within which rounding may decide whether a value is below an end; more for values beyond 1."""


def parity_epsilons(unlearned_EN: Floats, retrained_EN: Floats, tables: AttackTables) -> Floats:
    """Return the largest epsilon of each example over the official grids of thresholds and intervals."""
    pooled = Pooled.of(unlearned_EN, retrained_EN)
    rules = Rules.of(unlearned_EN, retrained_EN)
    best_E, grid = np.full(len(unlearned_EN), -np.inf), rules.grid
    _thresholds(best_E, pooled, rules.thresholds, Attacks(tables, rules.retrained_above_E))
    for steps, search in ((NUM_LEFT, _even), (NUM_LEFT + 1, _odd)):
        some = np.flatnonzero(grid.steps_E == steps)
        if len(some):
            attacks = Attacks(tables, rules.retrained_inside_E[some])
            best_E[some] = np.maximum(best_E[some], search(pooled.take(some), grid.take(some), attacks))
    return best_E


def _thresholds(best_E: Floats, pooled: Pooled, grid: Thresholds, attacks: Attacks) -> None:
    """Raise the best of each example by "all at or above a threshold", on a grid from its smallest to largest value."""
    values_EV = pooled.values_EV
    step_E = np.where(grid.step_E > 0, grid.step_E, 1)
    place_EV = (values_EV - grid.start_E[:, None]) / step_E[:, None]
    up_to_EV = np.floor(place_EV).astype(np.intp) + 1
    row, value, at = _close(place_EV, 3e-5 * _scale(values_EV))
    at = np.clip(at, 0, grid.num_E[row] - 1)
    up_to_EV[row, value] = at + (grid.at(row, at) <= values_EV[row, value])
    row, place, _, _ = _reached(np.clip(up_to_EV, 0, grid.num_E[:, None]), grid.num_E)
    everything = attacks.tables.num_retrained * (attacks.tables.num_unlearned + 1) + attacks.tables.num_unlearned
    attacks.best(best_E, row, everything - Ends.of(row, place, pooled, attacks).index)


class Thresholds(NamedTuple):
    """The official grids from the smallest to the largest value, which torch.linspace makes in float32.

    Each half is counted from its own end, with one rounding per place (a fused multiply-add, as torch has on x86-64
    with AVX2; elsewhere its last bits may differ).
    """

    start_E: Floats
    end_E: Floats
    step_E: Floats
    num_E: Indexes

    @classmethod
    def of(cls, low_E: Floats, high_E: Floats) -> Thresholds:
        """Return the grids between two values of each example."""
        num_E = np.ceil((high_E - low_E) * THRESHOLDS_PER_UNIT).astype(np.intp)
        start_E, end_E = low_E.astype(np.float32), high_E.astype(np.float32)
        step_E = (end_E - start_E) / np.maximum(num_E - 1, 1).astype(np.float32)
        return cls(start_E.astype(np.float64), end_E.astype(np.float64), step_E.astype(np.float64), num_E)

    def at(self, row: Indexes, place: Indexes) -> Floats:
        """Return the thresholds at some places of some examples."""
        num, step = self.num_E[row], self.step_E[row]
        from_start = self.start_E[row] + step * place
        from_end = self.end_E[row] - step * (num - 1 - place)
        found = np.where(place < np.maximum(num // 2, 1), from_start, from_end)
        return np.asarray(found.astype(np.float32).astype(np.float64))


class Grid(NamedTuple):
    """The official interval ends, which follow the narrower sample of each example.

    There are 400 right ends, or 401 where rounding makes the 4 units between the outer ones longer (6 to 22 % of
    examples), and 400 left ends of each.
    """

    low_E: Floats
    """First right end."""
    high_E: Floats
    width_E: Floats
    steps_E: Indexes
    """Number of right ends."""

    @classmethod
    def of(cls, min_E: Floats, max_E: Floats) -> Grid:
        """Return the grids of samples with these ends."""
        width_E = max_E - min_E
        low_E, high_E = (min_E + width_E) - BUFFER, max_E + BUFFER
        return cls(low_E, high_E, width_E, np.ceil((high_E - low_E) * THRESHOLDS_PER_UNIT).astype(np.intp))

    def take(self, examples: Indexes) -> Grid:
        """Return the grids of some examples."""
        return Grid(self.low_E[examples], self.high_E[examples], self.width_E[examples], self.steps_E[examples])

    @property
    def first_left_E(self) -> Floats:
        """First left end of the first right end."""
        return np.asarray((self.low_E - self.width_E) - BUFFER)

    def right(self, row: Indexes, i: Indexes) -> Floats:
        """Return right ends, as np.linspace(low, high, steps)[i]."""
        last, low, high = self.steps_E[row] - 1, self.low_E[row], self.high_E[row]
        return np.asarray(np.where(i == last, high, i * ((high - low) / last) + low))

    def left(self, row: Indexes, i: Indexes, j: Indexes) -> Floats:
        """Return left ends, as np.linspace(right - width - 2, right - width + 2, 400)[j] of right end i."""
        middle = self.right(row, i) - self.width_E[row]
        start, stop = middle - BUFFER, middle + BUFFER
        return np.asarray(np.where(j == NUM_LEFT - 1, stop, j * ((stop - start) / (NUM_LEFT - 1)) + start))


class Rules(NamedTuple):
    """What decides the attacks on each image."""

    retrained_above_E: NDArray[np.bool_]
    """Whether models at or above a threshold are called retrained: where their median is above the unlearned ones'."""
    retrained_inside_E: NDArray[np.bool_]
    """Whether models inside an interval are called retrained: where they are the narrower sample."""
    thresholds: Thresholds
    grid: Grid

    @classmethod
    def of(cls, unlearned_EN: Floats, retrained_EN: Floats) -> Rules:
        """Return the rules for sorted samples of as many runs.

        Interval ends follow the narrower sample; of equal ones, that which is called negative by thresholds.
        """
        below_E = _median(retrained_EN) <= _median(unlearned_EN)
        width_retrained, width_unlearned = (sample[:, -1] - sample[:, 0] for sample in (retrained_EN, unlearned_EN))
        inside_E = np.where(below_E, width_unlearned >= width_retrained, width_retrained < width_unlearned)
        narrow_EN = np.where(inside_E[:, None], retrained_EN[:, [0, -1]], unlearned_EN[:, [0, -1]])
        low_E = np.minimum(unlearned_EN[:, 0], retrained_EN[:, 0])
        high_E = np.maximum(unlearned_EN[:, -1], retrained_EN[:, -1])
        return cls(~below_E, inside_E, Thresholds.of(low_E, high_E), Grid.of(narrow_EN[:, 0], narrow_EN[:, 1]))


def _median(sorted_EN: Floats) -> Floats:
    """Return the median of each sorted row."""
    runs = sorted_EN.shape[1]
    return np.asarray((sorted_EN[:, (runs - 1) // 2] + sorted_EN[:, runs // 2]) / 2)


def _scale(values_EV: Floats) -> Floats:
    """Return the size of the numbers whose rounding errors matter, 1 or more, [E, 1]."""
    return np.asarray(np.maximum(1.0, np.abs(values_EV[:, [0, -1]]).max(axis=1, keepdims=True) + BUFFER))


def _close(place_EV: Floats, share: Floats | float) -> tuple[Indexes, Indexes, Indexes]:
    """Return which values are so close to a place of a grid that rounding may decide, and the place."""
    at_EV = np.rint(place_EV)
    row, value = np.nonzero(np.abs(place_EV - at_EV) < share)
    return row, value, at_EV[row, value].astype(np.intp)


def _reached(below_EV: Indexes, all_E: Indexes | int, start_EV: Indexes | None = None) -> tuple[Indexes, ...]:
    """Return the places between values that ends of a grid have, and the first and last such end.

    Args:
        below_EV: how many ends are on the lower side of each value.
        all_E: how many ends there are.
        start_EV: how many ends are on the lower side of each value, or too close to it to be used; default the same.

    """
    images, values = below_EV.shape
    first_EC, last_EC = np.zeros((2, images, values + 1), np.intp)
    first_EC[:, 1:] = below_EV if start_EV is None else start_EV
    last_EC[:, :-1] = below_EV
    last_EC[:, -1] = all_E
    row, place = np.nonzero(first_EC < last_EC)
    return row, place, first_EC[row, place], last_EC[row, place] - 1


def _right_ends(pooled: Pooled, grid: Grid) -> Indexes:
    """Return how many right ends are below each value, [E, V]."""
    values_EV, last_E = pooled.values_EV, (grid.steps_E - 1)[:, None]
    place_EV = (values_EV - grid.low_E[:, None]) * (last_E / (grid.high_E - grid.low_E)[:, None])
    place_EV = np.clip(place_EV, -1, last_E + 1)
    below_EV = np.ceil(place_EV).astype(np.intp)
    row, value, at = _close(place_EV, NEAR * _scale(values_EV))
    below_EV[row, value] = at + (grid.right(row, at) < values_EV[row, value])
    return np.clip(below_EV, 0, last_E + 1)


def _even(pooled: Pooled, grid: Grid, attacks: Attacks) -> Floats:
    """Return the best of the intervals where right ends step as left ends do: end (i, j) is at diagonal i + j."""
    row, place, first_i, last_i = _reached(_right_ends(pooled, grid), NUM_LEFT)
    right = Ends.of(row, place, pooled, attacks)
    place_EV = np.clip((pooled.values_EV - grid.first_left_E[:, None]) / STEP, -1, 2 * NUM_LEFT)
    share = NEAR * _scale(pooled.values_EV)
    below_EV, up_to_EV = np.ceil(place_EV - share).astype(np.intp), np.floor(place_EV + share).astype(np.intp) + 1
    diagonals = 2 * NUM_LEFT - 1
    row, place, first_d, last_d = _reached(np.clip(below_EV, 0, diagonals), diagonals, np.clip(up_to_EV, 0, diagonals))
    left = Ends.of(row, place, pooled, attacks)
    last = NUM_LEFT - 1
    right_of_L = Range(
        right.first_from(first_i, left.row, np.maximum(first_d - last, 0) + 1) - 1,
        right.first_from(first_i, left.row, np.minimum(last_d, last) + 1) - 1,
    )
    left_of_R = Range(
        left.first_from(last_d, right.row, first_i), left.first_from(first_d, right.row, last_i + last + 1) - 1
    )
    best_E = best_intervals(left, right, right_of_L, left_of_R, attacks)
    close_EV = (up_to_EV > below_EV) & (below_EV >= 0) & (below_EV < diagonals)
    _near(best_E, pooled, grid, attacks, Runs(right, first_i, last_i), close_EV, below_EV)
    return best_E


class Runs(NamedTuple):
    """Right ends, and the first and last place on the grid of each."""

    ends: Ends
    first: Indexes
    last: Indexes


def _near(
    best_E: Floats,
    pooled: Pooled,
    grid: Grid,
    attacks: Attacks,
    runs: Runs,
    close_EV: NDArray[np.bool_],
    diagonal_EV: Indexes,
) -> None:
    """Raise the best by the intervals on diagonals that are close to a value, each left end as it is.

    The narrower sample's minimum always is on such a diagonal, number 399. Of equal values the last is asked; G close
    ones, in order, divide the left ends of their diagonal into those between any two of them.
    """
    apart_EV = pooled.values_EV[:, 1:] > pooled.values_EV[:, :-1]
    row, value = np.nonzero(close_EV & np.pad(apart_EV, ((0, 0), (0, 1)), constant_values=True))
    diagonal = diagonal_EV[row, value]
    above_G401 = _above(pooled, grid, row, value, diagonal)
    again = np.append((row[1:] == row[:-1]) & (diagonal[1:] == diagonal[:-1]), False)  # the next is of this diagonal
    for below, some in ((False, np.arange(len(row))), (True, np.flatnonzero(~np.append(False, again[:-1])))):
        start = runs.ends.start_E[row[some]]
        lengths = runs.ends.start_E[row[some] + 1] - start
        entry = np.repeat(some, lengths)
        run = np.arange(len(entry)) - np.repeat(np.cumsum(lengths) - lengths - start, lengths)
        begin, end = runs.first[run], runs.last[run] + 1
        count = above_G401[entry, end] - above_G401[entry, begin]
        if below:
            first = np.maximum(diagonal[entry] - NUM_LEFT + 1, 0)
            last = np.minimum(diagonal[entry] + 1, NUM_LEFT)
            count = np.maximum(np.minimum(end, last) - np.maximum(begin, first), 0) - count
            place = _first_equal(pooled.values_EV)[row, value][entry]
        else:
            following = np.minimum(entry + 1, len(row) - 1)
            count = count - again[entry] * (above_G401[following, end] - above_G401[following, begin])
            place = value[entry] + 1
        there = np.flatnonzero(count > 0)
        left = Ends.of(row[entry[there]], place[there], pooled, attacks)
        attacks.best(best_E, left.row, runs.ends.index[run[there]] - left.index)


def _above(pooled: Pooled, grid: Grid, row: Indexes, value: Indexes, diagonal: Indexes) -> Indexes:
    """Return how many of the right ends 0, ... up to 0, 1, ... 400 have their left end on a diagonal above a value."""
    i = np.arange(NUM_LEFT)
    j = diagonal[:, None] - i
    above = (grid.left(row[:, None], i, j) > pooled.values_EV[row, value][:, None]) & (j >= 0) & (j < NUM_LEFT)
    found = np.zeros((len(row), NUM_LEFT + 1), np.intp)
    np.cumsum(above, axis=1, out=found[:, 1:])
    return found


def _first_equal(values_EV: Floats) -> Indexes:
    """Return the first place of the values that equal each value."""
    first_EV = np.zeros(values_EV.shape, np.intp)
    first_EV[:, 1:] = np.where(values_EV[:, 1:] > values_EV[:, :-1], np.arange(1, values_EV.shape[1]), 0)
    return np.maximum.accumulate(first_EV, axis=1)


def _odd(pooled: Pooled, grid: Grid, attacks: Attacks) -> Floats:
    """Return the best of the intervals where there are 401 right ends, which step by 399/400 of a left step.

    On diagonal d the left end of right end i is i/400 steps below that of right end 0. So a value cuts one diagonal in
    two, those below it are below the value, and those above it are above. The first and the last right end, whose left
    ends are on the edges between diagonals, are looked up one by one.
    """
    row, place, first_i, _ = _reached(_right_ends(pooled, grid), NUM_LEFT + 1)
    right = Ends.of(row, place, pooled, attacks)
    row, place, low_i, high_i = _pieces(*_cuts(pooled, grid))
    left = Ends.of(row, place, pooled, attacks)
    right_of_L = Range(*(right.first_from(first_i, left.row, i + 1) - 1 for i in (low_i, high_i)))
    best_E = best_intervals(left, right, right_of_L, None, attacks)
    images = len(pooled.values_EV)
    i, j = np.repeat([0, NUM_LEFT], NUM_LEFT), np.tile(np.arange(NUM_LEFT), 2)
    ends_EJ = grid.left(np.arange(images)[:, None], i, j)
    row, i = np.repeat(np.arange(images), len(i)), np.tile(i, images)
    below = [np.searchsorted(values_V, ends) for values_V, ends in zip(pooled.values_EV, ends_EJ, strict=True)]
    edges = Ends.of(row, np.concatenate(below), pooled, attacks)
    attacks.best(best_E, row, right.index[right.first_from(first_i, row, i + 1) - 1] - edges.index)
    return best_E


def _cuts(pooled: Pooled, grid: Grid) -> tuple[Indexes, Indexes]:
    """Return the diagonal that each value cuts, and how many of its right ends 0, 1, ... have their left end above."""
    place_EV = np.clip((pooled.values_EV - grid.first_left_E[:, None]) / STEP, -1, 2 * NUM_LEFT)
    diagonal_EV = np.floor(place_EV).astype(np.intp) + 1
    cut_EV = NUM_LEFT * (diagonal_EV - place_EV)
    above_EV = np.ceil(cut_EV).astype(np.intp)
    row, value, at = _close(cut_EV, NUM_LEFT * NEAR * _scale(pooled.values_EV))
    j = diagonal_EV[row, value] - at
    there = (at > 0) & (at < NUM_LEFT) & (j >= 0) & (j < NUM_LEFT)
    row, value, at, j = row[there], value[there], at[there], j[there]
    above_EV[row, value] = at + (grid.left(row, at, j) > pooled.values_EV[row, value])
    return np.clip(diagonal_EV, 0, 2 * NUM_LEFT - 1), above_EV


def _pieces(diagonal_EV: Indexes, above_EV: Indexes) -> tuple[Indexes, Indexes, Indexes, Indexes]:
    """Return each place between values with the right ends, first and last, that have a left end there.

    Three pieces at most: on the diagonal that the value below cuts, on the one that the value above cuts, and between
    them. Images in order, places not.
    """
    inner = NUM_LEFT - 1
    none_E1 = np.zeros((len(diagonal_EV), 1), np.intp)
    below_EC, under_EC = np.hstack([none_E1, diagonal_EV]), np.hstack([none_E1, above_EV])
    above_EC, over_EC = np.hstack([diagonal_EV, none_E1 + 2 * NUM_LEFT - 1]), np.hstack([above_EV, none_E1])
    same_EC = below_EC == above_EC
    low_3EC = np.stack(
        [
            np.maximum(below_EC - inner, np.where(same_EC, over_EC, 1)),
            np.maximum(below_EC + 1 - inner, 1),
            np.maximum(above_EC - inner, np.where(same_EC, NUM_LEFT, over_EC)),
        ],
        axis=1,
    )
    between_EC = np.where(above_EC > below_EC + 1, above_EC - 1, 0)
    high_3EC = np.stack([np.minimum(below_EC, under_EC - 1), between_EC, above_EC], axis=1)
    low_3EC, high_3EC = np.maximum(low_3EC, 1), np.minimum(high_3EC, inner)
    row, piece, place = np.nonzero(low_3EC <= high_3EC)
    return row, place, low_3EC[row, piece, place], high_3EC[row, piece, place]

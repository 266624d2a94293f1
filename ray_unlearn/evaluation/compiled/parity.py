"""Compiled: the official evaluator's attacks on each image, with the numbers of `evaluation.parity` to the last bit.

    parity_compiled(unlearned_EN, retrained_EN, tables)          # both sorted; -inf: every attack dropped

Needs Numba, which the extra `fast` installs. `evaluation.parity` defines the ends and computes them in NumPy; here they
are computed image by image, in the same order of operations.

Legend: E images, N runs, V runs of both sides, right end i, left end j of a right end, diagonal d = i + j.

Does not cover: which of the intervals is best (`compiled.search`), the guard, the cap and undecided images (`epsilon`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ray_unlearn.evaluation.attack_tables import AttackTables, Floats, Indexes, Table
from ray_unlearn.evaluation.compiled.search import Room, add, best_of, by_positives, compiled, new_room, pool
from ray_unlearn.evaluation.parity import BUFFER, NEAR, NUM_LEFT, STEP, Grid, Rules, Thresholds


def parity_compiled(unlearned_EN: Floats, retrained_EN: Floats, tables: AttackTables) -> Floats:
    """Return what `parity.parity_epsilons` returns; where that is below 0, any number up to 0."""
    rules = Rules.of(unlearned_EN, retrained_EN)
    sides_2E = np.where(np.stack([rules.retrained_above_E, rules.retrained_inside_E]), 0, 1)
    return parity_best(unlearned_EN, retrained_EN, sides_2E, rules.thresholds, rules.grid, by_positives(tables))


class Line(NamedTuple):
    """The official grids of one image."""

    start: float
    """First threshold; the next three are as in `parity.Thresholds`."""
    end: float
    step: float
    num: int
    low: float
    """First right end; the next three are as in `parity.Grid`."""
    high: float
    width: float
    steps: int


_Line = Line
"""Its name in compiled code that an earlier version may have left in `__pycache__`."""


@compiled
def _threshold(line: Line, place: int) -> float:
    """Return a threshold, as `Thresholds.at`."""
    if place < max(line.num // 2, 1):
        return float(np.float32(line.start + line.step * place))
    return float(np.float32(line.end - line.step * (line.num - 1 - place)))


@compiled
def right_end(line: Line, i: int) -> float:
    """Return a right end, as `Grid.right`."""
    last = line.steps - 1
    return line.high if i == last else i * ((line.high - line.low) / last) + line.low


@compiled
def left_end(line: Line, i: int, j: int) -> float:
    """Return a left end, as `Grid.left`."""
    middle = right_end(line, i) - line.width
    start, stop = middle - BUFFER, middle + BUFFER
    return stop if j == NUM_LEFT - 1 else j * ((stop - start) / (NUM_LEFT - 1)) + start


@compiled
def has_threshold(line: Line, below: float, value: float) -> bool:
    """Return whether a threshold is above one value, and not above the next; either is infinite where there is none."""
    at = 0
    if below > -np.inf:
        if line.step > 0:
            at = min(max(int((below - line.start) / line.step), 0), line.num)
        while at > 0 and _threshold(line, at - 1) > below:
            at -= 1
        while at < line.num and _threshold(line, at) <= below:
            at += 1
    return at < line.num and _threshold(line, at) <= value


@compiled
def _is_at(line: Line, values_V: Floats, place: int) -> bool:
    """Return whether a threshold has just so many values below; thresholds rise."""
    below = values_V[place - 1] if place > 0 else -np.inf
    return has_threshold(line, below, values_V[place] if place < len(values_V) else np.inf)


@compiled
def _best_threshold(room: Room, line: Line, positive: int, table_PN: Table) -> float:
    """Return the best of "all at or above a threshold", which is sought for places between values that look better."""
    counts_2C, best = room.counts_2C, -np.inf
    all_p, all_n = counts_2C[positive, -1], counts_2C[1 - positive, -1]
    for place in range(counts_2C.shape[1]):
        found = float(table_PN[all_p - counts_2C[positive, place], all_n - counts_2C[1 - positive, place]])
        if found > best and _is_at(line, room.values_V, place):
            best = found
    return best


@compiled
def right_ends(room: Room, line: Line, positive: int) -> int:
    """Count what each right end has below or at it; return how many of them differ."""
    place, rights, before, values_V = 0, 0, -1, room.values_V
    for i in range(line.steps):
        end = right_end(line, i)
        while place < len(values_V) and values_V[place] <= end:
            place += 1
        if place > before:
            room.right_3R[0, rights] = room.counts_2C[positive, place]
            room.right_3R[1, rights] = room.counts_2C[1 - positive, place]
            rights, before = rights + 1, place
        room.right_3R[2, i] = rights - 1
    return rights


@compiled
def _one_by_one(
    room: Room, line: Line, positive: int, table_PN: Table, diagonal: int, places: tuple[int, int], best: float
) -> float:
    """Return the best of the intervals on a diagonal whose left ends have one of these places, or `best` if larger.

    A left end is computed where one of the places would be better than the best that is known.
    """
    known = -1
    for i in range(max(0, diagonal - NUM_LEFT + 1), min(line.steps - 1, diagonal) + 1):
        right = room.right_3R[2, i]
        if right != known:
            known, hope = right, -np.inf
            for place in range(places[0], places[1] + 1):
                hope = max(hope, _between(room, positive, table_PN, place, right))
        if hope > best:
            end, place = left_end(line, i, diagonal - i), places[1]
            while place > places[0] and room.values_V[place - 1] >= end:
                place -= 1
            best = max(best, _between(room, positive, table_PN, place, right))
    return best


@compiled
def _between(room: Room, positive: int, table_PN: Table, place: int, right: int) -> float:
    """Return the epsilon of what is between a left end with so many values below and a right end; -inf if crossed."""
    p = room.right_3R[0, right] - room.counts_2C[positive, place]
    n = room.right_3R[1, right] - room.counts_2C[1 - positive, place]
    return float(table_PN[p, n]) if p >= 0 and n >= 0 else -np.inf


@compiled
def falling(room: Room, line: Line, pieces: int, diagonal: int, places: tuple[int, int], fall: float) -> int:
    """Add the left ends of a diagonal that fall over values, each value between right ends that are computed."""
    i, last, place = max(0, diagonal - NUM_LEFT + 1), min(line.steps - 1, diagonal), places[1]
    top = (line.low - line.width) - BUFFER + diagonal * STEP
    while i <= last:
        end, until = left_end(line, i, diagonal - i), last + 1
        while place > places[0] and room.values_V[place - 1] >= end:
            place -= 1
        if place > places[0]:
            value = room.values_V[place - 1]
            until = min(max(i + 1, int((top - value) / fall)), until)
            while until > i + 1 and left_end(line, until - 1, diagonal - until + 1) <= value:
                until -= 1
            while until <= last and left_end(line, until, diagonal - until) > value:
                until += 1
        pieces = add(room.piece_3L, pieces, place, room.right_3R[2, i], room.right_3R[2, until - 1])
        i = until
    return pieces


@compiled
def next_near(line: Line, values_V: Floats, place: int, near: float, diagonal: int) -> int:
    """Return the first diagonal, from one on, that is near the value at a place or above it, where left ends are even.

    The number of diagonals where there is none.
    """
    diagonals, start = NUM_LEFT + line.steps - 1, (line.low - line.width) - BUFFER
    if place == len(values_V):
        return diagonals
    found = max(int(min((values_V[place] - near - start) / STEP, float(diagonals))), diagonal)
    while found > diagonal and values_V[place] < start + (found - 1) * STEP + near:
        found -= 1
    while found < diagonals and not values_V[place] < start + found * STEP + near:
        found += 1
    return found


@compiled
def slack(line: Line, values_V: Floats) -> tuple[float, float]:
    """Return how near to a left end rounding may decide, and how far left ends fall from one right end to the next."""
    near = NEAR * STEP * max(1.0, max(abs(values_V[0]), abs(values_V[-1])) + BUFFER)
    return near, STEP - (line.high - line.low) / (line.steps - 1) if line.steps > NUM_LEFT else 0.0


@compiled
def beside(
    line: Line, values_V: Floats, near: float, fall: float, diagonal: int, first: int, upto: int
) -> tuple[int, int, int, int, int]:
    """Return where to look next, a diagonal's first and last right end, and the places that its left ends are between.

    Places only go up, from those of an earlier diagonal, `first` and `upto`; they are one where no value is near. Then
    all diagonals without one are passed at once, and the last right end is the last of these.
    """
    top = (line.low - line.width) - BUFFER + diagonal * STEP
    low, high = max(0, diagonal - NUM_LEFT + 1), min(line.steps - 1, diagonal)
    while first < len(values_V) and values_V[first] < top - high * fall - near:
        first += 1
    while upto < len(values_V) and values_V[upto] < top - low * fall + near:
        upto += 1
    following = diagonal + 1
    if first == upto and fall == 0:
        following = next_near(line, values_V, upto, near, following)
        high = min(line.steps, following) - 1
    return following, low, high, first, upto


@compiled
def _best_interval(room: Room, line: Line, positive: int, table_PN: Table, best: float) -> float:
    """Return the best of all intervals, or `best` where that is larger.

    Of one diagonal the left ends fall from the first right end to the last: by rounding alone where there are 400 right
    ends, by a whole step where there are 401. Where no value is among them, all are one left end.
    """
    values_V, first, upto, pieces = room.values_V, 0, 0, 0
    rights = right_ends(room, line, positive)
    near, fall = slack(line, values_V)
    diagonal = 0
    while diagonal < NUM_LEFT + line.steps - 1:
        following, low, high, first, upto = beside(line, values_V, near, fall, diagonal, first, upto)
        if first == upto:
            pieces = add(room.piece_3L, pieces, first, room.right_3R[2, low], room.right_3R[2, high])
        elif fall > 0:
            pieces = falling(room, line, pieces, diagonal, (first, upto), fall)
        else:
            best = _one_by_one(room, line, positive, table_PN, diagonal, (first, upto), best)
        diagonal = following
    return best_of(room, pieces, rights, positive, table_PN, best)


@compiled
def parity_best(
    unlearned_EN: Floats,
    retrained_EN: Floats,
    sides_2E: Indexes,
    thresholds: Thresholds,
    grid: Grid,
    tables_2PN: tuple[Table, Table],
) -> Floats:
    """Return the largest epsilon of each image over the official grids of thresholds and intervals; no cap, no guard.

    Args:
        unlearned_EN: sorted, as many runs as the other.
        retrained_EN: sorted.
        sides_2E: who is called positive, 0 for retrained and 1 for unlearned models: at or above a threshold, and
            inside an interval.
        thresholds: grid of each image.
        grid: likewise.
        tables_2PN: as in `exact_best`.

    """
    values = retrained_EN.shape[1] + unlearned_EN.shape[1]
    room = new_room(values, 2 * values + 2 * NUM_LEFT, NUM_LEFT + 1)
    best_E = np.full(len(unlearned_EN), -np.inf)
    for image in range(len(best_E)):
        pool(unlearned_EN[image], retrained_EN[image], room)
        line = Line(
            thresholds.start_E[image],
            thresholds.end_E[image],
            thresholds.step_E[image],
            thresholds.num_E[image],
            grid.low_E[image],
            grid.high_E[image],
            grid.width_E[image],
            grid.steps_E[image],
        )
        above, inside = sides_2E[0, image], sides_2E[1, image]
        best = _best_threshold(room, line, above, tables_2PN[above])
        best_E[image] = _best_interval(room, line, inside, tables_2PN[inside], best)
    return best_E

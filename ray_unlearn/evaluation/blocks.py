"""The best of very many intervals, for many images at once, from the few that can be best.

    pooled = Pooled.of(unlearned_EN, retrained_EN)               # both sorted along runs
    attacks = Attacks(tables, of_retrained_E)                    # whether models inside are called retrained
    left, right = (Ends.of(*places, pooled, attacks) for places in (left_places, right_places))
    best_E = best_intervals(left, right, right_of_L, left_of_R, attacks)

An attack calls the models inside an interval positive. Its epsilon rises with the positives inside and falls with the
negatives inside, except that attacks with exactly one kind of error are dropped. So an end that could move outwards
over positives, or inwards over negatives, need not be tried, unless it may not move or the other attack is dropped.
What remains are pairs of corners, a quarter or less of all pairs, and four partners of each end: the first and the last
that it may have, the nearest with a negative between, and the farthest without all positives between.

Legend: E images, N runs, V runs of both sides, C = V + 1 places between values, L left and R right ends.

Does not cover: which ends there are (`parity`: the official grid; `epsilon`: all).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.evaluation.attack_tables import AttackTables, Floats, Indexes, Table

_PAIRS = 1 << 17
"""Pairs of ends at a time: arrays of 1 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """Two samples of every image, pooled, sorted and counted."""

    values_EV: Floats
    """All runs of both sides, ascending; equal ones stay apart."""
    retrained_EC: Indexes
    """Retrained models among the first 0, 1, ... V values."""
    unlearned_EC: Indexes

    @classmethod
    def of(cls, unlearned_EN: Floats, retrained_EN: Floats) -> Self:
        """Pool two sorted samples of each image."""
        both_EV = np.concatenate([retrained_EN, unlearned_EN], axis=1)
        order_EV = np.argsort(both_EV, axis=1, kind="stable")
        images, values = both_EV.shape
        retrained_EC = np.zeros((images, values + 1), np.intp)
        np.cumsum(order_EV < retrained_EN.shape[1], axis=1, out=retrained_EC[:, 1:])
        return cls(
            values_EV=np.take_along_axis(both_EV, order_EV, axis=1),
            retrained_EC=retrained_EC,
            unlearned_EC=np.arange(values + 1) - retrained_EC,
        )

    def distinct(self) -> tuple[Indexes, Indexes]:
        """Return images and places that are between two different values, or outside of all."""
        apart_EC = np.ones(self.retrained_EC.shape, np.bool_)
        apart_EC[:, 1:-1] = self.values_EV[:, 1:] > self.values_EV[:, :-1]
        row, place = np.nonzero(apart_EC)
        return row, place

    def take(self, images: Indexes) -> Self:
        """Return some of the images."""
        return type(self)(
            values_EV=self.values_EV[images],
            retrained_EC=self.retrained_EC[images],
            unlearned_EC=self.unlearned_EC[images],
        )


class Attacks(NamedTuple):
    """Epsilon of each attack by the counts inside, and what each image's attacks call the models inside."""

    tables: AttackTables
    of_retrained_E: NDArray[np.bool_]
    """Whether they are called retrained."""

    @property
    def offset_E(self) -> Indexes:
        """Beginning of each image's table in `tables.flat`."""
        return np.where(self.of_retrained_E, 0, len(self.tables.retrained))

    def best(self, best_E: Floats, rows: Indexes, inside: Indexes) -> None:
        """Raise the best of some images, in order, by the counts inside; negative ones are crossed ends: nothing."""
        if len(rows):
            raise_best(best_E, rows, self.tables.flat.take(np.maximum(inside, 0) + self.offset_E[rows]))


def raise_best(best_E: Floats, rows: Indexes, found: Table) -> None:
    """Raise the best of some images, in order, to the largest that was found."""
    starts = np.flatnonzero(np.append(True, rows[1:] > rows[:-1]))
    best_E[rows[starts]] = np.maximum(best_E[rows[starts]], np.maximum.reduceat(found, starts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """Left or right ends of intervals, image by image, rising."""

    row: Indexes
    """[L] image."""
    place: Indexes
    """[L] how many values are below."""
    positive: Indexes
    """[L] how many positives are below."""
    negative: Indexes
    index: Indexes
    """[L] index of these counts in a table."""
    start_E: Indexes
    """[E + 1] first end of each image."""

    @classmethod
    def of(cls, row: Indexes, place: Indexes, pooled: Pooled, attacks: Attacks) -> Self:
        """Return the ends at some places of some images; images in order."""
        retrained, unlearned = pooled.retrained_EC[row, place], pooled.unlearned_EC[row, place]
        first = attacks.of_retrained_E[row]
        return cls(
            row=row,
            place=place,
            positive=np.where(first, retrained, unlearned),
            negative=np.where(first, unlearned, retrained),
            index=retrained * (attacks.tables.num_unlearned + 1) + unlearned,
            start_E=np.searchsorted(row, np.arange(len(pooled.values_EV) + 1)),
        )

    def first_from(self, keys: Indexes, rows: Indexes, limits: Indexes) -> Indexes:
        """Return for some images the number of the first end whose key, which rises in an image, reaches a limit."""
        images, top = len(self.start_E) - 1, int(max(keys.max(initial=0), limits.max(initial=0))) + 1
        counts = np.bincount(self.row * top + keys + 1, minlength=images * top + 1)
        return np.asarray(np.cumsum(counts)[rows * top + limits])

    def corners(self, inside: Indexes, outside: Indexes) -> NDArray[np.bool_]:
        """Return the ends before which the one count rises and after which the other does; first and last are free."""
        follows = self.row[1:] == self.row[:-1]
        found = np.ones(len(self.row), np.bool_)
        found[1:] &= ~follows | (inside[1:] > inside[:-1])
        found[:-1] &= ~follows | (outside[1:] > outside[:-1])
        return found


class Range(NamedTuple):
    """First and last end that each of the other side's ends may have; no end where the last is below the first."""

    low: Indexes
    high: Indexes


def best_intervals(left: Ends, right: Ends, right_of_L: Range, left_of_R: Range | None, attacks: Attacks) -> Floats:
    """Return the largest epsilon of each image, -inf where all its attacks are dropped.

    Args:
        left: left ends.
        right: right ends.
        right_of_L: right ends that each left end may have.
        left_of_R: left ends that each right end may have; None where these have gaps: left ends are all tried then.
        attacks: of these images.

    """
    best_E = np.full(len(left.start_E) - 1, -np.inf)
    all_E = np.where(attacks.of_retrained_E, attacks.tables.num_retrained, attacks.tables.num_unlearned)
    low = np.maximum(right_of_L.low, right.first_from(right.place, left.row, left.place + 1))  # no crossed ends
    some, may = _filled(Range(low, right_of_L.high))
    with_negative = right.first_from(right.negative, left.row[some], left.negative[some] + 1)
    not_all = right.first_from(right.positive, left.row[some], left.positive[some] + all_E[left.row[some]]) - 1
    for partner in (*may, np.clip(with_negative, *may), np.clip(not_all, *may)):
        attacks.best(best_E, left.row[some], right.index[partner] - left.index[some])
    tried = np.ones(len(some), np.bool_)
    if left_of_R is not None:
        tried = left.corners(left.negative, left.positive)[some]
        _left_partners(best_E, left, right, left_of_R, all_E, attacks)
    _corners(best_E, left, right, some[tried], Range(may.low[tried], may.high[tried]), attacks)
    return best_E


def _filled(may: Range) -> tuple[Indexes, Range]:
    """Return the ends that have a partner at all, and their partners."""
    some = np.flatnonzero(may.low <= may.high)
    return some, Range(may.low[some], may.high[some])


def _left_partners(best_E: Floats, left: Ends, right: Ends, left_of_R: Range, all_E: Indexes, attacks: Attacks) -> None:
    """Raise the best by the four left ends that may be best with a right end although they are no corners."""
    some, may = _filled(left_of_R)
    row = right.row[some]
    with_negative = left.first_from(left.negative, row, right.negative[some]) - 1
    not_all = left.first_from(left.positive, row, np.maximum(right.positive[some] - all_E[row] + 1, 0))
    for partner in (*may, np.clip(with_negative, *may), np.clip(not_all, *may)):
        attacks.best(best_E, row, right.index[some] - left.index[partner])


def _corners(best_E: Floats, left: Ends, right: Ends, some: Indexes, may: Range, attacks: Attacks) -> None:
    """Raise the best by the pairs of some left ends with all corners among the right ends that they may have."""
    corners_R = right.corners(right.positive, right.negative)
    chosen, before = np.flatnonzero(corners_R), np.append(0, np.cumsum(corners_R))
    first = before[may.low]
    lengths = before[may.high + 1] - first
    some, first, lengths = some[lengths > 0], first[lengths > 0], lengths[lengths > 0]
    pairs = np.append(0, np.cumsum(lengths))
    index = right.index[chosen] + attacks.offset_E[right.row[chosen]]
    cuts = np.unique(np.append(np.searchsorted(pairs, np.arange(0, pairs[-1], _PAIRS)), len(some)))
    for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        starts, count = pairs[begin:end] - pairs[begin], lengths[begin:end]
        places = np.arange(pairs[end] - pairs[begin]) + np.repeat(first[begin:end] - starts, count)
        inside = index[places] - np.repeat(left.index[some[begin:end]], count)
        raise_best(best_E, left.row[some[begin:end]], np.maximum.reduceat(attacks.tables.flat.take(inside), starts))

"""Compiled: KLOM of each image on many subsets of the same runs, both directions.

    kl_2KE = divergences(unlearned, retrained, members, clip, bins, terms)

All runs are sorted once. The models of a subset up to each place are a running sum for all subsets at once, and the
places where bins begin depend on the smallest and largest value alone, which many subsets have in common. What a bin
adds to the divergence is looked up by its two counts.

Needs Numba, which the extra `fast` installs. Does not cover: what a bin adds, and the definition (`measures.klom`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import Floats, Indexes
from ray_unlearn.evaluation.compiled.search import compiled
from ray_unlearn.evaluation.compiled.sums import block_sum
from ray_unlearn.evaluation.ordered import Ordered

LANES = 32
"""Subsets at a time: their counts are in one register."""


@compiled
def divergences(
    unlearned: Ordered,
    retrained: Ordered,
    members: tuple[Indexes, Indexes],
    clip: float,
    bins: int,
    terms: tuple[Floats, Floats],
) -> Floats:
    """Return KL(retrained || unlearned) and KL(unlearned || retrained), [2, subsets, images].

    Args:
        unlearned: all runs.
        retrained: likewise.
        members: 1 for the unlearned and retrained runs of each subset, [subsets, runs].
        clip: values beyond +-clip count as this.
        bins: number of bins.
        terms: what a bin adds to the first direction by retrained and unlearned runs in it, and to the second by
            unlearned and retrained ones.

    """
    subsets, images = len(members[0]), len(unlearned.values_EN)
    found_2KE = np.empty((2, subsets, images))
    below_u_CL = np.zeros((members[0].shape[1] + 1, LANES), np.uint16)
    below_r_CL = np.zeros((members[1].shape[1] + 1, LANES), np.uint16)
    low_L, high_L, term_2B = np.empty(LANES), np.empty(LANES), np.empty((2, bins))
    begin_2B, edge_B, done_L = np.empty((2, bins + 1), np.int64), np.empty(bins + 1), np.empty(LANES, np.bool_)
    for first in range(0, subsets, LANES):
        lanes = min(LANES, subsets - first)
        member_u_NL, member_r_NL = _lanes(members[0], first, lanes), _lanes(members[1], first, lanes)
        for image in range(images):
            u_N, r_N = unlearned.values_EN[image], retrained.values_EN[image]
            low_L[:], high_L[:], done_L[:] = np.inf, -np.inf, False
            _count(unlearned.run_EN[image], member_u_NL, below_u_CL)
            _count(retrained.run_EN[image], member_r_NL, below_r_CL)
            _ends(u_N, below_u_CL, lanes, clip, low_L, high_L)
            _ends(r_N, below_r_CL, lanes, clip, low_L, high_L)
            for lane in range(lanes):
                if not done_L[lane]:
                    _begins(u_N, clip, low_L[lane], high_L[lane], begin_2B[0], edge_B)
                    _begins(r_N, clip, low_L[lane], high_L[lane], begin_2B[1], edge_B)
                for other in range(lane, lanes) if not done_L[lane] else range(0):
                    if low_L[other] == low_L[lane] and high_L[other] == high_L[lane]:
                        done_L[other] = True
                        for b in range(bins):
                            u = below_u_CL[begin_2B[0, b + 1], other] - below_u_CL[begin_2B[0, b], other]
                            r = below_r_CL[begin_2B[1, b + 1], other] - below_r_CL[begin_2B[1, b], other]
                            term_2B[0, b], term_2B[1, b] = terms[0][r, u], terms[1][u, r]
                        for way in range(2):
                            found_2KE[way, first + other, image] = block_sum(term_2B[way], 0, bins)
    return found_2KE


@compiled
def _lanes(member_KN: Indexes, first: int, lanes: int) -> npt.NDArray[np.uint16]:
    """Return the members of some subsets, [runs, LANES]."""
    found_NL = np.zeros((member_KN.shape[1], LANES), np.uint16)
    for lane in range(lanes):
        for run in range(len(found_NL)):
            found_NL[run, lane] = member_KN[first + lane, run]
    return found_NL


@compiled
def _count(run_N: npt.NDArray[np.uint16], member_NL: npt.NDArray[np.uint16], below_CL: npt.NDArray[np.uint16]) -> None:
    """Fill how many members of each subset are among the first 0, 1, ... values."""
    for place in range(len(run_N)):
        run = run_N[place]
        for lane in range(LANES):
            below_CL[place + 1, lane] = below_CL[place, lane] + member_NL[run, lane]


@compiled
def _ends(
    values_N: Floats, below_CL: npt.NDArray[np.uint16], lanes: int, clip: float, low_L: Floats, high_L: Floats
) -> None:
    """Lower the smallest, and raise the largest value of each subset to those of a side, clipped."""
    for lane in range(lanes):
        low, high, total = 0, len(values_N) - 1, below_CL[len(values_N), lane]
        while below_CL[low + 1, lane] == 0:
            low += 1
        while below_CL[high, lane] == total:
            high -= 1
        smallest, largest = min(max(values_N[low], -clip), clip), min(max(values_N[high], -clip), clip)
        low_L[lane], high_L[lane] = min(low_L[lane], smallest), max(high_L[lane], largest)


@compiled
def _begins(values_N: Floats, clip: float, low: float, high: float, begin_B: Indexes, edge_B: Floats) -> None:
    """Fill the first place of each bin, of the first one 0, and the number of values.

    Searched without a branch, near to where a bin begins but for rounding; `edge_B` is room.
    """
    bins, number = len(begin_B) - 1, len(values_N)
    width = high - low if high > low else 1.0
    near, left = 1e-12 * (abs(low) + abs(high)), number
    for b in range(bins + 1):
        begin_B[b], edge_B[b] = 0, low + b * width / bins
    while left > 1:  # all bins at once, so that none waits for another's value
        half = left >> 1
        for b in range(1, bins):
            begin_B[b] += half * int(values_N[begin_B[b] + half - 1] < edge_B[b])
        left -= half
    for b in range(1, bins):
        place = begin_B[b] + int(values_N[begin_B[b]] < edge_B[b])
        above = place == number or min(max(values_N[place], -clip), clip) > edge_B[b] + near
        if not (above and (place == 0 or min(max(values_N[place - 1], -clip), clip) < edge_B[b] - near)):
            while place < number and (min(max(values_N[place], -clip), clip) - low) * bins / width < b:
                place += 1
            while place > 0 and (min(max(values_N[place - 1], -clip), clip) - low) * bins / width >= b:
                place -= 1
        begin_B[b] = place
    begin_B[bins] = number

"""Memorisation: how much more often models are right about an image if they were trained on it.

    scores = memorisation(pairs_of(...))         # of pairs of shadows: {"forget": Memorised(...), "retain": ...}
    scores["forget"].score_N                     # float64 in -1..1
    by_chance(scores["forget"])                  # images that would have 0.25 or more if none was memorised

Feldman and Zhang, "What Neural Networks Memorize and Why: Discovering the Long Tail via Influence Estimation" (NeurIPS
2020): mem(i) = P(right about i | trained on i) - P(right | not), both estimated by the share of models (their program:
google-research/heldout-influence-estimation, mnist-example/mnist_infl_mem.py at caebf14). They train on 70 % of the
images, shadows on half. They call an image memorised from a score of 0.25 on.

With K pairs a score is a multiple of 1 / K, so that many tie: `gap_N`, the same difference of the label's mean
probability, tells ties apart. And with few pairs scores of 0.25 arise by chance: with 8, in 23 % of images that half of
the models are right about, with or without them; with 32, in 3 %. `by_chance` says in how many: given how many of an
image's 2 K models are right, each K of them are as likely to be those trained on it (Fisher's exact test).

Does not cover: influence on other images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.measures.measure import Measure
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.shadows import PairSplit
from ray_unlearn.store.membership import HALVED

MEMORISED = 0.25
"""Score from which Feldman and Zhang call an image memorised."""
MEASURES: dict[str, Measure] = {}
"""None of a population against the reference: memorisation is a number of images."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Memorised:
    """Scores of one split's images."""

    positions_N: npt.NDArray[np.int64]
    labels_N: npt.NDArray[np.int64]
    right_inside_N: FloatArray
    """Models trained on the image that are right about it: a whole number up to `pairs`."""
    right_outside_N: FloatArray
    """Models not trained on it that are right about it."""
    gap_N: FloatArray
    """Mean probability of the label inside minus outside."""
    pairs: int
    """Models on each side."""

    @property
    def inside_N(self) -> FloatArray:
        """Share of the models trained on the image that are right about it."""
        return self.right_inside_N / self.pairs

    @property
    def outside_N(self) -> FloatArray:
        """Share of those not trained on it."""
        return self.right_outside_N / self.pairs

    @property
    def score_N(self) -> FloatArray:
        """Memorisation, -1..1; a difference of whole numbers is divided, so that equal scores are equal."""
        return (self.right_inside_N - self.right_outside_N) / self.pairs


def by_chance(one: Memorised) -> float:
    """Return the expected number of images with a score of `MEMORISED` or more, if none of them was memorised."""
    right_N = np.round(one.right_inside_N + one.right_outside_N).astype(np.int64)
    counts = np.bincount(right_N, minlength=2 * one.pairs + 1)
    return float(sum(number * _reached(right, one.pairs) for right, number in enumerate(counts) if number))


def _reached(right: int, pairs: int) -> float:
    """Return the probability of such a score of an image that `right` of 2 K models are right about."""
    inside = np.arange(max(0, right - pairs), min(right, pairs) + 1)
    ways = [math.comb(pairs, k) * math.comb(pairs, right - k) for k in inside.tolist()]
    reached = (2 * inside - right) / pairs >= MEMORISED
    return sum(way for way, far in zip(ways, reached, strict=True) if far) / math.comb(2 * pairs, right)


def memorisation(pairs: Iterable[Mapping[str, PairSplit]]) -> dict[str, Memorised]:
    """Return the scores of retain and forget images, as far as outputs have them; empty without a pair.

    One pair is in memory at a time.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    seen: dict[str, PairSplit] = {}
    count = 0
    for pair in pairs:
        count += 1
        for name in HALVED:
            if (split := pair.get(name)) is not None:
                gap_N = probability_of(split.inside_N) - probability_of(split.outside_N)
                rows = np.stack([split.inside_correct_N, split.outside_correct_N, gap_N])
                sums[name] = sums[name] + rows if name in sums else rows.astype(np.float64)
                seen.setdefault(name, split)
    return {
        name: Memorised(
            positions_N=seen[name].positions_N,
            labels_N=seen[name].labels_N,
            right_inside_N=total[0],
            right_outside_N=total[1],
            gap_N=total[2] / count,
            pairs=count,
        )
        for name, total in sums.items()
    }

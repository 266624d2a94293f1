"""The challenge's forgetting quality: how near the unlearned models' distribution is to the retrained ones'.

    quality = forgetting_quality(unlearned_NE, retrained_NE, mode="parity")
    quality.score                 # 1 only if no attack on any example works; two retrained samples score about 0.18
    quality.guarded_E.sum()       # examples that the unlearned models hardly differ on

F = mean over examples of H = 2 / 2^n with n = floor(epsilon / 0.5) + 1, and 0 beyond bucket B = 2 ceil(log(N - 1))
(NeurIPS 2023 machine unlearning challenge). Read in the organisers' program, google-deepmind/unlearning_evaluation,
`metric.py` at ffae0ff: the same buckets and points. On purpose different: where all attacks of an example are dropped,
that program stops; here the example gets epsilon 50, and is counted (`undecided_E`). At N = 2, B is 0, so every score
is 0: it takes 3 runs to score anything, and an evaluation gives fewer no score at all (`LEAST_TO_SCORE`).

A bootstrap calls it with rows: `forgetting_quality(unlearned_NE[rows], retrained_NE[rows_too])`; the tables are kept.
Its scores are lower than the sample's (ties make attacks look better: by 0.03 in exact and 0.045 in parity at N = 32),
so percentile intervals miss; recentre them.

Does not cover: intervals and nulls of F, which a score means nothing without, and the product with accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.epsilon import MAX_PARITY, example_epsilons
from ray_unlearn.evaluation.measures.measure import Measure, Pair
from ray_unlearn.evaluation.together import together

BUCKET = 0.5
"""Width of a bucket of epsilon, closed on the left: [0, 0.5), [0.5, 1), ..."""
LEAST_TO_SCORE = 3
"""The least N with a bucket that scores: 2 ceil(log(N - 1)) > 0 takes N - 1 > 1. F of 2 runs is always 0."""
WHY_RUNS = f"with fewer than {LEAST_TO_SCORE}, the formula of F counts no image"


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgettingQuality:
    """F and its parts."""

    score: float
    """F, in [0, 1]: higher is nearer to retraining. Comparable at equal mode and N only."""
    points_E: NDArray[np.float64]
    """Points of each example: F is their mean."""
    epsilon_E: NDArray[np.float64]
    """Epsilon of each example, in [0, 50]."""
    bins: NDArray[np.int64]
    """[E] bucket number n = floor(epsilon / 0.5) + 1 of each example: 1 below 0.5, 101 at the cap."""
    guarded_E: NDArray[np.bool_]
    """Examples whose ranges differ a hundredfold or are both zero, so that epsilon is 50 without any attack."""
    undecided_E: NDArray[np.bool_]
    """Examples that `parity` cannot decide, and counts as distinguished (`ray_unlearn.evaluation.epsilon`)."""
    mode: str
    """`parity` or `exact`."""
    num_unlearned: int
    num_retrained: int


def forgetting_quality(unlearned_NE: ArrayLike, retrained_NE: ArrayLike, mode: str = "parity") -> ForgettingQuality:
    """Return F of two populations from phi, real [N, E] each: N runs (rows) by E examples, in the same order.

    N may differ in `exact` only; B is then of the unlearned's. Raises `EvaluationError` for wrong shapes, fewer than 2
    runs, values that are not finite, an unknown mode, and what `example_epsilons` refuses.
    """
    found = example_epsilons(unlearned_NE, retrained_NE, mode=mode)
    num_unlearned, num_retrained = len(np.asarray(unlearned_NE)), len(np.asarray(retrained_NE))
    bins = np.floor(found.epsilon_E / BUCKET).astype(np.int64) + 1
    points_E = points_of_bins(bins, num_unlearned)
    return ForgettingQuality(
        score=float(points_E.mean()),
        points_E=points_E,
        epsilon_E=found.epsilon_E,
        bins=bins,
        guarded_E=found.guarded_E,
        undecided_E=found.undecided_E,
        mode=mode,
        num_unlearned=num_unlearned,
        num_retrained=num_retrained,
    )


def points_of_bins(bins: NDArray[np.int64], num_runs: int) -> NDArray[np.float64]:
    """Return the points of each example."""
    return np.where(bins <= num_buckets(num_runs), np.ldexp(2.0, -bins), 0.0)


def num_buckets(num_runs: int) -> int:
    """Return B = 2 ceil(log(N - 1)), the buckets that score: 8 at N = 32, 14 at 512, 0 at 2."""
    return 2 * math.ceil(math.log(num_runs - 1))


def quality_of(pair: Pair) -> ForgettingQuality:
    """Return F of the forget images, with its parts."""
    return forgetting_quality(*pair.phi("forget"), pair.mode)


def points_of(pair: Pair) -> NDArray[np.float64]:
    """Return the points of each forget image, whose mean is F."""
    return pair.once(quality_of).points_E


def points_together(pairs: Sequence[Pair]) -> list[NDArray[np.float64]] | None:
    """Return `points_of` each of several subsets of the same runs, in `parity`; None where one by one is the way.

    Buckets alone are found, and an image without one is computed by itself.
    """
    sizes = {len(side) for pair in pairs for side in (pair.unlearned, pair.reference)}
    size, images = max(sizes), len(pairs[0].unlearned.splits["forget"].labels_N)
    if pairs[0].mode != "parity" or len(sizes) > 1 or size < LEAST_TO_SCORE or not pays(2 * size * images):
        return None
    found = together(pairs, "forget")
    if found is None or max(np.abs(side.phi_RN).max() for side in found[:2]) > MAX_PARITY:
        return None
    from ray_unlearn.evaluation.compiled.buckets import buckets

    bins_KE = buckets(found, size, num_buckets(size), BUCKET)
    for bins_E, *members in zip(bins_KE, found.member_KU == 1, found.member_KR == 1, strict=True):
        if len(unknown := np.flatnonzero(bins_E == 0)):
            ours, theirs = (side.phi_RN[np.ix_(rows, unknown)] for side, rows in zip(found[:2], members, strict=True))
            bins_E[unknown] = forgetting_quality(ours, theirs).bins
    return [points_of_bins(bins_E, size) for bins_E in bins_KE]


def f_of(pair: Pair) -> float:
    """Return F of the forget images."""
    return float(pair.once(points_of).mean())


DEVIATION = (
    "an image of which all attacks are dropped gets epsilon 50 and is counted, where the organisers' program stops; "
    "exact mode tries every interval, not the organisers' grid"
)
MEASURES = {
    "forgetting_quality": Measure(
        label="F",
        better="high",
        meaning="how hard unlearned and retrained models are to distinguish on forget images, 0..1",
        source="NeurIPS 2023 Machine Unlearning Challenge, metric PDF",
        deviation=DEVIATION,
        upper=1.0,
        least_runs=LEAST_TO_SCORE,
        why_runs=WHY_RUNS,
        compute=f_of,
    )
}

"""What an attacker surely gets from one image: lower bounds of epsilon with confidence, not the largest of a sample.

    found = epsilon_lower_bounds(unlearned_UE, retrained_RE, rng)
    found.each_E                                 # 95 % confidence for each image
    found.all_E                                  # 95 % confidence for all images at once
    found.shown                                  # how many images are shown to leak at all, with 95 % for all of these
    found.ceiling                                # what attacks without any error would give with so many runs
    joint_bounds([attacks_on(...), ...])         # the same of several forget sets together

For each image the attack (an interval, or a threshold) is chosen on one random half of the runs of both sides and
judged on the other half, so that choosing gives no advantage. What its errors there show is an exact test
(`attack_errors`).

The first half also puts images in an order: those that look worst come first. For all images at once, the first has
nine tenths of the error probability and the others the rest, less at each later place (Bonferroni's inequality holds
with any weights that are chosen before the judged runs are looked at). Errors of few runs are whole numbers: with equal
weights, 40 images that do not leak had a bound above 0 in 1 to 2 % of simulated studies instead of 5 %. And where three
of 40 leak (2 standard deviations apart), the largest bound is now .5, .9 and 1.4 with 16, 32 and 64 runs; it was .16,
.55 and .97. How many images leak at all is Holm's step-down procedure with the same weights (Scandinavian Journal of
Statistics 6, 1979, section 4): the error probability of images that are shown to leak passes on to the others.

Does not cover: the point estimate that F is made of (`epsilon`), which for retrained models against themselves is
around 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_errors import from_rates, leaks, lower_bound
from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.populations import FloatArray, compared, random_half

Counts = npt.NDArray[np.intp]
LEAST_RUNS = 4
"""Runs a side: two to choose on, two to judge on."""
_ERROR = 0.05
_WORST = 0.9
"""Share of the error probability that is of the image that looks worst. Of 16 and 32 runs a side, with half of them
judged, the exact test at less than 0.84 and 0.9 of 5 % errs in less than 3 %."""
_FALL = 1.5
"""Power of its place by which the share of any other image falls."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LowerBounds:
    """Lower bounds of epsilon, image by image."""

    each_E: FloatArray
    """Lower bound of each image, [E]: each holds with 95 % confidence; 0 where the attack shows nothing."""
    all_E: FloatArray
    """Lower bounds that hold together with 95 % confidence, [E]."""
    shown: int
    """Images whose epsilon is above 0, with 95 % confidence that it is that of all of them."""
    ceiling: float
    """Largest possible value of `all_E` with so many runs: that of an attack without any error."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attacks:
    """One attack on each image of a forget set, chosen on one half of the runs and judged on the other."""

    judged: tuple[int, int]
    """Retrained and unlearned models that were judged."""
    wrong_E2: Counts
    """Retrained models taken for unlearned ones, and unlearned for retrained ones, of those, [E, 2]."""
    looks_E: FloatArray
    """Epsilon that the attack seems to show on the runs that it was chosen on, [E]."""
    apart_E: FloatArray
    """Distance of the means of those runs, in standard deviations, [E]: the order of images with equal `looks_E`."""


class _Half(NamedTuple):
    """Half of the runs of both sides."""

    unlearned_UE: FloatArray
    retrained_RE: FloatArray

    def image(self, image: int) -> tuple[FloatArray, FloatArray]:
        """Return both sides' values of one image."""
        return self.unlearned_UE[:, image], self.retrained_RE[:, image]


def epsilon_lower_bounds(
    unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike, rng: np.random.Generator
) -> LowerBounds:
    """Return the bounds of one forget set's images.

    Args:
        unlearned_UE: phi of U >= 4 unlearned models on E images.
        retrained_RE: phi of R >= 4 retrained models on the same images.
        rng: divides the runs of both sides.

    Raises:
        EvaluationError: wrong shapes, too few runs, different images, NaN or infinity.

    """
    return joint_bounds([attacks_on(unlearned_UE, retrained_RE, rng)])


def attacks_on(unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike, rng: np.random.Generator) -> Attacks:
    """Return the attacks on one forget set's images; arguments and errors are those of `epsilon_lower_bounds`."""
    unlearned_UE, retrained_RE = compared(unlearned_UE, retrained_RE, at_least=LEAST_RUNS)
    chosen_U, chosen_R = random_half(len(unlearned_UE), rng), random_half(len(retrained_RE), rng)
    order_VW = from_rates(int(chosen_R.sum()), int(chosen_U.sum()), _ERROR / 2)
    tables = np.stack([order_VW[::-1], order_VW[:, ::-1]])  # inside means retrained, inside means unlearned
    halves = ((chosen_U, chosen_R), (~chosen_U, ~chosen_R))
    first, second = (_Half(unlearned_UE[rows], retrained_RE[others]) for rows, others in halves)
    attacks = [_attack(*first.image(image), tables) for image in range(unlearned_UE.shape[1])]
    chosen_E2, judged_E2 = (
        np.array([_errors(*half.image(image), attack) for image, attack in enumerate(attacks)])
        for half in (first, second)
    )
    sd_E = np.sqrt((first.unlearned_UE.var(axis=0) + first.retrained_RE.var(axis=0)) / 2)
    apart_E = np.abs(first.unlearned_UE.mean(axis=0) - first.retrained_RE.mean(axis=0))
    return Attacks(
        judged=(len(second.retrained_RE), len(second.unlearned_UE)),
        wrong_E2=judged_E2,
        looks_E=order_VW[chosen_E2[:, 0], chosen_E2[:, 1]],
        apart_E=np.divide(apart_E, sd_E, out=np.where(apart_E > 0, np.inf, 0.0), where=sd_E > 0),
    )


def joint_bounds(sets: Sequence[Attacks]) -> LowerBounds:
    """Return the bounds of the images of all forget sets, one set after the other."""
    looks_E, apart_E = (np.concatenate([getattr(one, name) for one in sets]) for name in ("looks_E", "apart_E"))
    weights_E = np.empty(len(looks_E))
    weights_E[np.lexsort((apart_E, looks_E))[::-1]] = _weights(len(looks_E))
    results = [(*one.judged, int(wrong[0]), int(wrong[1])) for one in sets for wrong in one.wrong_E2]
    return LowerBounds(
        each_E=np.array([lower_bound(*result, _ERROR) for result in results]),
        all_E=np.array(
            [lower_bound(*result, _ERROR * weight) for result, weight in zip(results, weights_E, strict=True)]
        ),
        shown=_shown(sets, weights_E),
        ceiling=max(lower_bound(*one.judged, 0, 0, _ERROR * float(weights_E.max())) for one in sets),
    )


def _weights(images: int) -> FloatArray:
    """Return shares of the error probability by place, 1 in all; equal ones for places 2 and 3, 4 to 7, ..."""
    blocks_E = np.floor(np.log2(np.arange(1, images + 1)))
    weights_E = np.where(blocks_E > 0, 2.0 ** (-_FALL * blocks_E), 0.0)
    weights_E *= (1 - _WORST) / (weights_E.sum() or 1)
    weights_E[0] = 1 - weights_E.sum()
    return np.asarray(weights_E)


def _shown(sets: Sequence[Attacks], weights_E: FloatArray) -> int:
    """Return how many images Holm's procedure with these weights shows to have an epsilon above 0."""
    starts = np.cumsum([0, *(len(one.wrong_E2) for one in sets)])
    left_E = np.ones(len(weights_E), dtype=np.bool_)
    while left_E.any():
        errors_E = np.where(left_E, weights_E * (_ERROR / weights_E[left_E].sum()), 0.0)
        leak_E = np.concatenate(
            [_leaking(one, errors_E[start:end]) for one, start, end in zip(sets, starts, starts[1:], strict=False)]
        )
        if not leak_E.any():
            break
        left_E &= ~leak_E
    return int((~left_E).sum())


def _leaking(one: Attacks, errors_E: FloatArray) -> npt.NDArray[np.bool_]:
    """Return of which images the bound at these error probabilities is above 0, [E]; not of those with 0."""
    leak_E = np.zeros(len(errors_E), dtype=np.bool_)
    for error in np.unique(errors_E[errors_E > 0]):
        alike_E = errors_E == error
        leak_E[alike_E] = leaks(*one.judged, one.wrong_E2[alike_E], float(error))
    return leak_E


def _attack(unlearned_N: FloatArray, retrained_M: FloatArray, table: FloatArray) -> tuple[float, float, int]:
    """Return the open interval with the best bound on these runs, and what it takes models inside for (0, 1).

    Its ends are half way to the next run outside, or at infinity.
    """
    values_V = np.unique(np.concatenate([unlearned_N, retrained_M]))
    below_r = np.searchsorted(np.sort(retrained_M), values_V, "left")
    below_u = np.searchsorted(np.sort(unlearned_N), values_V, "left")
    below_r, below_u = np.append(below_r, len(retrained_M)), np.append(below_u, len(unlearned_N))
    means, left, right = _best_pair(below_r, below_u, table)
    ends = np.concatenate([[-np.inf], (values_V[1:] + values_V[:-1]) / 2, [np.inf]])
    return float(ends[left]), float(ends[right]), means


def _errors(unlearned_N: FloatArray, retrained_M: FloatArray, attack: tuple[float, float, int]) -> tuple[int, int]:
    """Return the retrained models that an attack takes for unlearned ones, and the unlearned for retrained ones."""
    low, high, means = attack
    ours, theirs = (int(((values > low) & (values < high)).sum()) for values in (unlearned_N, retrained_M))
    return (theirs, len(unlearned_N) - ours) if means else (len(retrained_M) - theirs, ours)


def _best_pair(below_r: Counts, below_u: Counts, table: FloatArray) -> tuple[int, int, int]:
    """Return the table, and the places of the ends, of the first largest bound."""
    if pays(len(below_r) ** 2):
        from ray_unlearn.evaluation.compiled.counts import best_pair

        return best_pair(below_r, below_u, table)
    left, right = np.triu_indices(len(below_r), 1)
    bounds = table[:, below_r[right] - below_r[left], below_u[right] - below_u[left]]
    means, best = np.unravel_index(int(bounds.argmax()), bounds.shape)
    return int(means), int(left[best]), int(right[best])

"""What an attacker surely gets from one image: lower bounds of epsilon with confidence, not the largest of a sample.

    found = epsilon_lower_bounds(unlearned_UE, retrained_RE, rng)
    found.each_E                                 # 95 % confidence for each image
    found.all_E                                  # 95 % confidence for all images at once
    found.ceiling                                # what attacks without any error would give with so many runs

For each image the attack (an interval, or a threshold) is chosen on one random half of the runs of both sides and
judged on the other half, so that choosing gives no advantage: with Clopper-Pearson upper bounds of its false positive
and false negative rates,

    epsilon >= max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR))

(NeurIPS 2023 Machine Unlearning Challenge, metric PDF, Eq. 2; Jagielski, Ullman and Oprea, NeurIPS 2020). Both bounds
hold together with the stated confidence, by half of the error probability each; over all images by Bonferroni.

Does not cover: the point estimate that F is made of (`epsilon`), which for retrained models against themselves is
around 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.populations import FloatArray, compared, random_half

LEAST_RUNS = 4
"""Runs a side: two to choose on, two to judge on."""
_ERROR = 0.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LowerBounds:
    """Lower bounds of epsilon, image by image."""

    each_E: FloatArray
    """Lower bound of each image, [E]: each holds with 95 % confidence; 0 where the attack shows nothing."""
    all_E: FloatArray
    """Lower bounds that hold together with 95 % confidence, [E]."""
    ceiling: float
    """Largest possible value of `all_E` with so many runs: that of an attack without any error."""


def epsilon_lower_bounds(
    unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike, rng: np.random.Generator, *, among: int | None = None
) -> LowerBounds:
    """Return the bounds.

    Args:
        unlearned_UE: phi of U >= 4 unlearned models on E images.
        retrained_RE: phi of R >= 4 retrained models on the same images.
        rng: divides the runs of both sides.
        among: how many images bounds hold for together; default E. More where E are those of one of several sets.

    Raises:
        EvaluationError: wrong shapes, too few runs, different images, NaN or infinity.

    """
    unlearned_UE, retrained_RE = compared(unlearned_UE, retrained_RE, at_least=LEAST_RUNS)
    chosen_U, chosen_R = random_half(len(unlearned_UE), rng), random_half(len(retrained_RE), rng)
    images = unlearned_UE.shape[1]
    choose = bound_table(int(chosen_R.sum()), int(chosen_U.sum()), _ERROR)
    judged = int((~chosen_R).sum()), int((~chosen_U).sum())
    each, together = (bound_table(*judged, error) for error in (_ERROR, _ERROR / (among or images)))
    found = np.zeros((2, images))
    for image in range(images):
        low, high, means = _attack(unlearned_UE[chosen_U, image], retrained_RE[chosen_R, image], choose)
        inside = [
            int(((values > low) & (values < high)).sum())
            for values in (retrained_RE[~chosen_R, image], unlearned_UE[~chosen_U, image])
        ]
        found[:, image] = each[means, inside[0], inside[1]], together[means, inside[0], inside[1]]
    return LowerBounds(each_E=found[0], all_E=found[1], ceiling=float(together.max()))


def bound_table(num_retrained: int, num_unlearned: int, error: float) -> FloatArray:
    """Return the bound by what an attack takes for which, and how many retrained and unlearned models are inside.

    First axis: 0, "inside means retrained"; 1, "inside means unlearned". [2, retrained + 1, unlearned + 1].
    """
    retrained, unlearned = np.arange(num_retrained + 1), np.arange(num_unlearned + 1)
    inside_r, outside_r = (_upper(count, num_retrained, error / 2) for count in (retrained, num_retrained - retrained))
    inside_u, outside_u = (_upper(count, num_unlearned, error / 2) for count in (unlearned, num_unlearned - unlearned))
    return np.stack(
        [
            _epsilon(outside_r[:, None], inside_u[None, :]),
            _epsilon(inside_r[:, None], outside_u[None, :]),
        ]
    )


def _epsilon(first: FloatArray, second: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = np.log((1 - DELTA - first) / second), np.log((1 - DELTA - second) / first)
    return np.asarray(np.maximum(np.nan_to_num(np.fmax(one, other), nan=0.0, neginf=0.0), 0.0))


def _upper(errors: npt.NDArray[np.int64], tries: int, error: float) -> FloatArray:
    """Return the Clopper-Pearson upper bound of a rate: 1 where all tries were errors."""
    from scipy.special import betaincinv

    below = errors < tries
    found = np.ones(len(errors))
    found[below] = betaincinv(errors[below] + 1, tries - errors[below], 1 - error)
    return found


def _attack(unlearned_N: FloatArray, retrained_M: FloatArray, table: FloatArray) -> tuple[float, float, int]:
    """Return the open interval with the best bound on these runs, and what it takes models inside for (0, 1).

    Its ends are half way to the next run outside, or at infinity.
    """
    values_V = np.unique(np.concatenate([unlearned_N, retrained_M]))
    below_r = np.searchsorted(np.sort(retrained_M), values_V, "left")
    below_u = np.searchsorted(np.sort(unlearned_N), values_V, "left")
    below_r, below_u = np.append(below_r, len(retrained_M)), np.append(below_u, len(unlearned_N))
    left, right = np.triu_indices(len(below_r), 1)
    bounds = table[:, below_r[right] - below_r[left], below_u[right] - below_u[left]]
    means, best = np.unravel_index(int(bounds.argmax()), bounds.shape)
    ends = np.concatenate([[-np.inf], (values_V[1:] + values_V[:-1]) / 2, [np.inf]])
    return float(ends[left[best]]), float(ends[right[best]]), int(means)

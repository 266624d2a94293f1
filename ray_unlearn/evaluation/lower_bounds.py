"""What an attacker surely gets from one image: lower bounds of epsilon with confidence, not the largest of a sample.

    found = epsilon_lower_bounds(unlearned_UE, retrained_RE, rng)
    found.each_E                                 # 95 % confidence for each image
    found.all_E                                  # 95 % confidence for all images at once
    found.ceiling                                # what attacks without any error would give with so many runs

For each image the attack (an interval, or a threshold) is chosen on one random half of the runs of both sides and
judged on the other half, so that choosing gives no advantage. What its errors there show is an exact test
(`attack_errors`). Over all images by Bonferroni.

Does not cover: the point estimate that F is made of (`epsilon`), which for retrained models against themselves is
around 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_errors import from_rates, lower_bound
from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.populations import FloatArray, compared, random_half

Counts = npt.NDArray[np.intp]
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
    order_VW = from_rates(int(chosen_R.sum()), int(chosen_U.sum()), _ERROR / 2)
    choose = np.stack([order_VW[::-1], order_VW[:, ::-1]])  # inside means retrained, inside means unlearned
    judged, errors = (int((~chosen_R).sum()), int((~chosen_U).sum())), (_ERROR, _ERROR / (among or images))
    found = np.zeros((2, images))
    for image in range(images):
        low, high, means = _attack(unlearned_UE[chosen_U, image], retrained_RE[chosen_R, image], choose)
        inside = [
            int(((values > low) & (values < high)).sum())
            for values in (retrained_RE[~chosen_R, image], unlearned_UE[~chosen_U, image])
        ]
        wrong = (inside[0], judged[1] - inside[1]) if means else (judged[0] - inside[0], inside[1])
        found[:, image] = [lower_bound(*judged, *wrong, error) for error in errors]
    return LowerBounds(each_E=found[0], all_E=found[1], ceiling=lower_bound(*judged, 0, 0, errors[1]))


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


def _best_pair(below_r: Counts, below_u: Counts, table: FloatArray) -> tuple[int, int, int]:
    """Return the table, and the places of the ends, of the first largest bound."""
    if pays(len(below_r) ** 2):
        from ray_unlearn.evaluation.compiled.counts import best_pair

        return best_pair(below_r, below_u, table)
    left, right = np.triu_indices(len(below_r), 1)
    bounds = table[:, below_r[right] - below_r[left], below_u[right] - below_u[left]]
    means, best = np.unravel_index(int(bounds.argmax()), bounds.shape)
    return int(means), int(left[best]), int(right[best])

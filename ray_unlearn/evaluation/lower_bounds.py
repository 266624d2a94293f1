"""What an attacker surely gets from one image: lower bounds of epsilon with confidence, not the largest of a sample.

    found = epsilon_lower_bounds(unlearned_UE, retrained_RE, rng)
    found.each_E                                 # 95 % confidence for each image
    found.all_E                                  # 95 % confidence for all images at once
    found.ceiling                                # what attacks without any error would give with so many runs

For each image the attack (an interval, or a threshold) is chosen on one random half of the runs of both sides and
judged on the other half, so that choosing gives no advantage. (epsilon, delta) allows false positive and false negative
rates with

    epsilon >= max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR))

(NeurIPS 2023 Machine Unlearning Challenge, metric PDF, Eq. 2). Jagielski, Ullman and Oprea (NeurIPS 2020) put upper
Clopper-Pearson bounds there, with half of the error probability each. But both rates are rarely so high at once: models
that do not differ had a bound above 0 in 0.01 % of simulated images instead of 5 %. Here that number puts the possible
results in order, and the bound is the largest epsilon with a probability of so good a result, or a better one, of at
most 5 % whatever the rates are that it allows: an exact unconditional test, as Barnard's of two proportions (Biometrika
1947). It holds with the same confidence. Over all images by Bonferroni.

Does not cover: the point estimate that F is made of (`epsilon`), which for retrained models against themselves is
around 1.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.populations import FloatArray, compared, random_half

Counts = npt.NDArray[np.intp]
LEAST_RUNS = 4
"""Runs a side: two to choose on, two to judge on."""
_ERROR = 0.05
_LARGEST = 20.0
"""Upper end of the search for epsilon: no number of runs shows so much."""
_PRECISION = 1e-4
"""Of epsilon; the bound is rounded down."""
_POINTS = 100
"""Pairs of rates on either part of the line that the largest probability is looked for on: it is missed by a two
thousandth of itself at most, next to 5,000 pairs, with 8 to 128 runs a side."""


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
    order_VW = _from_rates(int(chosen_R.sum()), int(chosen_U.sum()), _ERROR / 2)
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


@lru_cache(maxsize=65536)
def lower_bound(
    num_retrained: int, num_unlearned: int, false_positives: int, false_negatives: int, error: float
) -> float:
    """Return the lower bound of epsilon from one attack's errors, 0 where it shows nothing.

    Args:
        num_retrained: retrained models that were judged.
        num_unlearned: unlearned models that were judged.
        false_positives: retrained models taken for unlearned ones.
        false_negatives: unlearned models taken for retrained ones.
        error: probability of a bound that is too high.

    """
    order = _order(num_retrained, num_unlearned, error)
    as_good = order >= order[false_positives, false_negatives] - 1e-12
    if order[false_positives, false_negatives] == -np.inf or _largest_p(as_good, 0.0) > error:
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if _largest_p(as_good, middle) > error else (middle, high)
    return low


@lru_cache(maxsize=8)
def _order(num_retrained: int, num_unlearned: int, error: float) -> FloatArray:
    """Return what possible results are ordered by: [false positives, false negatives], falling in both.

    It is the bound from upper bounds of both rates that are, as normal variables, together too low with this error.
    """
    from scipy.special import ndtr, ndtri

    return _from_rates(num_retrained, num_unlearned, float(ndtr(ndtri(error) / 2**0.5)))


def _from_rates(num_retrained: int, num_unlearned: int, each: float) -> FloatArray:
    """Return epsilon from upper bounds of both rates, each with this error, by numbers of errors; it may be below 0."""
    rates = [_upper(np.arange(size + 1), size, each) for size in (num_retrained, num_unlearned)]
    first, second = rates[0][:, None], rates[1][None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.fmax(np.log((1 - DELTA - first) / second), np.log((1 - DELTA - second) / first))
    return np.asarray(np.nan_to_num(both, nan=-np.inf, neginf=-np.inf))


def _largest_p(as_good_VW: npt.NDArray[np.bool_], epsilon: float) -> float:
    """Return the largest probability of these results over all rates that (epsilon, delta) allows.

    They get likelier with lower rates, so that only the lowest pairs of rates count: a line of two straight parts.

    Args:
        as_good_VW: whether so many false positives and negatives are among the results; falling in both.
        epsilon: what is allowed.

    """
    corner = (1 - DELTA) / (1 + math.exp(epsilon))
    low_P = np.linspace(0, corner, _POINTS)
    high_P = 1 - DELTA - math.exp(epsilon) * low_P
    fpr_P, fnr_P = np.concatenate([low_P, high_P]), np.concatenate([high_P, low_P])
    retrained, unlearned = (size - 1 for size in as_good_VW.shape)
    up_to_PW = np.cumsum(_binomial(unlearned, fnr_P), axis=1)
    up_to_PW = np.concatenate([np.zeros((len(fnr_P), 1)), up_to_PW], axis=1)
    return float((_binomial(retrained, fpr_P) * up_to_PW[:, as_good_VW.sum(axis=1)]).sum(axis=1).max())


def _binomial(tries: int, rate_P: FloatArray) -> FloatArray:
    """Return the probabilities of 0, 1, ... errors at each rate, [rates, tries + 1]."""
    from scipy.special import gammaln, xlog1py, xlogy

    errors, rate_P1 = np.arange(tries + 1), np.clip(rate_P, 0, 1)[:, None]
    ways = gammaln(tries + 1) - gammaln(errors + 1) - gammaln(tries - errors + 1)
    return np.asarray(np.exp(ways + xlogy(errors, rate_P1) + xlog1py(tries - errors, -rate_P1)))


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

"""The exact test of an attack's errors: the largest epsilon that so few false positives and negatives refute.

    lower_bound(64, 64, false_positives=3, false_negatives=10, error=0.05)       # 95 % confidence; 0: shows nothing
    order_VW = from_rates(64, 64, 0.025)         # Clopper-Pearson's epsilon by numbers of errors, falling in both
    leaks(64, 64, wrong_E2, error=0.05)          # [E] whether the bound of each is above 0

(epsilon, delta) allows false positive and false negative rates with

    epsilon >= max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR))

(NeurIPS 2023 Machine Unlearning Challenge, metric PDF, Eq. 2). Jagielski, Ullman and Oprea (NeurIPS 2020) put upper
Clopper-Pearson bounds there, with half of the error probability each. But both rates are rarely so high at once: models
that do not differ had a bound above 0 in 0.01 % of simulated images instead of 5 %. Here that number puts the possible
results in order, and the bound is the largest epsilon with a probability of so good a result, or a better one, of at
most 5 % for all rates that it allows: an exact unconditional test, as Barnard's of two proportions (Biometrika
1947). It holds with the same confidence.

Does not cover: which attack is judged, and on which runs (`lower_bounds`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.populations import FloatArray

_LARGEST = 20.0
"""Upper end of the search for epsilon: no number of runs shows so much."""
_STEPS = 1 << 18
"""Steps of epsilon up to there, of less than 1e-4; the bound is rounded down to one."""
_POINTS = 100
"""Pairs of rates on either part of the line that the largest probability is looked for on: it is missed by a two
thousandth of itself at most, next to 5,000 pairs, with 8 to 128 runs a side."""
_FIRST_STRIDE = 1 << 10
"""Steps from the first epsilon that is tried to the second; each next stride is four times as long."""
_BISECT = 8
"""Of so many epsilons one is in the middle, wherever the line through the logarithms would have it."""


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
    found = float(order[false_positives, false_negatives])
    if found == -np.inf:
        return 0.0
    as_good_V = (order >= found - 1e-12).sum(axis=1)
    results = _Results(num_retrained, num_unlearned, as_good_V[as_good_V > 0])
    return _LARGEST * _last_step(results, error, round(found / _LARGEST * _STEPS)) / _STEPS


def leaks(
    num_retrained: int, num_unlearned: int, wrong_E2: npt.NDArray[np.intp], error: float
) -> npt.NDArray[np.bool_]:
    """Return of which attacks the lower bound is above 0, [E]: those from some place on, in the order of results.

    Args:
        num_retrained: as in `lower_bound`, and so are `num_unlearned` and `error`.
        num_unlearned: see there.
        wrong_E2: false positives and false negatives of each attack, [E, 2].
        error: see there.

    """
    order_E = _order(num_retrained, num_unlearned, error)[wrong_E2[:, 0], wrong_E2[:, 1]]
    values, first = np.unique(order_E, return_index=True)

    def above(place: int) -> bool:
        return lower_bound(num_retrained, num_unlearned, *map(int, wrong_E2[first[place]]), error) > 0

    least = bisect_left(range(len(values)), True, key=above)
    return np.asarray(order_E >= values[least]) if least < len(values) else np.zeros(len(order_E), dtype=np.bool_)


@lru_cache(maxsize=8)
def _order(num_retrained: int, num_unlearned: int, error: float) -> FloatArray:
    """Return what possible results are ordered by: [false positives, false negatives], falling in both.

    It is the bound from upper bounds of both rates that are, as normal variables, together too low with this error.
    """
    from scipy.special import ndtr, ndtri

    return from_rates(num_retrained, num_unlearned, float(ndtr(ndtri(error) / 2**0.5)))


def from_rates(num_retrained: int, num_unlearned: int, each: float) -> FloatArray:
    """Return epsilon from upper bounds of both rates, each with this error, by numbers of errors; it may be below 0."""
    rates = [_upper(np.arange(size + 1), size, each) for size in (num_retrained, num_unlearned)]
    first, second = rates[0][:, None], rates[1][None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.fmax(np.log((1 - DELTA - first) / second), np.log((1 - DELTA - second) / first))
    return np.asarray(np.nan_to_num(both, nan=-np.inf, neginf=-np.inf))


def _upper(errors: npt.NDArray[np.int64], tries: int, error: float) -> FloatArray:
    """Return the Clopper-Pearson upper bound of a rate: 1 where all tries were errors."""
    from scipy.special import betaincinv

    below = errors < tries
    found = np.ones(len(errors))
    found[below] = betaincinv(errors[below] + 1, tries - errors[below], 1 - error)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Results:
    """Results as good as one, or better: with fewer errors of either kind a result stays among them."""

    num_retrained: int
    num_unlearned: int
    as_good_V: npt.NDArray[np.intp]
    """How many numbers of false negatives, from 0 up, are among them for 0, 1, ... false positives; all above 0."""

    def probabilities(self, epsilon: float, pairs_A: npt.NDArray[np.intp]) -> FloatArray:
        """Return their probabilities, [A], at some of the pairs of rates that are the lowest that epsilon allows.

        They get likelier with lower rates, so that only the lowest pairs count: a line of two straight parts, with
        `_POINTS` pairs each. Each pair's rates fall, or stay, as epsilon rises.
        """
        corner = (1 - DELTA) / (1 + math.exp(epsilon))
        low_P = np.linspace(0, corner, _POINTS)
        high_P = 1 - DELTA - math.exp(epsilon) * low_P
        fpr_A, fnr_A = np.concatenate([low_P, high_P])[pairs_A], np.concatenate([high_P, low_P])[pairs_A]
        up_to_AW = np.cumsum(_binomial(self.num_unlearned, fnr_A), axis=1)
        exactly_AV = _binomial(self.num_retrained, fpr_A)[:, : len(self.as_good_V)]
        return np.asarray((exactly_AV * up_to_AW[:, self.as_good_V - 1]).sum(axis=1))


def _last_step(results: _Results, error: float, first: int) -> int:
    """Return the last step of epsilon at which these results have at most this probability, 0 where there is none.

    Of a pair of rates they get likelier from step to step. So a pair that they are unlikely enough at is not looked at
    again below that step; most pairs are gone after two or three steps. The next step is where the line through the
    logarithms of two probabilities meets the error.

    Args:
        results: as good as the one at hand.
        error: largest probability.
        first: step that is tried first: the nearer, the fewer are.

    """
    pairs_A, step, stride, tries = np.arange(2 * _POINTS), min(max(first, 0), _STEPS - 1), _FIRST_STRIDE, 0
    low, high, log_low, log_high = -1, _STEPS, 0.0, 0.0  # at most the error, more, and how far off both are
    while high - low > 1:
        p_A = results.probabilities(step * _LARGEST / _STEPS, pairs_A)
        off, tries = math.log(max(float(p_A.max()), 1e-300) / error), tries + 1
        if off > 0:
            high, log_high, pairs_A = step, off, pairs_A[p_A > error]
        else:
            low, log_low = step, off
        if low < 0 or high == _STEPS:
            step, stride = step + (stride if low >= 0 else -stride), stride * 4
        else:
            step = (
                (low + high) // 2
                if tries % _BISECT == 0
                else round(low + (high - low) * log_low / (log_low - log_high))
            )
        step = min(max(step, low + 1), high - 1)
    return max(low, 0)


def _binomial(tries: int, rate_A: FloatArray) -> FloatArray:
    """Return the probabilities of 0, 1, ... errors at each rate, [rates, tries + 1]."""
    rate_A1, errors = np.clip(rate_A, 0, 1)[:, None], np.arange(tries + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        wrong, right = np.log(rate_A1) * errors, np.log1p(-rate_A1) * errors[::-1]
    wrong[:, 0] = right[:, -1] = 0  # the 0th power, of 0 too
    return np.asarray(np.exp(wrong + right + _log_ways(tries)))


@lru_cache(maxsize=8)
def _log_ways(tries: int) -> FloatArray:
    """Return the logarithms of the binomial coefficients, [tries + 1]."""
    from scipy.special import gammaln

    errors = np.arange(tries + 1)
    return np.asarray(gammaln(tries + 1) - gammaln(errors + 1) - gammaln(tries - errors + 1))

"""Noise that a stated (epsilon, delta) needs: the arithmetic of certified unlearning.

    std = std_by_clipped_gradients(1.0, 1e-5, steps=11, rate=0.01, decay=50.0, start=20.0, gradient=10.0)
    std = std_by_clipped_weights(1.0, 1e-5, steps=7, weights=0.5)
    std = std_of_one_noise(1.0, 1e-5, distance=40.0)
    count = langevin_steps(1.0, 1e-5, forgotten=0.1, decay=0.05, rate=0.95, std=0.03)

Norms are those of the vector of all trainable weights, or of their gradients. Statements are upper bounds for the worst
case: two runs whose starts, and whose gradients at every step, differ as far as clipping permits.

Sources: Balle and Wang, ICML 2018 (`gaussian_delta`); Balle et al., AISTATS 2020 (from Rényi divergence to epsilon);
Feldman et al., FOCS 2018, and Koloskova et al., ICML 2025 (noisy steps); Chien et al., NeurIPS 2024 (Langevin).

Does not cover: the methods that add the noise (`noisy_finetune`, `langevin`), and measuring what they achieve
(`ray_unlearn.evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ray_unlearn.errors import MethodError

_ORDERS = 1 + np.logspace(-3, 6, 1801)
"""Rényi orders that are tried; every order gives a valid epsilon."""
_PRECISION = 1e-9  # of noise, relative


def std_by_clipped_gradients(
    epsilon: float, delta: float, *, steps: int, rate: float, decay: float, start: float, gradient: float
) -> float:
    """Return the noise of each step w <- w - rate (g + decay w) + noise; |g| <= gradient, |w| <= start at first.

    The last weights' Rényi divergence of order a is at most a D^2 / (2 V): r = 1 - rate decay, D = 2 start r^steps +
    2 rate gradient sum_t r^t, V = std^2 sum_t r^(2 t), t < steps.

    Koloskova et al.'s first theorem is the case without decay, with a rounder conversion to epsilon: std^2 =
    9 log(1 / delta) / (epsilon^2 steps) * (start + rate gradient steps)^2, for epsilon up to log(1 / delta) / 4. This
    is up to a half less noise for the same statement.

    Raises:
        MethodError: rate times decay is above 1, so that a step overshoots.

    """
    shrink = 1 - rate * decay
    if shrink < 0:
        raise MethodError(f"noisy_lr times shrink: expected at most 1; found {rate * decay:g}")
    powers = shrink ** np.arange(steps)
    distance = 2 * start * shrink**steps + 2 * rate * gradient * powers.sum()
    return float(distance / math.sqrt(2 * largest_slope(epsilon, delta) * (powers**2).sum()))


def std_by_clipped_weights(epsilon: float, delta: float, *, steps: int, weights: float) -> float:
    """Return the noise of each step w <- clip(w - rate g, weights) + noise, after which delta holds at epsilon.

    Each step multiplies delta by gaussian_delta(log(1 + (e^epsilon - 1) / delta), 2 weights / std), from delta = 1.
    """

    def reached(std: float) -> float:
        left = 1.0
        for _ in range(steps):
            amplified = epsilon - math.log(left) + math.log1p((left - 1) * math.exp(-epsilon)) if left else 0.0
            left *= gaussian_delta(amplified, 2 * weights / std)
        return left

    return _least(lambda std: reached(std) <= delta, start=weights)


def std_of_one_noise(epsilon: float, delta: float, *, distance: float) -> float:
    """Return the standard deviation of noise that hides a distance."""
    return _least(lambda std: gaussian_delta(epsilon, distance / std) <= delta, start=distance)


def langevin_steps(
    epsilon: float, delta: float, *, forgotten: float, decay: float, rate: float, std: float, lipschitz: float = 2.0
) -> int:
    """Return the number of noisy steps on the retain set after learning on all images that reach (epsilon, delta).

    epsilon is the minimum over orders a of exp(-steps decay rate / a) E a + log(1 / delta) / (a - 1), where
    E = 4 (forgotten lipschitz)^2 / (decay std^2).

    Args:
        epsilon: of the statement.
        delta: of the statement.
        forgotten: share of the images learned from that are forgotten.
        decay: L2 strength, the strong convexity of the loss.
        rate: of a step; its noise is sqrt(2 rate) std.
        std: of the stationary noise.
        lipschitz: bound of an image's gradient.

    Raises:
        MethodError: no number of steps reaches so small an epsilon at this delta.

    """
    least = math.log(1 / delta) / (float(_ORDERS.max()) - 1)
    if epsilon <= least:
        raise MethodError(f"epsilon {epsilon:g} at delta {delta:g} is out of reach: it must be above {least:.2g}")
    at_start = 4 * _ORDERS * (forgotten * lipschitz) ** 2 / (decay * std**2)
    left = epsilon - math.log(1 / delta) / (_ORDERS - 1)
    possible = left > 0
    needed = np.log(np.maximum(at_start[possible] / left[possible], 1.0)) * _ORDERS[possible] / (decay * rate)
    return math.ceil(float(needed.min()))


def gaussian_delta(epsilon: float, distance: float) -> float:
    """Return the smallest delta of two unit normals whose means are `distance` apart."""
    if distance == 0:
        return 0.0

    def above(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    log_tail = _log_above(epsilon / distance + distance / 2)
    return max(0.0, above(epsilon / distance - distance / 2) - math.exp(min(0.0, epsilon + log_tail)))


def _log_above(x: float) -> float:
    """Return log Q(x), also where Q(x) is too small for a double: by Mills' ratio."""
    tail = math.erfc(x / math.sqrt(2)) / 2
    return math.log(tail) if tail > 1e-300 else -x * x / 2 - math.log(x * math.sqrt(2 * math.pi))


def epsilon_of_slope(slope: float, delta: float) -> float:
    """Return epsilon at delta where the Rényi divergence of every order a is at most slope times a."""
    return max(0.0, float((slope * _ORDERS + _conversion(delta)).min()))


def largest_slope(epsilon: float, delta: float) -> float:
    """Return the largest slope with `epsilon_of_slope` at most epsilon."""
    return float(((epsilon - _conversion(delta)) / _ORDERS).max())


def _conversion(delta: float) -> np.ndarray:
    return np.log1p(-1 / _ORDERS) - (math.log(delta) + np.log(_ORDERS)) / (_ORDERS - 1)


def _least(enough: Callable[[float], bool], start: float) -> float:
    """Return the smallest noise that is enough, to nine digits, by halving the interval."""
    high = start
    while not enough(high):
        high *= 2
    low = high / 2
    while enough(low):
        low, high = low / 2, low
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

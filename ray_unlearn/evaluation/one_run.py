"""The audit of one run: what a single unlearned model shows of which images it was made to forget.

    splits, why = control_splits(study.data)     # ("validation",), "", or none and the reason why there is none
    bound = audited(forget_E, control_C, rng)    # lower bound of epsilon with 95 % confidence, from one model's scores
    largest_epsilon(m=1000, right=(75,), guesses=(100,), delta=1e-4, error=0.05)

Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023, arXiv 2305.08846): of m images
each is in or out by a fair coin; an auditor guesses some of them. If a model reveals no more than epsilon, v or more of
r guesses are right with a probability of at most

    P[W >= v] + m delta / (1 + e^eps),    W ~ Bin(r, e^eps / (1 + e^eps))

The largest epsilon for which that is at most 5 % is the bound. The paper prints 0.553 for m = r = 100, v = 75, epsilon
= log 3 and delta = 0; so does `p_value` for one number of guesses.

The term of delta is not the paper's, 2 m delta max_i P[v > W >= v - i] / i, which fails where p is near 1: m = r = 5,
v = 2, epsilon = 1 and delta = 0.05 give 0.989, but a mechanism with 2 right guesses wherever there would be 0 or 1 is
allowed, and has 1. Ours comes of replacing guesses by coins, one after another. With q = e^eps / (1 + e^eps), a guess
that is right with a probability of p_i, given those before it, adds at most the mean of max(0, p_i - q). That is the
mean of max(0, p_i - e^eps (1 - p_i)) over 1 + e^eps, and for each image the former is at most delta.

Here "in" is a forget image (trained on, then unlearned), "out" one that no model was trained on. Chance must have
decided which is which: forget set and control set have to be drawn from one pool. The study's draws have fixed sizes; a
coin per image comes of it by drawing how many of the m images are forget images from Bin(m, 1/2), and then that many of
each set. An image's score is its phi under the model, in the retrained models' standard deviations above their mean:
retrained models saw neither set. As sizes are fixed, epsilon is that of exchanging a forget image for a control image.
The highest scores are guessed "in", as many of the lowest "out", the others are left out. How many are guessed is tried
in four ways (`SHARES`), which the paper leaves to the auditor's choice in advance.

All four count at once, without Bonferroni's correction. The paper's proof goes guess by guess: given the model and all
guesses before it, a guess is right with a probability of at most q. So in the order of confidence the right guesses are
at most as many as heads of independent coins, after every guess, and the four numbers together are below those of one
series of coins. With W_j heads among the first r_j and numbers v_j to be reached, P[W >= v] above becomes P[W_j >= v_j
for any j]; the proof needs only that more right guesses never leave this event. The numbers v_j are those that are as
surprising as the most surprising of the four: by the lower Clopper-Pearson bound of the share of right guesses, at a
quarter of the error; of equal ones, those with as many right guesses among all, and then among the next fewer. They do
not depend on epsilon, so that P rises with it, and the bound is never below that of Bonferroni. Where a model reveals
nothing, it is above 0 in the largest share of runs below 5 % - m delta / 2 that whole numbers of guesses have in this
order: 4.4 to 5 %.

Does not cover: forget sets that are a class, a person or a list, to which no control set is alike; and what many runs
show together (`lower_bounds`, which needs no random forget set).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.study.schema import Data

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the images that are guessed, all of which count."""
LEAST_IMAGES = 20
"""Images that an audit takes: with 20 and no error, the bound is about 1."""
ERROR = 0.05
"""Probability of a bound that is too high."""
_STEP = 1e-7
"""Precision of epsilon."""


def control_splits(data: Data) -> tuple[tuple[str, ...], str]:
    """Return the splits that were drawn from the forget set's own pool, or none and the reason why there is none."""
    if data.forget.fraction is None:
        return (), "the forget set was not drawn at random (forget: {fraction: ...})"
    if drawn := tuple(name for name in ("validation", "test") if isinstance(getattr(data, name), float)):
        return drawn, ""
    return (), "no other set was drawn from the images of the forget set: data.validation or data.test as a fraction"


def standardised(phi_RE: FloatArray, reference_RE: FloatArray) -> FloatArray:
    """Return phi in the reference's standard deviations above its mean, [R, E]; 0 where the reference is constant."""
    differs_E = np.ptp(reference_RE, axis=0) > 0
    sd_E = np.where(differs_E, reference_RE.std(axis=0, ddof=1), 1)
    return np.asarray(np.where(differs_E, (phi_RE - reference_RE.mean(axis=0)) / sd_E, 0.0))


def audited(forget_E: FloatArray, control_C: FloatArray, rng: np.random.Generator) -> float:
    """Return the lower bound of epsilon of one model, with 95 % confidence.

    Args:
        forget_E: scores of the forget images.
        control_C: scores of the control images; together with the forget images `LEAST_IMAGES` or more.
        rng: draws which images of both sets take part, and the order of equal scores.

    """
    images = audited_images(len(forget_E), len(control_C))
    many_in = int(rng.binomial(images, 0.5))
    if many_in > len(forget_E) or images - many_in > len(control_C):
        return 0.0  # once in a thousand audits: nothing is guessed
    scores = np.concatenate(
        [rng.choice(forget_E, many_in, replace=False), rng.choice(control_C, images - many_in, replace=False)]
    )
    inside = np.arange(images) < many_in
    order = np.lexsort((rng.random(images), scores))
    halves = guessed(images)
    right = tuple(int((~inside[order[:half]]).sum() + inside[order[-half:]].sum()) for half in halves)
    return largest_epsilon(images, right, tuple(2 * half for half in halves), DELTA, ERROR)


def guessed(images: int) -> tuple[int, ...]:
    """Return how many of so many images are guessed "in", and as many "out", in each way; fewest first."""
    halves = {min(max(1, round(share * images / 2)), images // 2) for share in SHARES}
    return tuple(sorted(halves))


def audited_images(forget: int, control: int) -> int:
    """Return how many images of two sets take part, so that their number of forget images nearly always suffices."""
    both = 2 * min(forget, control)
    return max(2, math.floor(both - 3.3 * both**0.5)) if both else 0


@lru_cache(maxsize=4096)
def largest_epsilon(m: int, right: tuple[int, ...], guesses: tuple[int, ...], delta: float, error: float) -> float:
    """Return the largest epsilon that so many right guesses reject.

    Args:
        m: images, each in or out by a fair coin.
        right: right guesses among the first `guesses`, by confidence.
        guesses: rising numbers of guesses, at most m.
        delta: of (epsilon, delta).
        error: probability of a bound that is too high.

    """
    from scipy.optimize import brentq

    def excess(epsilon: float, delta: float = delta) -> float:
        return p_value(m, right, guesses, epsilon, delta, error) - error

    if excess(0.0, 0.0) > 0:  # and so with every epsilon
        return 0.0
    low = next((step / 4 for step in range(40) if excess(step / 4) < 0), None)
    if low is None:
        return 0.0
    high = low + 1
    while excess(high) < 0:
        low, high = high, 2 * high
    return max(0.0, float(brentq(excess, low, high, xtol=_STEP)) - 2 * _STEP)


def p_value(
    m: int, right: tuple[int, ...], guesses: tuple[int, ...], epsilon: float, delta: float, error: float = 0.05
) -> float:
    """Return the probability of guesses as surprising as these if a model reveals no more than epsilon.

    Args:
        m: as in `largest_epsilon`, and so are `right`, `guesses` and `delta`.
        right: see there.
        guesses: see there.
        epsilon: what the model reveals.
        delta: see there.
        error: level at which numbers of right guesses are put in order; with one number of guesses it has no effect.

    """
    order = _as_surprising(right, guesses, error / len(guesses))
    chance = 1 / (1 + math.exp(-epsilon))
    return min(_as_large(order, guesses, chance) + m * delta * (1 - chance), 1.0)


class _Order(NamedTuple):
    """Numbers of right guesses, for each number of guesses, from which a result is as surprising as the one at hand."""

    larger: tuple[int, ...]
    """More surprising, by any of them."""
    equal: tuple[int, ...]
    """As surprising, by any of them."""
    last: int
    """Right guesses among all: of results that are as surprising, those with more."""
    before: int
    """Right guesses among the next fewer: of those with as many among all, those with as many here."""


@lru_cache(maxsize=256)
def _as_surprising(right: tuple[int, ...], guesses: tuple[int, ...], level: float) -> _Order:
    from scipy.special import betaincinv

    def lower_bounds(size: int) -> FloatArray:
        v = np.arange(1, size + 1)
        return np.concatenate([[0.0], betaincinv(v, size - v + 1, level)])

    bounds = [lower_bounds(size) for size in guesses]
    largest = max(bound[v] for bound, v in zip(bounds, right, strict=True))
    larger, equal = (
        tuple(int(np.searchsorted(bound, largest * (1 + side * 1e-9))) for bound in bounds) for side in (1, -1)
    )
    return _Order(larger, equal, right[-1], right[-2] if len(right) > 1 else 0)


def _as_large(order: _Order, guesses: tuple[int, ...], chance: float) -> float:
    """Return the probability that one series of coins is as surprising."""
    tosses = guesses[-1] - (0, *guesses)[-2]
    fewer = np.concatenate([[0.0], np.cumsum(_binomial(tosses, chance))])  # of 0, 1, ... heads in the last tosses
    not_larger_B, less_B = (_not_reached(least[:-1], guesses[:-1], chance) for least in order[:2])
    heads_B = np.arange(len(less_B))
    as_many_B = order.last - heads_B + (heads_B < order.before)
    up_to, up_to_less = (
        fewer[np.clip(at_B, 0, tosses + 1)] for at_B in (as_many_B, np.maximum(order.equal[-1] - heads_B, as_many_B))
    )
    return float(1 - not_larger_B @ up_to - less_B @ (up_to_less - up_to))


def _not_reached(least: Sequence[int], guesses: tuple[int, ...], chance: float) -> FloatArray:
    """Return the probability of each number of heads, of series that reach none of the numbers at their tosses."""
    heads = np.ones(1)
    for number, size, before in zip(least, guesses, (0, *guesses), strict=False):
        heads = np.convolve(heads, _binomial(size - before, chance))
        heads[number:] = 0
    return heads


def _binomial(tosses: int, chance: float) -> FloatArray:
    """Return the probabilities of 0, 1, ... heads."""
    from scipy.special import gammaln

    heads = np.arange(tosses + 1)
    ways = gammaln(tosses + 1) - gammaln(heads + 1) - gammaln(tosses - heads + 1)
    return np.asarray(np.exp(ways + heads * math.log(chance) + (tosses - heads) * math.log1p(-chance)))

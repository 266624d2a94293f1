"""The audit of one run: what a single unlearned model shows of which images it was made to forget.

    splits, why = control_splits(study.data)     # ("validation",), "", or none and the reason why there is none
    bound = audited(forget_E, control_C, rng)    # lower bound of epsilon with 95 % confidence, from one model's scores
    largest_epsilon(m=1000, right=75, guesses=100, delta=1e-4, error=0.05)

Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023, arXiv 2305.08846): of m images
each is in or out by a fair coin; an auditor guesses some of them. If a model reveals no more than epsilon, v or more of
r guesses are right with a probability of at most

    P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i,    W ~ Bin(r, e^eps / (1 + e^eps))

The largest epsilon for which that is at most 5 % is the bound. `p_value` and `largest_epsilon` are the programs of
its Appendix D, read in several public copies; the paper prints 0.553 for m = r = 100, v = 75, epsilon = log 3.

Here "in" is a forget image (trained on, then unlearned), "out" one that no model was trained on. Chance must have
decided which is which: forget set and control set have to be drawn from one pool. The study's draws have fixed sizes; a
coin per image comes of it by drawing how many of the m images are forget images from Bin(m, 1/2), and then that many of
each set. An image's score is its phi under the model, in the retrained models' standard deviations above their mean:
retrained models saw neither set. The highest scores are guessed "in", as many of the lowest "out", the others are left
out. How many are guessed is tried in four ways, each at a quarter of the error (Bonferroni).

Does not cover: forget sets that are a class, a person or a list, to which no control set is alike; and what many runs
show together (`lower_bounds`, which needs no random forget set).
"""

from __future__ import annotations

import math

import numpy as np

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.study.schema import Data

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the images that are guessed."""
LEAST_IMAGES = 20
"""Images that an audit takes: with 20 and no error, the bound is about 1."""
_ERROR = 0.05
_STEPS = 30
"""Halvings of the search for epsilon, as in the authors' program."""


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
    found = 0.0
    for share in SHARES:
        half = max(1, round(share * images / 2))
        half = min(half, images // 2)
        right = int((~inside[order[:half]]).sum() + inside[order[-half:]].sum())
        found = max(found, largest_epsilon(images, right, 2 * half, DELTA, _ERROR / len(SHARES)))
    return found


def audited_images(forget: int, control: int) -> int:
    """Return how many images of two sets take part, so that their number of forget images nearly always suffices."""
    both = 2 * min(forget, control)
    return max(2, math.floor(both - 3.3 * both**0.5)) if both else 0


def largest_epsilon(m: int, right: int, guesses: int, delta: float, error: float) -> float:
    """Return the largest epsilon that so many right guesses reject.

    Args:
        m: images, each in or out by a fair coin.
        right: right guesses.
        guesses: guesses, at most m.
        delta: of (epsilon, delta).
        error: probability of a bound that is too high.

    """
    low, high = 0.0, 1.0
    if p_value(m, right, guesses, 0.0, delta) > error:
        return 0.0
    while p_value(m, right, guesses, high, delta) < error:
        high += 1
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(m, right, guesses, middle, delta) < error else (low, middle)
    return low


def p_value(m: int, right: int, guesses: int, epsilon: float, delta: float) -> float:
    """Return the probability of so many right guesses, or more, if a model reveals no more than epsilon."""
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-epsilon))
    p = float(binom.sf(right - 1, guesses, chance))
    if right:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
        p += 2 * m * delta * float((below / np.arange(1, right + 1)).max())
    return min(p, 1.0)

"""How much of a method's spread comes from the original that a run starts from, and how much from the run itself.

    found = variance_shares(phi_RE, originals_R, sd_E)           # None with one original, or one run each
    found.original, found.run                                    # shares of the variance of phi
    buys_more(found, original_s=60, run_s=5)                     # "originals" or "runs": for the next hour

With I originals and J runs of each, the mean of phi varies by original / I + run / (I J): more runs of the same
originals leave the first term as it is (arXiv 2510.26714). The shares are those of a one-way analysis of variance with
random effects, over all forget images together, each in units of the reference's standard deviation.

`error_of_mean` is that variance of any number's mean over runs, from the originals' means alone.

Does not cover: intervals (`intervals`), which leave out whole originals where there are 4 or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.t_distribution import degrees_of_sum

_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceShares:
    """Two parts of the variance of phi over runs, which add up to 1, and the design that they were estimated from."""

    originals: int
    """I."""
    runs_each: float
    """J: runs of each original, on average as an analysis of variance counts them."""
    original: float
    run: float


def variance_shares(phi_RE: FloatArray, originals_R: np.ndarray, sd_E: FloatArray) -> VarianceShares | None:
    """Return both shares, or None where they cannot be separated or nothing varies.

    Args:
        phi_RE: phi of the method's runs on the forget images.
        originals_R: which original each run started from.
        sd_E: the reference's standard deviation; images where it is 0 are left out.

    """
    names, place_R, sizes_I = np.unique(originals_R, return_inverse=True, return_counts=True)
    originals, runs = len(names), len(phi_RE)
    varies_E = sd_E > 0
    if originals < 2 or runs <= originals or not varies_E.any():
        return None
    z_RE = phi_RE[:, varies_E] / sd_E[varies_E]
    sums_IE = np.zeros((originals, z_RE.shape[1]))
    np.add.at(sums_IE, place_R, z_RE)
    means_IE = sums_IE / sizes_I[:, None]
    within = ((z_RE - means_IE[place_R]) ** 2).sum() / (runs - originals)
    between = (sizes_I[:, None] * (means_IE - z_RE.mean(axis=0)) ** 2).sum() / (originals - 1)
    runs_each = float((runs - (sizes_I**2).sum() / runs) / (originals - 1))
    of_original = max(0.0, float(between - within) / runs_each)
    total = of_original + float(within)
    if total == 0:
        return None
    return VarianceShares(
        originals=originals, runs_each=runs_each, original=of_original / total, run=float(within) / total
    )


def error_of_mean(values_R: FloatArray, originals_R: np.ndarray) -> tuple[float, int]:
    """Return the variance of the mean over runs if other originals were drawn, and how many originals there are.

    Means without one original each tell it (jackknife), also where one original has most of the runs. With as many runs
    of each, it is the variance of the originals' means over their number.
    """
    names, place_R, sizes_I = np.unique(originals_R, return_inverse=True, return_counts=True)
    without_I = np.bincount(place_R, values_R - values_R.mean()) / (len(values_R) - sizes_I)
    originals = len(names)
    return float((without_I**2).sum()) * (originals - 1) / originals, originals


def degrees_of_freedom(values_K: FloatArray, lacking_K: np.ndarray, originals: int, others: int) -> float:
    """Return degrees of freedom of the error of a number over originals and retrained runs (Welch and Satterthwaite).

    Subsets that lack the same originals differ by their retrained runs alone, which gives the shares of both in the
    variance. That of originals is taken for a half at least: few that are alike by chance would else make an interval
    narrow.

    Args:
        values_K: the number on subsets.
        lacking_K: which originals each subset lacks.
        originals: how many there are.
        others: retrained runs in a subset.

    """
    found = variance_shares(values_K[:, None], lacking_K, np.ones(1))
    if found is None:
        return originals - 1
    ours = max(0.5, found.original)
    return degrees_of_sum(ours, originals - 1, 1 - ours, others - 1)


def buys_more(found: VarianceShares, *, original_s: float, run_s: float) -> Literal["originals", "runs"]:
    """Return what an hour of training is better spent on: originals with as many runs each, or runs of these originals.

    Args:
        found: the shares and the design.
        original_s: seconds that training one original takes.
        run_s: seconds that one run of the method takes.

    """
    more = _HOUR_S / max(original_s + found.runs_each * run_s, 1e-9)
    many = found.originals * found.runs_each
    with_originals = (found.original + found.run / found.runs_each) / (found.originals + more)
    with_runs = found.original / found.originals + found.run / (many + _HOUR_S / max(run_s, 1e-9))
    return "originals" if with_originals < with_runs else "runs"

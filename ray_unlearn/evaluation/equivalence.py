"""Equivalence: whether F is surely no more than a fifth of the null below it.

    error = error_at_null(unlearned, reference, null_runs, draws)    # of F - 0.8 null, from values that are there
    found = equivalence(quality)                                     # Equivalence(difference=..., low=..., ...)

The difference is a mean over K halvings of the reference: F of the method against one half, minus F of the other half
against it. It is compared with a fifth of the same null, so that what varies is F - 0.8 null. Its variance is that of F
over halvings, nearly: the null is a mean over divisions of the same runs into two alike groups, and varied 50 times
less in simulated studies. F over halvings has two parts, as in `intervals`:

- What images share is close to an average over runs. With N unlearned and R retrained runs, of which each halving has n
  a side, it varies by r / N + 1 / R over studies, and by r (1 / n - 1 / N) + (1 / n - 1 / R) over halvings, r being the
  variance of a single unlearned run over that of a retrained one. So the variance over halvings gives it.
- What an image has alone jumps between buckets of epsilon. A mean over halvings of the reference keeps three quarters
  of it, one over halvings of both sides 0.27: 0.69 to 0.79 and 0.25 to 0.32 in ten simulated designs of both modes.

With 4 originals or more, a mean over runs varies more than by 1 / N; `originals` gives by how much. The distribution is
t with 5 degrees of freedom for what images share, as in `intervals`. README.md of this room has the rates of error.

Does not cover: several forget sets, where the standard error is that of F, which is larger: on the safe side.
"""

from __future__ import annotations

import numpy as np

from ray_unlearn.evaluation.intervals import SHARED_DF, Error
from ray_unlearn.evaluation.looks import ALPHA
from ray_unlearn.evaluation.originals import variance_shares
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS, Draws
from ray_unlearn.evaluation.scores import Equivalence, Estimate
from ray_unlearn.evaluation.t_distribution import degrees_of_sum, t_quantile

MARGIN = 0.2
"""Margin of equivalence, as a share of the null: F is surely no more than a fifth below retraining's own."""
ONE_SIDE, BOTH_SIDES = 0.75, 0.27
"""Variance between studies of what images have alone, over that between halvings of one side, and of both."""


def error_at_null(unlearned: Outputs, reference: Outputs, size: int, draws: Draws) -> Error | None:
    """Return the standard error of F minus (1 - MARGIN) times the null, at the null's N; None without halvings.

    Args:
        unlearned: N runs of the population.
        reference: all R runs of the reference.
        size: n, runs of a half.
        draws: F on the halvings, `size` runs of both sides each.

    """
    points_KE = draws.points_KE
    halvings, images = points_KE.shape
    if halvings < 2:
        return None
    phi_UE, phi_RE = (side.splits["forget"].phi_RN for side in (unlearned, reference))
    runs, others = len(phi_UE), len(phi_RE)
    spread = _spread(phi_UE, phi_RE)
    of_studies, of_halvings = 1 / others, 1 / size - 1 / others
    alone = spread / runs
    of_halvings += spread * (1 / size - 1 / runs)
    originals, effect = _of_originals(phi_UE, phi_RE, unlearned.originals_R)
    apart = float(points_KE.var(axis=0, ddof=1).sum()) / images**2
    shared = max(0.0, float(points_KE.mean(axis=1).var(ddof=1)) - apart)
    wider = (effect * alone + of_studies) / (alone + of_studies)
    shared *= wider * (alone + of_studies) / of_halvings
    apart *= wider * (BOTH_SIDES if 2 * size <= runs else ONE_SIDE)
    df = min(SHARED_DF, halvings - 1, originals - 1)
    return Error(se=(shared + apart) ** 0.5, df=degrees_of_sum(shared, df, apart, halvings - 1))


def _spread(phi_UE: FloatArray, phi_RE: FloatArray) -> float:
    """Return the variance of a single unlearned run over that of a retrained one; 1 where none varies."""
    ours, theirs = (float(side.var(axis=0, ddof=1).sum()) for side in (phi_UE, phi_RE))
    return ours / theirs if ours and theirs else 1.0


def _of_originals(phi_UE: FloatArray, phi_RE: FloatArray, originals_R: np.ndarray) -> tuple[int, float]:
    """Return the units that runs are drawn in, and how much more their mean varies than that of independent runs."""
    sd_E = np.where(np.ptp(phi_RE, axis=0) > 0, phi_RE.std(axis=0, ddof=1), 0)
    sizes_I = np.unique(originals_R, return_counts=True)[1]
    if len(sizes_I) < LEAST_ORIGINALS:
        return len(phi_UE), 1.0
    found = variance_shares(phi_UE, originals_R, sd_E)
    if found is None:
        return len(phi_UE), 1.0
    alike = float((sizes_I**2).sum()) / len(phi_UE)  # runs of a run's own original, on average over runs
    return found.originals, 1 + (alike - 1) * found.original


def equivalence(quality: Estimate, error: float = ALPHA) -> Equivalence | None:
    """Return whether F is surely at most a fifth of the null below it; None without a null or an interval.

    The bound of the difference is so low that it is above the margin exactly where F - 0.8 null is surely above 0.
    """
    if quality.null is None or quality.at_null_n is None:
        return None
    se, df = (quality.se, quality.df) if quality.at_null_se is None else (quality.at_null_se, quality.at_null_df)
    if se is None or df is None:
        return None
    difference, margin = quality.at_null_n - quality.null, MARGIN * quality.null
    low = difference - t_quantile(1 - error, df) * se
    return Equivalence(difference=difference, low=low, margin=margin, equivalent=low > -margin)

"""The images that are forgotten worst: what a mean over images hides.

    found = image_scores(unlearned_NE, retrained_NE, "parity")   # {"epsilon": [E], "u_lira_auc": [E], "klom": [E]}
    quantiles(found["epsilon"])                                  # median, worst tenth, hundredth, worst image
    share_beyond(found, null)                                    # of the images, beyond the null's 95 % quantile

Does not cover: bounds that hold with confidence (`lower_bounds`), and F by class and group (`slices`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
from ray_unlearn.evaluation.measures.klom import klom
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.measures.u_lira import MIN_RUNS, u_lira
from ray_unlearn.evaluation.populations import FloatArray

QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""Median, worst tenth, worst hundredth, the worst image."""


def image_scores(unlearned_NE: FloatArray, retrained_NE: FloatArray, mode: Mode) -> dict[str, FloatArray]:
    """Return numbers that each image has, [E] each, larger is worse: epsilon, U-LiRA's area, KLOM.

    U-LiRA's area is over models at that image alone. KLOM is KL(unlearned || retrained), in nats.

    Raises:
        EvaluationError: populations that cannot be compared.

    """
    if min(len(unlearned_NE), len(retrained_NE)) < MIN_RUNS:
        return {}
    attack = u_lira(unlearned_NE, retrained_NE)
    return {
        "epsilon": forgetting_quality(unlearned_NE, retrained_NE, mode).epsilon_E,
        "u_lira_auc": _areas(attack.unlearned_scores, attack.retrained_scores),
        "klom": klom(unlearned_NE, retrained_NE).unlearned_to_retrained.per_example,
    }


def _areas(positives_UE: FloatArray, negatives_RE: FloatArray) -> FloatArray:
    """Return the Mann-Whitney statistic of each column, ties counted 1/2, [E]."""
    ours, theirs = len(positives_UE), len(negatives_RE)
    ranks_NE = rankdata(np.concatenate([positives_UE, negatives_RE]), axis=0)
    return np.asarray((ranks_NE[:ours].sum(axis=0) - ours * (ours + 1) / 2) / (ours * theirs))


def quantiles(scores_E: FloatArray) -> tuple[float, ...]:
    """Return the numbers' `QUANTILES`."""
    return tuple(np.quantile(scores_E, QUANTILES).tolist())


def share_beyond(scores: Mapping[str, FloatArray], null: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return for each number the share of images above the 95 % quantile of the null: 0.05 where nothing differs."""
    return {name: float((scores[name] > np.quantile(null[name], 0.95)).mean()) for name in scores.keys() & null.keys()}

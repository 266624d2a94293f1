"""The images that are forgotten worst: what a mean over images hides.

    found = image_scores(pair)                   # {"epsilon": [E], "u_lira_auc": [E], "klom": [E]}
    quantiles(found["epsilon"])                  # median, worst tenth, hundredth, worst image
    share_beyond(found["epsilon"], limit(null["epsilon"]))       # of the images, beyond the null's 95 % quantile

Does not cover: bounds that hold with confidence (`lower_bounds`), and F by class and group (`slices`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from ray_unlearn.evaluation.measures import klom, u_lira
from ray_unlearn.evaluation.measures.forgetting_quality import quality_of
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.populations import FloatArray

QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""Median, worst tenth, worst hundredth, the worst image."""


def image_scores(pair: Pair) -> dict[str, FloatArray]:
    """Return numbers that each forget image has, [E] each, larger is worse: epsilon, U-LiRA's area, KLOM.

    U-LiRA's area is over models at that image alone; models of one original are left out together, as in the measure.
    KLOM is KL(unlearned || retrained), in nats. What the measures of this pair computed is taken over.

    Raises:
        EvaluationError: populations that cannot be compared.

    """
    if min(len(pair.unlearned), len(pair.reference)) < u_lira.MIN_RUNS:
        return {}
    attack = pair.once(u_lira.attack)
    return {
        "epsilon": pair.once(quality_of).epsilon_E,
        "u_lira_auc": _areas(attack.unlearned_scores, attack.retrained_scores),
        "klom": pair.once(klom.on_forget).unlearned_to_retrained.per_example,
    }


def _areas(positives_UE: FloatArray, negatives_RE: FloatArray) -> FloatArray:
    """Return the Mann-Whitney statistic of each column, ties counted 1/2, [E]."""
    ours, theirs = len(positives_UE), len(negatives_RE)
    ranks_NE = rankdata(np.concatenate([positives_UE, negatives_RE]), axis=0)
    return np.asarray((ranks_NE[:ours].sum(axis=0) - ours * (ours + 1) / 2) / (ours * theirs))


def joined(parts: Sequence[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """Return the numbers of all images that every part has, one part after the other."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def quantiles(scores_E: FloatArray) -> tuple[float, ...]:
    """Return the numbers' `QUANTILES`."""
    return tuple(np.quantile(scores_E, QUANTILES).tolist())


def limit(null_E: FloatArray) -> float:
    """Return the 95 % quantile over images of a number between halves of the reference."""
    return float(np.quantile(null_E, 0.95))


def share_beyond(scores_E: FloatArray, null_limit: float) -> float:
    """Return the share of images above a null's `limit`: 0.05 where nothing differs."""
    return float((scores_E > null_limit).mean())

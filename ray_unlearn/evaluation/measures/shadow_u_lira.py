"""U-LiRA with shadows: whether an unlearned model was once trained on an image, or never.

    result = shadow_u_lira(inside_KE, outside_KE)            # of K pairs of models that started from shadows
    result.auc, result.accuracy, result.tpr_at_1_percent

Hayes, Shumailov, Triantafillou, Khalifa, Papernot, "Inexact Unlearning Needs More Careful Evaluations to Avoid a False
Sense of Privacy" (arXiv 2403.01218, SaTML 2025): shadow models are trained on random halves of the data; each unlearns
a forget set; for each image, Gaussians of phi are fitted to models that were trained on it and unlearned it, and to
models that never saw it, and a model belongs to the likelier one. Here run i of a population with `starts_from:
shadows` starts from shadow i and unlearns those of the study's forget images that this one was trained on: half of
them. So each forget image was unlearned by one model of each pair, and never seen by the other.

Models that never saw the image are taken twice: unlearned ones (they have unlearned other images: the attacker knows
the method alone, as in RULI, arXiv 2506.13009), and the shadows themselves (models trained without it, the paper's
retrained models). A model is scored by Gaussians that exclude its pair, because a fit that includes it would recognise
it. Variances have ddof 1 and a floor, as in `u_lira`, which computes both.

Programs that were read: that of `u_lira`'s docstring, and of RULI datasec-lab/Ruli, `core/attack/unlearn_attack.py` at
9541122, which fits kernel densities instead of Gaussians and attacks one model.

Does not cover: forget sets of one image, and several forget sets of a model.
"""

from __future__ import annotations

import numpy.typing as npt

from ray_unlearn.evaluation.measures.measure import Measure
from ray_unlearn.evaluation.measures.u_lira import LiraResult, u_lira

MEASURES: dict[str, Measure] = {}
"""None of a population against the reference: the attack is on models that start from shadows."""


def shadow_u_lira(inside_KE: npt.ArrayLike, outside_KE: npt.ArrayLike) -> LiraResult:
    """Return the attack on K pairs of models: the score of each model on each image, leaving its pair out.

    Args:
        inside_KE: phi [K, E] of models that were trained on the image and unlearned it, K >= 3 (the positives).
        outside_KE: phi [K, E] of the models of the same pairs that never saw it (the negatives).

    Raises:
        EvaluationError: wrong shapes, fewer than 3 pairs, NaN or infinity.

    """
    return u_lira(inside_KE, outside_KE)  # a model's own place is left out of both sides: its pair

"""LiRA: a likelihood-ratio test per image, with Gaussians of phi fitted to shadow models trained with and without it.

    online_RN = online(phi_RN, fit)              # log p(phi | inside) - log p(phi | outside): high looks trained on
    offline_RN = offline(phi_RN, fit)            # (phi - mean) / sd outside: P(Z <= phi) in another scale

Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First Principles" (S&P 2022). The
formulas are those of the authors' program (tensorflow/privacy, research/mi_lira_2021/plot.py at 3d499e6): medians for
the means, standard deviations with ddof 0 plus 1e-30. With fewer than 64 shadows one variance serves all images, as the
paper advises; `fix_variance` in the program is the standard deviation over all images and models at once, which
includes the differences between images, and the online attack takes that of the models inside for both sides. So it is
here. Offline, the paper's score is one-sided, P(Z <= phi), and the program's two-sided, -log p(phi): an image that a
model is less sure of than models without it looks trained on, too, and on digits the AUC falls below one half. The
paper's is `offline`; `two_sided=True` gives the program's.

Against unlearned models (the measures below), the offline attack separates forget images, which the original was
trained on, from test images of the same model. No shadow is trained on a test image, so the online attack, which
needs both Gaussians, compares the same forget images under unlearned models with those under retrained ones: does an
attacker who knows both sides of an image take the unlearned model for one that was trained on it? Compare both with
their nulls.

Does not cover: several augmentations of an image, over which the program averages; outputs are of one view.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.by_shadows import by_shadows
from ray_unlearn.evaluation.measures.measure import Measure, Pair, Single, SingleAttack
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.roc import Roc, roc
from ray_unlearn.evaluation.shadow_fits import ShadowFit, Side

_TINY = 1e-30
"""Added to every standard deviation, as the authors' program does."""


def online(phi_RN: FloatArray, fit: ShadowFit, *, one_variance: bool | None = None) -> FloatArray:
    """Return log p(phi | trained on it) - log p(phi | not), natural logarithms, of the shape of phi.

    Args:
        phi_RN: phi of any models on the N images of the fit.
        fit: Gaussians of both sides.
        one_variance: whether one variance serves all images; default with fewer than 64 shadows.

    Raises:
        EvaluationError: no shadow was trained on the images.

    """
    if fit.inside is None:
        raise EvaluationError("lira: the online attack needs models that were trained on the images; found none")
    spread = fit.inside_spread if _fixed(fit, one_variance) else None
    return _log_density(phi_RN, fit.inside, spread) - _log_density(phi_RN, fit.outside, spread)


def offline(
    phi_RN: FloatArray, fit: ShadowFit, *, one_variance: bool | None = None, two_sided: bool = False
) -> FloatArray:
    """Return standard deviations above the models that were not trained on the image, of the shape of phi.

    Args:
        phi_RN: phi of any models on the N images of the fit.
        fit: Gaussians of the outside.
        one_variance: whether one variance serves all images; default with fewer than 64 shadows.
        two_sided: return -log p(phi | not trained on it) instead.

    """
    spread = fit.outside_spread if _fixed(fit, one_variance) else None
    if two_sided:
        return -_log_density(phi_RN, fit.outside, spread)
    found: FloatArray = (phi_RN - fit.outside.median_N) / _sd(fit.outside, spread)
    return found


def _fixed(fit: ShadowFit, one_variance: bool | None) -> bool:
    return fit.one_variance if one_variance is None else one_variance


def _log_density(phi_RN: FloatArray, side: Side, spread: float | None) -> FloatArray:
    sd_N = _sd(side, spread)
    density_RN: FloatArray = -(((phi_RN - side.median_N) / sd_N) ** 2) / 2 - np.log(sd_N) - math.log(2 * math.pi) / 2
    return density_RN


def _sd(side: Side, spread: float | None) -> FloatArray:
    sd_N: FloatArray = (side.sd_N if spread is None else np.full(len(side.sd_N), spread)) + _TINY
    return sd_N


# Unlearned models


def attack_offline(single: Single) -> SingleAttack | None:
    """Return the offline attack on each run: forget images are the positives, test images the negatives."""
    scores = []
    for name in ("forget", "test"):
        split = single.outputs.splits[name]
        if split.shadows is None:
            return None
        scores.append(offline(split.phi_RN, split.shadows))
    areas = [roc(mine, others).auc for mine, others in zip(*scores, strict=True)]
    return SingleAttack.of(areas, *scores)


def online_curve(pair: Pair) -> Roc | None:
    """Return the ROC of forget images under unlearned models, the positives, and under retrained ones."""
    sides = [side.splits["forget"] for side in (pair.unlearned, pair.reference)]
    if sides[0].shadows is None or sides[0].shadows.inside is None:
        return None
    return roc(*(online(side.phi_RN, sides[0].shadows) for side in sides))


_OFFLINE = Measure(
    label="LiRA offline AUC",
    better="null",
    meaning="how far phi is above that of shadow models that were not trained on the image: forget against test images "
    "of one model",
    source="Carlini et al., Membership Inference Attacks From First Principles, S&P 2022",
    deviation="one view of an image, where the program averages over several augmentations; offline, the paper's "
    "one-sided score, where the program's is two-sided",
    upper=1.0,
    needs=("forget", "test"),
    of_shadows=True,
)
_ONLINE = replace(
    _OFFLINE,
    label="LiRA online AUC",
    deviation="one view of an image, where the program averages over several augmentations; forget images under "
    "unlearned against retrained models, where the paper attacks one model's training images",
    meaning="likelihood ratio of phi under shadow models trained with and without the image: forget images under "
    "unlearned against retrained models",
    needs=("forget",),
)
MEASURES = by_shadows(
    "lira",
    ("LiRA offline", "LiRA online"),
    (_OFFLINE, _ONLINE),
    attack_offline,
    online_curve,
    "Carlini et al., S&P 2022",
)

"""RMIA with shadow models: references that were trained on an image, and references that were not.

    relative_RN = relative(phi_RN, fit)                      # offline: p / pbar, from models outside alone
    relative_RN = relative(phi_RN, fit, both_sides=True)     # online: from models on both sides
    share_below(relative_RN, relative_RZ)                    # the scores; Z: the population

Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks" (ICML 2024), gamma = 1:

    score(x) = share of population images z with  p(x) / pbar(x) > p(z) / pbar(z)
    online:   pbar(x) = (mean of p(x) over models inside + mean over models outside) / 2,   pbar(z) = mean outside
    offline:  pbar(x) = ((1 + a) * mean of p(x) over models outside + (1 - a)) / 2, and z likewise

as `run_rmia` of privacytrustlab/ml_privacy_meter (attacks.py at a555fce, and its later online form) has it, with two
differences on purpose. It sorts the signals of population images in falling order and keeps as many as an image has
models outside: the larger half, since no model was trained on them. Here that many are drawn at random. And a is fixed:
`tune_offline_a` there chooses it from 0, 0.1, ..., 1 by the area of the attack on the target's partner.

Population images are test images. Against unlearned models (the measures below) the offline attack separates forget
images from test images outside the population; the online one, for which test images lack models inside, forget images
under unlearned from those under retrained models, as `lira` does. Compare both with their nulls.

Does not cover: tuning a; `rmia.A` has the value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.measures.by_shadows import by_shadows
from ray_unlearn.evaluation.measures.measure import Measure, Pair, Single, SingleAttack
from ray_unlearn.evaluation.measures.rmia import A, share_below
from ray_unlearn.evaluation.populations import FloatArray, random_half
from ray_unlearn.evaluation.roc import Roc, roc
from ray_unlearn.evaluation.shadow_fits import ShadowFit


def relative(phi_RN: FloatArray, fit: ShadowFit, *, both_sides: bool = False, a: float = A) -> FloatArray:
    """Return p / pbar, of the shape of phi.

    Args:
        phi_RN: phi of any models on the N images of the fit.
        fit: mean probabilities of both sides.
        both_sides: the online form; images that no shadow was trained on have the models outside alone.
        a: of the offline form, in [0, 1].

    """
    outside_N = fit.outside.probability_N
    if not both_sides:
        mean_N = ((1 + a) * outside_N + (1 - a)) / 2
    else:
        mean_N = outside_N if fit.inside is None else (fit.inside.probability_N + outside_N) / 2
    found: FloatArray = probability_of(phi_RN) / np.maximum(mean_N, np.finfo(np.float64).tiny)
    return found


# Unlearned models


def attack_offline(single: Single) -> SingleAttack | None:
    """Return the offline attack on each run; None without shadows, or with fewer than two test images."""
    forget, test = (single.outputs.splits[name] for name in ("forget", "test"))
    if forget.shadows is None or test.shadows is None or len(test.labels_N) < 2:
        return None
    population = random_half(len(test.labels_N), single.make_rng())
    test_RT = relative(test.phi_RN, test.shadows)
    scores = [
        share_below(one, test_RT[:, population])
        for one in (relative(forget.phi_RN, forget.shadows), test_RT[:, ~population])
    ]
    areas = [roc(mine, others).auc for mine, others in zip(*scores, strict=True)]
    return SingleAttack.of(areas, *scores)


def online_curve(pair: Pair) -> Roc | None:
    """Return the ROC of forget images under unlearned models, the positives, and under retrained ones."""
    scores = []
    for side in (pair.unlearned, pair.reference):
        forget, test = (side.splits[name] for name in ("forget", "test"))
        if forget.shadows is None or forget.shadows.inside is None or test.shadows is None:
            return None
        mine_RE = relative(forget.phi_RN, forget.shadows, both_sides=True)
        population_RZ = relative(test.phi_RN, test.shadows, both_sides=True)
        scores.append(share_below(mine_RE, population_RZ))
    return roc(*scores)


_OFFLINE = Measure(
    label="RMIA offline AUC, shadows",
    better="null",
    meaning="robust membership inference: forget against test images of one model, shadow models without the image as "
    "references",
    source="Zarifzadeh et al., Low-Cost High-Power Membership Inference Attacks, ICML 2024",
    deviation=f"a is fixed at {A}, where the program tunes it on the target's partner; pbar averages all references of "
    "a side, where the program takes the largest half for population images",
    upper=1.0,
    needs=("forget", "test"),
    takes=("probabilities",),
    of_shadows=True,
)
_ONLINE = replace(
    _OFFLINE,
    label="RMIA online AUC, shadows",
    deviation="forget images under unlearned against retrained models, where the paper attacks one model's training "
    "images",
    meaning="robust membership inference: forget images under unlearned against retrained models, shadow models with "
    "and without the image as references",
)
MEASURES = by_shadows(
    "shadow_rmia",
    ("RMIA offline, shadows,", "RMIA online, shadows,"),
    (_OFFLINE, _ONLINE),
    attack_offline,
    online_curve,
    "Zarifzadeh et al., ICML 2024",
)

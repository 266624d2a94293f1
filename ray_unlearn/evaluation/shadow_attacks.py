"""Membership attacks by shadows on models whose training images are known: originals, and shadows themselves.

    found = attacks_on(target, members, fits, make_rng)      # {"lira_online": Attacked(...), ...}
    scores = together([found, ...], shadows=64)              # {"lira_online": ShadowAttack(auc=..., ...), ...}

A model that was trained on some of the train images (`on: {half_of: train}`) is attacked there: the images that it was
trained on are the positives, the others the negatives. Of a model that was trained on all of them the negatives are
test images; no shadow was trained on those, so only offline attacks are possible.

Does not cover: unlearned models (`measures.lira`, `measures.shadow_rmia`), and how shadows are fitted (`shadows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_unlearn.evaluation.measures import lira, shadow_rmia
from ray_unlearn.evaluation.measures.measure import MakeRng, enough_negatives
from ray_unlearn.evaluation.measures.rmia import share_below
from ray_unlearn.evaluation.measures.shadow_u_lira import shadow_u_lira
from ray_unlearn.evaluation.measures.u_lira import LiraResult
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.populations import FloatArray, random_half
from ray_unlearn.evaluation.roc import Roc, roc
from ray_unlearn.evaluation.scores import Curve
from ray_unlearn.evaluation.shadow_fits import ShadowFit
from ray_unlearn.evaluation.shadow_values import ShadowAttack
from ray_unlearn.store.membership import HALVED, Members

ATTACKS = {
    "lira_online": "LiRA online",
    "lira_online_one_variance": "LiRA online, one variance",
    "lira_offline": "LiRA offline",
    "lira_offline_one_variance": "LiRA offline, one variance",
    "lira_offline_two_sided": "LiRA offline, two-sided",
    "rmia_online": "RMIA online",
    "rmia_offline": "RMIA offline",
}
"""Attacks on a model whose training images are known, and their labels."""
NO_NEGATIVES = "needs train images that it was not trained on: {half_of: train}"
NO_TEST = "needs outputs of test images"
CURVE_POINTS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Attacked:
    """Scores of one attack on one model; high looks trained on."""

    members_E: FloatArray
    """Scores of images that it was trained on."""
    others_T: FloatArray
    """Scores of images that it was not."""


def attacks_on(
    target: Outputs, members: Members, fits: Mapping[str, ShadowFit], make_rng: MakeRng
) -> dict[str, Attacked]:
    """Return what each attack makes of one model; those are left out that its images do not allow.

    Args:
        target: outputs of one run.
        members: which retain and forget images it was trained on.
        fits: what shadows make of each split's images; none of them is the target, or its partner.
        make_rng: chooses the test images that RMIA compares others with, where it needs test images as negatives, too.

    """
    halved = [name for name in HALVED if name in target.splits]
    member_N = np.concatenate(
        [members[name][target.splits[name].positions_N] for name in halved] or [np.empty(0, bool)]
    )
    found = {}
    for attack in ATTACKS:
        scores = _scores(attack, target, halved, fits, member_N.all(), make_rng)
        if scores is None or not member_N.any():
            continue
        train_N, test_T = scores
        others = train_N[~member_N] if test_T is None else test_T
        if len(others):
            found[attack] = Attacked(train_N[member_N], others)
    return found


def _scores(
    attack: str,
    target: Outputs,
    halved: Sequence[str],
    fits: Mapping[str, ShadowFit],
    on_all: bool | np.bool_,
    make_rng: MakeRng,
) -> tuple[FloatArray, FloatArray | None] | None:
    """Return scores of train images, and of test images where these are the negatives; None where it is impossible."""
    online, one_variance, two_sided = ("online" in attack, "one_variance" in attack, "two_sided" in attack)
    if not halved or (on_all and (online or "test" not in target.splits)):
        return None
    if attack.startswith("lira"):

        def of(name: str) -> FloatArray:
            phi_N, fit = target.splits[name].phi_RN[0], fits[name]
            if online:
                return lira.online(phi_N, fit, one_variance=one_variance)
            return lira.offline(phi_N, fit, one_variance=one_variance, two_sided=two_sided)

        return np.concatenate([of(name) for name in halved]), of("test") if on_all else None
    if "test" not in target.splits or len(target.splits["test"].labels_N) < 2:
        return None

    def relative(name: str) -> FloatArray:
        return shadow_rmia.relative(target.splits[name].phi_RN, fits[name], both_sides=online)

    train_1N, test_1T = np.concatenate([relative(name) for name in halved], axis=1), relative("test")
    population_T = random_half(test_1T.shape[1], make_rng()) if on_all else np.ones(test_1T.shape[1], np.bool_)
    return (
        share_below(train_1N, test_1T[:, population_T])[0],
        share_below(test_1T[:, ~population_T], test_1T[:, population_T])[0] if on_all else None,
    )


def together(found: Sequence[Mapping[str, Attacked]], shadows: int) -> tuple[dict[str, ShadowAttack], dict[str, Curve]]:
    """Return each attack's rates, means over the models, and its ROC over all of them together."""
    scores, curves = {}, {}
    for attack in ATTACKS:
        targets = [one[attack] for one in found if attack in one]
        if not targets:
            both_kinds = any("lira_online" in one for one in found)  # of train images: trained on, and not
            missing = NO_TEST if both_kinds else NO_NEGATIVES
            scores[attack] = ShadowAttack(targets=len(found), shadows=shadows, missing=missing)
            continue
        rocs = [roc(one.members_E, one.others_T) for one in targets]
        negatives = min(len(one.others_T) for one in targets)
        scores[attack] = _scored(rocs, len(targets[0].members_E), negatives, shadows)
        pooled = [np.concatenate([getattr(one, side) for one in targets]) for side in ("members_E", "others_T")]
        curves[attack] = _curve(roc(*pooled))
    return scores, curves


def _scored(rocs: Sequence[Roc], members: int, negatives: int, shadows: int) -> ShadowAttack:
    def rate(fpr: float) -> float | None:
        return float(np.mean([one.tpr_at(fpr) for one in rocs])) if enough_negatives(negatives, fpr) else None

    return ShadowAttack(
        auc=float(np.mean([one.auc for one in rocs])),
        tpr_01_percent=rate(0.001),
        tpr_1_percent=rate(0.01),
        targets=len(rocs),
        members=members,
        non_members=negatives,
        shadows=shadows,
    )


def _curve(found: Roc) -> Curve:
    false, true = (tuple(np.round(rates, 5).tolist()) for rates in found.thinned(CURVE_POINTS))
    return Curve(false_positive_rate=false, true_positive_rate=true)


# Unlearning that started from shadows

U_LIRA = {
    "u_lira_unlearned": "U-LiRA, never seen by unlearned models",
    "u_lira_retrained": "U-LiRA, never seen by shadows",
}
"""Attacks on models that started from shadows, by the models that never saw the image, and their labels."""
LEAST_PAIRS = 3


def u_lira_of_pairs(
    unlearned: tuple[FloatArray, FloatArray], shadows: tuple[FloatArray, FloatArray]
) -> tuple[dict[str, ShadowAttack], dict[str, Curve]]:
    """Return U-LiRA against both kinds of models that never saw the image.

    Args:
        unlearned: phi [K, E] of models that started from shadows, inside and outside of forget images.
        shadows: phi [K, E] of those shadows.

    """
    sides = {"u_lira_unlearned": unlearned[1], "u_lira_retrained": shadows[1]}
    results: dict[str, LiraResult] = {name: shadow_u_lira(unlearned[0], side) for name, side in sides.items()}
    pairs = len(unlearned[0])
    scores = {name: _u_lira(one, pairs) for name, one in results.items()}
    return scores, {name: _curve(one.curve) for name, one in results.items()}


def _u_lira(found: LiraResult, pairs: int) -> ShadowAttack:
    negatives = found.retrained_scores.size

    def rate(fpr: float) -> float | None:
        return found.curve.tpr_at(fpr) if enough_negatives(negatives, fpr) else None

    return ShadowAttack(
        auc=found.auc,
        accuracy=found.accuracy,
        tpr_01_percent=rate(0.001),
        tpr_1_percent=rate(0.01),
        targets=2 * pairs,
        members=found.unlearned_scores.size,
        non_members=negatives,
        shadows=2 * pairs,
    )

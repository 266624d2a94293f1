"""The measures of an attack by shadows on unlearned models: area and true positive rates of both of its forms.

    MEASURES = by_shadows("lira", ("LiRA offline", "LiRA online"), (offline, online), attack_offline, online_curve)

The offline form separates forget from test images of one model, the online form forget images under unlearned models
from the same images under retrained ones.

Does not cover: the attacks (`lira`, `shadow_rmia`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.measure import Measure, Pair, Single, SingleAttack, enough_negatives, rates
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.roc import Roc

Offline = Callable[[Single], SingleAttack | None]
"""Attacks each run; None where there are no shadows, or too few images."""
Online = Callable[[Pair], Roc | None]
"""Returns the ROC of forget images under unlearned models, the positives, and under retrained ones."""


def by_shadows(
    attack: str, labels: tuple[str, str], own: tuple[Measure, Measure], offline: Offline, online: Online, source: str
) -> dict[str, Measure]:
    """Return the measures of both forms by name, offline first.

    Args:
        attack: how their names begin.
        labels: how the labels of the offline and of the online rates begin.
        own: the area of either form, but for its computation.
        offline: the offline attack.
        online: the online attack.
        source: short form of the source, for the rates.

    """

    def offline_auc(single: Single) -> FloatArray | None:
        found = single.once(offline)
        return None if found is None else found.values_R

    def offline_rate(single: Single, *, fpr: float) -> FloatArray | None:
        found = single.once(offline)
        return None if found is None else found.rate_of(fpr)

    def online_auc(pair: Pair) -> float | None:
        found = pair.once(online)
        return None if found is None else found.auc

    def online_rate(pair: Pair, *, fpr: float) -> float | None:
        found, negatives = pair.once(online), pair.reference.splits["forget"].phi_RN.size
        return found.tpr_at(fpr) if found and enough_negatives(negatives, fpr) else None

    alone, between = replace(own[0], per_run=offline_auc), replace(own[1], compute=online_auc)
    sides = ("forget images", "test images"), ("unlearned models", "retrained ones")
    return {
        f"{attack}_offline_auc": alone,
        **rates(f"{attack}_offline", labels[0], *sides[0], replace(alone, source=source), offline_rate),
        f"{attack}_online_auc": between,
        **rates(f"{attack}_online", labels[1], *sides[1], replace(between, source=source), online_rate),
    }


def curve_of(offline: Offline, attack: str) -> Callable[[Single], Roc]:
    """Return a function that returns the ROC of an offline attack over all runs; it raises EvaluationError for none."""

    def curve(single: Single) -> Roc:
        found = single.once(offline)
        if found is None:
            raise EvaluationError(f"{attack}: there is no population of shadows")
        return found.curve

    return curve

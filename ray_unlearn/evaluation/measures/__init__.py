"""Every number that compares a population with the reference, by name, in the order of tables.

    MEASURES["u_lira_auc"].label                 # "U-LiRA AUC"
    CURVES["u_lira"](pair), SINGLE_CURVES["svc_efficacy"](single)        # ROC curves

One file per measure, or per family of numbers that one computation gives. A new one is a file with `MEASURES`, and its
name in `_FILES`; intervals, nulls and the glossary follow from that, its table from `report/score_tables.py`.

Does not cover: computing them for a study (`evaluation.comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray_unlearn.evaluation.measures import (
    accuracy_ratios,
    forgetting_quality,
    klom,
    lira,
    logistic_attack,
    memorisation,
    rmia,
    score,
    shadow_rmia,
    shadow_u_lira,
    shift_and_spread,
    svc_efficacy,
    tug_of_war,
    u_lira,
)
from ray_unlearn.evaluation.measures.by_shadows import curve_of
from ray_unlearn.evaluation.measures.measure import Measure, Pair, Single
from ray_unlearn.evaluation.roc import Roc

_FILES = (
    score,
    forgetting_quality,
    accuracy_ratios,
    u_lira,
    rmia,
    lira,
    shadow_rmia,
    shadow_u_lira,
    memorisation,
    logistic_attack,
    svc_efficacy,
    klom,
    shift_and_spread,
    tug_of_war,
)
MEASURES: dict[str, Measure] = {name: one for file in _FILES for name, one in file.MEASURES.items()}
CURVES: dict[str, Callable[[Pair], Roc | None]] = {
    "u_lira": u_lira.curve,
    "rmia": rmia.curve,
    "lira_online": lira.online_curve,
    "shadow_rmia_online": shadow_rmia.online_curve,
}
"""ROC of attacks that know the reference; each attack's own measure begins with its name."""
TOGETHER: dict[Callable[[Pair], Any], Callable[[Sequence[Pair]], Sequence[Any] | None]] = {
    forgetting_quality.points_of: forgetting_quality.points_together,
    **{compute: partial(klom.klom_together, split=split) for split, compute in klom.ON.items()},
}
"""What takes long of a pair -> the same of many subsets of the same runs at once, or None where that does not pay."""
SINGLE_CURVES: dict[str, Callable[[Single], Roc]] = {
    "lira_offline_auc": curve_of(lira.attack_offline, "lira"),
    "shadow_rmia_offline_auc": curve_of(shadow_rmia.attack_offline, "shadow_rmia"),
    "logistic_attack": logistic_attack.curve,
    "svc_efficacy": svc_efficacy.curve,
}
"""ROC of attacks on one model at a time, by the name of their own measure."""

"""Every number that compares two populations, computed at once from their outputs.

    alone = attack_alone(unlearned, make_rng).values             # {"logistic_attack": float64 [R], ...}
    values = compare(unlearned, reference, "parity", alone)      # {"forgetting_quality": 0.11, "score": 0.1, ...}

`compare` is called again and again on halves of the populations; what looks at one model at a time is computed once.
A measure whose split the study does not save, or that needs more runs, is left out; `why_missing` says why.

Does not cover: intervals and nulls (`halves`), what a name means (`measures.MEASURES`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.classic import MIN_IMAGES, simple_attack, svc_forget_efficacy, svc_scores
from ray_unlearn.evaluation.distances import shift_and_spread, tug_of_war
from ray_unlearn.evaluation.klom import klom
from ray_unlearn.evaluation.lira import MIN_RUNS, u_lira
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.quality import LEAST_TO_SCORE, forgetting_quality
from ray_unlearn.evaluation.rmia import RmiaResult, rmia
from ray_unlearn.evaluation.roc import Roc, roc
from ray_unlearn.evaluation.scores import Mode

Values = dict[str, float]
PerRun = dict[str, np.ndarray]
"""A measure of single models -> float64 [R]."""

LEAST_RUNS = 2
"""For a distribution; epsilon's largest finite value is log(N - 1)."""

_SCORED = ("forgetting_quality", "score")
_ALL = ("forget", "retain", "test")
_NEEDS: dict[str, tuple[str, ...]] = {
    "score": _ALL,
    "retain_ratio": ("retain",),
    "test_ratio": ("test",),
    "rmia_auc": ("forget", "test"),
    "rmia_tpr_0.1": ("forget", "test"),
    "rmia_tpr_1": ("forget", "test"),
    **{f"logistic_attack{ending}": ("forget", "test") for ending in ("", "_tpr_0.1", "_tpr_1")},
    **{f"svc_efficacy{ending}": _ALL for ending in ("", "_tpr_0.1", "_tpr_1")},
    "tug_of_war": _ALL,
    **{
        f"klom_{direction}_{split}": (split,)
        for direction in ("retrained_to_unlearned", "unlearned_to_retrained")
        for split in ("retain", "validation", "test")
    },
}


def require_forget(*sides: Outputs) -> None:
    """Refuse populations whose runs saved no outputs of the forget set.

    Raises:
        EvaluationError: one of them.

    """
    for side in sides:
        if "forget" not in side.splits:
            raise EvaluationError(
                f"population {side.population}: its runs saved no outputs of the forget set, so nothing can be scored; "
                "make them under another study name with outputs: {splits: [retain, forget, test]}"
            )


def why_missing(name: str, outputs: Outputs, drawn: Collection[str]) -> str:
    """Return why a measure has no value for these outputs; `drawn`: the splits that the study has images of."""
    needs = _NEEDS.get(name, ("forget",))
    if nowhere := [split for split in needs if split not in drawn]:
        return f"needs {' and '.join(nowhere)} images, and the study has no {' and no '.join(nowhere)} set"
    lacking = [split for split in needs if split not in outputs.splits]
    if lacking:
        wanted = ", ".join(dict.fromkeys([*outputs.splits, *lacking]))
        return f"needs outputs of {' and '.join(lacking)}: outputs: {{splits: [{wanted}]}}"
    if name.startswith(("logistic_attack", "svc_efficacy")) and not _enough_images(outputs, needs):
        return f"needs {MIN_IMAGES} images of each set"
    if len(outputs) < (least := _least_runs(name)):
        why = f": with fewer than {least}, the formula of F counts no image" if name in _SCORED else ""
        there = f"there {'is' if len(outputs) == 1 else 'are'} {len(outputs)}"
        return f"needs {least} runs a side, and {there}{why}"
    return "not defined here: runs that do not differ, too few images, or a reference that is never right"


def _least_runs(name: str) -> int:
    if name in _SCORED:
        return LEAST_TO_SCORE
    return MIN_RUNS if name.startswith("u_lira") else LEAST_RUNS


def compare(unlearned: Outputs, reference: Outputs, mode: Mode, alone: PerRun) -> Values:
    """Return every measure that these outputs allow.

    Args:
        unlearned: the population under scrutiny.
        reference: retrained runs of the same images, as many.
        mode: of the forgetting quality.
        alone: what `attack_alone` got from the unlearned runs, in the same order.

    """
    if min(len(unlearned), len(reference)) < LEAST_RUNS:
        return {}
    values = {name: float(values_R.mean()) for name, values_R in alone.items()}
    values |= _quality(unlearned, reference, mode) | _distances(unlearned, reference) | _attacks(unlearned, reference)
    return values


def _quality(unlearned: Outputs, reference: Outputs, mode: Mode) -> Values:
    """Return F x RA_U / RA_R x TA_U / TA_R and its factors: ratios of means, not cut at 1 (metric PDF)."""
    values: Values = {}
    if min(len(unlearned), len(reference)) >= LEAST_TO_SCORE:  # below, 0 by definition, for retraining itself, too
        values["forgetting_quality"] = forgetting_quality(*_phi(unlearned, reference, "forget"), mode).score
    for split, name in (("retain", "retain_ratio"), ("test", "test_ratio")):
        if split in unlearned.splits:
            ours, theirs = (float(side.splits[split].accuracy_R.mean()) for side in (unlearned, reference))
            if theirs:
                values[name] = ours / theirs
    if {"forgetting_quality", "retain_ratio", "test_ratio"} <= values.keys():
        values["score"] = values["forgetting_quality"] * values["retain_ratio"] * values["test_ratio"]
    return values


def _distances(unlearned: Outputs, reference: Outputs) -> Values:
    values: Values = {}
    for split in unlearned.splits:
        divergence = klom(*_phi(unlearned, reference, split))
        ending = "" if split == "forget" else f"_{split}"
        values[f"klom_retrained_to_unlearned{ending}"] = divergence.retrained_to_unlearned.p95
        values[f"klom_unlearned_to_retrained{ending}"] = divergence.unlearned_to_retrained.p95
    apart = shift_and_spread(*_phi(unlearned, reference, "forget"))
    if apart.undefined < apart.shift.size:
        values |= {"mean_shift": apart.mean_absolute_shift, "spread_ratio": apart.median_spread_ratio}
    if unlearned.splits.keys() >= set(_ALL):
        ours = {split: unlearned.splits[split].accuracy_R for split in _ALL}
        theirs = {split: float(reference.splits[split].accuracy_R.mean()) for split in _ALL}
        values["tug_of_war"] = float(tug_of_war(ours, theirs).per_run.mean())
    return values


def _attacks(unlearned: Outputs, reference: Outputs) -> Values:
    values: Values = {}
    if min(len(unlearned), len(reference)) >= MIN_RUNS:
        lira = u_lira(*_phi(unlearned, reference, "forget"))
        values |= {
            "u_lira_auc": lira.auc,
            "u_lira_tpr_0.1": lira.tpr_at_01_percent,
            "u_lira_tpr_1": lira.tpr_at_1_percent,
        }
    if _can_rmia(unlearned):
        found = _rmia(unlearned, reference)
        values |= {"rmia_auc": found.auc, "rmia_tpr_0.1": found.tpr_at_01_percent, "rmia_tpr_1": found.tpr_at_1_percent}
    return values


def attack_curves(unlearned: Outputs, reference: Outputs) -> dict[str, Roc]:
    """Return the ROC of each attack that knows the reference, over all runs and images together."""
    curves: dict[str, Roc] = {}
    if min(len(unlearned), len(reference)) >= MIN_RUNS:
        curves["u_lira"] = u_lira(*_phi(unlearned, reference, "forget")).curve
    if _can_rmia(unlearned):
        curves["rmia"] = _rmia(unlearned, reference).curve
    return curves


def attack_alone(outputs: Outputs, make_rng: Callable[[], np.random.Generator]) -> Alone:
    """Return what attacks get from one model at a time.

    Args:
        outputs: a population's; attacks whose splits are missing, or too small, are left out.
        make_rng: returns the same fresh generator each time; it chooses the images where an attack takes a subset, the
            same for every run.

    """
    losses = {split: values.loss_RN for split, values in outputs.splits.items()}
    runs, found = range(len(outputs)), Alone({}, {})
    if _enough_images(outputs, ("forget", "test")):
        forget, test = losses["forget"], losses["test"]
        accuracy = [simple_attack(forget[run], test[run], make_rng()) for run in runs]
        found.add("logistic_attack", accuracy, -forget, -test)
    if _enough_images(outputs, _ALL):
        retain, test, forget = (np.exp(-losses[split]) for split in ("retain", "test", "forget"))
        efficacy = [svc_forget_efficacy(retain[r], test[r], forget[r], make_rng()) for r in runs]
        scores = [svc_scores(retain[r], test[r], forget[r], make_rng()) for r in runs]
        found.add("svc_efficacy", efficacy, *(np.stack([pair[kind] for pair in scores]) for kind in (0, 1)))
    return found


@dataclass(frozen=True)
class Alone:
    """What attacks that look at one model at a time get from a population."""

    values: PerRun
    curves: dict[str, Roc]
    """Over all runs and images together; forget images are the positives."""

    def add(self, name: str, values: list[float], positives_RE: np.ndarray, negatives_RT: np.ndarray) -> None:
        """Note an attack's own number and its true positive rates for each run, and its curve."""
        curves = [roc(mine, others) for mine, others in zip(positives_RE, negatives_RT, strict=True)]
        self.values[name] = np.array(values)
        for ending, rate in (("0.1", 0.001), ("1", 0.01)):
            self.values[f"{name}_tpr_{ending}"] = np.array([curve.tpr_at(rate) for curve in curves])
        self.curves[name] = roc(positives_RE, negatives_RT)


def _enough_images(outputs: Outputs, needs: Sequence[str]) -> bool:
    return all(split in outputs.splits and len(outputs.splits[split].labels_N) >= MIN_IMAGES for split in needs)


def _can_rmia(outputs: Outputs) -> bool:
    """Return whether there are two test images: a non-member, and one of the population."""
    return "test" in outputs.splits and len(outputs.splits["test"].labels_N) >= 2


def _phi(unlearned: Outputs, reference: Outputs, split: str) -> tuple[np.ndarray, np.ndarray]:
    return unlearned.splits[split].phi_RN, reference.splits[split].phi_RN


def _rmia(unlearned: Outputs, reference: Outputs) -> RmiaResult:
    (target_forget, reference_forget), (target_test, reference_test) = (
        _phi(unlearned, reference, split) for split in ("forget", "test")
    )
    return rmia(
        target_forget=target_forget,
        target_test=target_test,
        reference_forget=reference_forget,
        reference_test=reference_test,
    )

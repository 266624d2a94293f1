"""Every number that compares two populations, computed at once from their outputs.

    alone = attack_alone(unlearned, make_rng).values             # {"logistic_attack": float64 [R], ...}
    values = compare(Pair(unlearned, reference, "parity", make_rng, alone))        # {"forgetting_quality": 0.11, ...}

`compare` is called again and again on subsets of the populations; a number of single models is computed once.
A measure whose split the study does not save, or that needs more runs, is left out; `why_missing` gives the reason.

Does not cover: intervals and nulls (`resampling`), what a number is (`measures`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures import CURVES, MEASURES, SINGLE_CURVES
from ray_unlearn.evaluation.measures.measure import LEAST_RUNS, MakeRng, Pair, Single
from ray_unlearn.evaluation.outputs import WHY_LACKING, Outputs
from ray_unlearn.evaluation.roc import Roc

Values = dict[str, float]
PerRun = dict[str, np.ndarray]
"""A measure of single models -> float64 [R]; NaN for runs that were not attacked."""
ATTACKED = 64
"""Runs that are attacked one model at a time, the first of a population: what is reported is their mean."""


def check_forget(*sides: Outputs) -> None:
    """Refuse populations whose runs saved no outputs of the forget set.

    Raises:
        EvaluationError: a population's runs saved no outputs of the forget set.

    """
    for side in sides:
        if "forget" not in side.splits:
            raise EvaluationError(
                f"population {side.population}: its runs saved no outputs of the forget set, so nothing can be scored; "
                "make them under another study name with outputs: {splits: [retain, forget, test]}"
            )


def check_margins(*sides: Outputs) -> None:
    """Refuse populations of which one was imported as margins to the next class, and another was not.

    Raises:
        EvaluationError: their numbers are not of one kind.

    """
    kinds = {side.population: side.splits["forget"].margin == "top_two" for side in sides}
    if len(set(kinds.values())) > 1:
        one, other = (next(name for name, top in kinds.items() if top is kind) for kind in (True, False))
        raise EvaluationError(
            f"{one} was imported as margins to the next class, and {other} was not: the two numbers do not compare; "
            "import logits of both"
        )


def why_missing(name: str, outputs: Outputs, drawn: Collection[str], reference: Outputs | None = None) -> str:
    """Return why a measure has no value for these outputs; `drawn`: the splits that the study has images of."""
    measure = MEASURES[name]
    if nowhere := [split for split in measure.needs if split not in drawn]:
        return f"needs {' and '.join(nowhere)} images, and the study has no {' and no '.join(nowhere)} set"
    if lacking := [split for split in measure.needs if split not in outputs.splits]:
        wanted = ", ".join(dict.fromkeys([*outputs.splits, *lacking]))
        return f"needs outputs of {' and '.join(lacking)}: outputs: {{splits: [{wanted}]}}"
    if measure.lacks_images(outputs):
        return f"needs {measure.least_images} images of each set"
    for side in (outputs, reference):
        if side is not None and (lack := measure.not_known(side)):
            return f"not known: {WHY_LACKING[lack[0]]} ({side.population})"
    if len(outputs) < measure.least_runs:
        why = f": {measure.why_runs}" if measure.why_runs else ""
        there = f"there {'is' if len(outputs) == 1 else 'are'} {len(outputs)}"
        return f"needs {measure.least_runs} runs a side, and {there}{why}"
    return measure.undefined


def compare(pair: Pair) -> Values:
    """Return every measure that the outputs of a pair allow; none of fewer than two runs a side."""
    values: Values = {}
    runs = min(len(pair.unlearned), len(pair.reference))
    for name, measure in MEASURES.items() if runs >= LEAST_RUNS else ():
        if not (measure.possible(pair.unlearned, runs) and measure.possible(pair.reference, runs)):
            continue
        value = measure.compute(pair) if measure.compute else _mean(pair.alone.get(name))
        if value is not None:
            values[name] = value
    return values


def _mean(values_R: np.ndarray | None) -> float | None:
    attacked = np.empty(0) if values_R is None else values_R[~np.isnan(values_R)]
    return float(attacked.mean()) if len(attacked) else None


def attack_curves(pair: Pair) -> dict[str, Roc]:
    """Return the ROC of each attack that knows the reference, over all runs and images together."""
    runs = min(len(pair.unlearned), len(pair.reference))
    found = {
        attack: pair.once(curve)
        for attack, curve in CURVES.items()
        if all(MEASURES[f"{attack}_auc"].possible(side, runs) for side in (pair.unlearned, pair.reference))
    }
    return {attack: curve for attack, curve in found.items() if curve is not None}


@dataclass(frozen=True)
class Alone:
    """Results of the attacks on one model at a time, for a population."""

    values: PerRun
    curves: dict[str, Roc]
    """ROC of each attack, over all runs and images together; forget images are the positives."""


def attack_alone(outputs: Outputs, make_rng: MakeRng) -> Alone:
    """Return what attacks get from one model at a time, of the first `ATTACKED` runs.

    Args:
        outputs: a population's; attacks whose splits are missing, or too small, are left out.
        make_rng: returns the same fresh generator each time; it chooses the images where an attack takes a subset, the
            same for every run.

    """
    single = Single(outputs.take(range(min(ATTACKED, len(outputs)))), make_rng)
    values = {
        name: np.append(values_R, np.full(len(outputs) - len(values_R), np.nan))
        for name, one in MEASURES.items()
        if one.per_run and one.possible(outputs, LEAST_RUNS) and (values_R := one.per_run(single)) is not None
    }
    return Alone(values, {attack: curve(single) for attack, curve in SINGLE_CURVES.items() if attack in values})

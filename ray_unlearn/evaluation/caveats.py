"""Caveats of a population's scores, for readers.

    warnings = caveats(scored, [outputs])       # ("only 8 runs: ...", ...)

Does not cover: warnings about a plan before it runs (`study.plan`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_unlearn.evaluation.forget_sets import LEAST_SETS
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS
from ray_unlearn.evaluation.scores import PopulationScores
from ray_unlearn.store.records import OUTPUTS

FEW_RUNS = 32
"""Number of runs below which epsilon has few values and a small shift is missed; the official evaluator used 512."""


def caveats(scored: PopulationScores, sides: Sequence[Outputs]) -> tuple[str, ...]:
    """Return one warning per reason to doubt the scores.

    Args:
        scored: the population's scores.
        sides: its outputs, for each forget set.

    """
    found = []
    records = [record for outputs in sides for record in outputs.records]
    different = len({record.payloads[OUTPUTS].sha256 for record in records})
    images = sum(outputs.splits["forget"].phi_RN.shape[1] for outputs in sides)
    if different < len(records):
        found.append(
            f"only {different} of {len(records)} runs have different outputs: the results of the method hardly depend "
            "on the seed"
        )
    if scored.guarded:
        found.append(
            f"on {scored.guarded} of {images} forget images the runs of one side hardly differ from each "
            "other; the official rule gives these images epsilon 50, and no points"
        )
    if scored.missed:
        found.append(
            f"on {scored.missed} of {images} forget images an interval separates the unlearned from the retrained "
            "models without error, but the official grid, 0.01 apart, has no such interval: F is too high; "
            "`--mode exact` tries every interval"
        )
    if scored.undecided:
        found.append(
            f"on {scored.undecided} of {images} forget images the official grid, 0.01 apart, has no interval that "
            "counts; they get epsilon 50; `--mode exact` tries every interval"
        )
    of_each = min(len(outputs) for outputs in sides)
    runs = f"only {of_each} run{'s' * (of_each != 1)}" + " of each forget set" * (len(sides) > 1)
    if of_each < LEAST_TO_SCORE:
        found.append(f"{runs}: a score takes {LEAST_TO_SCORE} runs on each side")
    elif of_each < FEW_RUNS:
        found.append(f"{runs}: intervals are wide, and small differences are not detected")
    if scored.originals == 1 and len(records) > 1:
        found.append(
            "all runs start from one original: scores compare models unlearned from this original with retrained "
            "models; other originals may score differently (`originals: k` starts from several)"
        )
    if 1 < scored.originals < min(LEAST_ORIGINALS, len(records)):
        found.append(
            f"all runs start from {scored.originals} originals: intervals hold for these originals alone; with "
            f"{LEAST_ORIGINALS} or more they cover the choice of originals, too"
        )
    if 1 < len(sides) < LEAST_SETS:
        found.append(
            f"the study has {len(sides)} forget sets: intervals hold for these sets alone; with {LEAST_SETS} or more "
            "they cover the choice of sets, too"
        )
    return tuple(found)

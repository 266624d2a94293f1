"""Caveats of a population's scores, for readers.

    warnings = caveats(scored, outputs)         # ("only 8 runs: ...", ...)

Does not cover: warnings about a plan before it runs (`study.plan`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS
from ray_unlearn.evaluation.scores import PopulationScores
from ray_unlearn.store.records import OUTPUTS

FEW_RUNS = 32
"""Number of runs below which epsilon has few values and a small shift is missed; the official evaluator used 512."""


def caveats(scored: PopulationScores, outputs: Outputs) -> tuple[str, ...]:
    """Return one warning per reason to doubt the scores."""
    found = []
    different = len({record.payloads[OUTPUTS].sha256 for record in outputs.records})
    images = outputs.splits["forget"].phi_RN.shape[1]
    if different < len(outputs):
        found.append(
            f"only {different} of {len(outputs)} runs have different outputs: the results of the method hardly depend "
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
    runs = f"only {len(outputs)} run{'s' * (len(outputs) != 1)}"
    if len(outputs) < LEAST_TO_SCORE:
        found.append(f"{runs}: a score takes {LEAST_TO_SCORE} runs on each side")
    elif len(outputs) < FEW_RUNS:
        found.append(f"{runs}: intervals are wide, and small differences are not detected")
    if scored.originals == 1 and len(outputs) > 1:
        found.append(
            "all runs start from one original: scores compare models unlearned from this original with retrained "
            "models; other originals may score differently (`originals: k` starts from several)"
        )
    if 1 < scored.originals < min(LEAST_ORIGINALS, len(outputs)):
        found.append(
            f"all runs start from {scored.originals} originals: intervals hold for these originals alone; with "
            f"{LEAST_ORIGINALS} or more they cover the choice of originals, too"
        )
    return tuple(found)

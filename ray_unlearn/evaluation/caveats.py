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

_NEARLY_ALL_GUARDED = 0.5


def caveats(scored: PopulationScores, outputs: Outputs) -> tuple[str, ...]:
    """Return one sentence per reason for doubt."""
    found = []
    different = len({record.payloads[OUTPUTS].sha256 for record in outputs.records})
    images = outputs.splits["forget"].phi_RN.shape[1]
    if different < len(outputs):
        found.append(
            f"only {different} of {len(outputs)} runs have different outputs: seeds make (nearly) no difference"
        )
    if scored.guarded:
        share = "most" if scored.guarded > _NEARLY_ALL_GUARDED * images else "some"
        found.append(
            f"on {scored.guarded} of {images} forget images ({share}) its runs, or the reference's, hardly differ; the "
            "official rule gives such images epsilon 50, no points"
        )
    if scored.missed:
        found.append(
            f"on {scored.missed} of {images} forget images its runs and the reference's do not overlap at all, and the "
            "official grid, 0.01 apart, does not see it: F is too high; `--mode exact` sees it"
        )
    if scored.undecided:
        found.append(
            f"on {scored.undecided} of {images} forget images the official grid is too coarse to decide: epsilon 50; "
            "`--mode exact` decides"
        )
    runs = f"only {len(outputs)} run{'s' * (len(outputs) != 1)}"
    if len(outputs) < LEAST_TO_SCORE:
        found.append(f"{runs}: there is no score below {LEAST_TO_SCORE} a side")
    elif len(outputs) < FEW_RUNS:
        found.append(f"{runs}: intervals are wide, and small differences cannot show")
    if scored.originals == 1 and len(outputs) > 1:
        found.append(
            "all runs start from one original: the question answered is whether the method makes retrained models of "
            "this original, not of any (`originals: k` starts from several)"
        )
    if 1 < scored.originals < min(LEAST_ORIGINALS, len(outputs)):
        found.append(
            f"all runs start from {scored.originals} originals: intervals are given these; from {LEAST_ORIGINALS} on "
            "they are over originals too"
        )
    return tuple(found)

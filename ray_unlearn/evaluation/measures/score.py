"""The challenge's score: forgetting quality x retain ratio x test ratio.

    MEASURES["score"].compute(pair)

F x RA_U / RA_R x TA_U / TA_R, with ratios of means over runs that are not cut at 1 (NeurIPS 2023 Machine Unlearning
Challenge, metric PDF). What is different on purpose is so in the forgetting quality.

Does not cover: the factors (`forgetting_quality`, `accuracy_ratios`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures.accuracy_ratios import retain_ratio, test_ratio
from ray_unlearn.evaluation.measures.forgetting_quality import DEVIATION, LEAST_TO_SCORE, WHY_RUNS, f_of
from ray_unlearn.evaluation.measures.measure import ALL, Measure, Pair


def score(pair: Pair) -> float | None:
    """Return the product, or None where the reference is never right."""
    retain, test = pair.once(retain_ratio), pair.once(test_ratio)
    return None if retain is None or test is None else pair.once(f_of) * retain * test


MEASURES = {
    "score": Measure(
        label="score",
        better="high",
        meaning="forgetting quality x retain ratio x test ratio: the challenge's number",
        source="NeurIPS 2023 Machine Unlearning Challenge, metric PDF",
        deviation=DEVIATION,
        needs=ALL,
        takes=("answers",),
        least_runs=LEAST_TO_SCORE,
        why_runs=WHY_RUNS,
        compute=score,
    )
}

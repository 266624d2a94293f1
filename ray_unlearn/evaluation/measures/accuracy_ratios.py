"""The accuracies' part of the challenge's score: mean accuracy over that of the reference.

    MEASURES["retain_ratio"].compute(pair)       # RA_U / RA_R, of means over runs; not cut at 1

Does not cover: the score itself (`score`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures.measure import Measure, Pair

_SOURCE = "NeurIPS 2023 Machine Unlearning Challenge, metric PDF"


def retain_ratio(pair: Pair) -> float | None:
    """Return RA_U / RA_R, or None where the reference is never right."""
    return _ratio(pair, "retain")


def test_ratio(pair: Pair) -> float | None:
    """Return TA_U / TA_R, or None where the reference is never right."""
    return _ratio(pair, "test")


def _ratio(pair: Pair, split: str) -> float | None:
    ours, theirs = (float(side.splits[split].accuracy_R.mean()) for side in (pair.unlearned, pair.reference))
    return ours / theirs if theirs else None


MEASURES = {
    f"{split}_ratio": Measure(
        label=label,
        better="high",
        meaning=f"mean {split} accuracy over the reference's",
        source=_SOURCE,
        needs=(split,),
        takes=("answers",),
        compute=compute,
    )
    for split, label, compute in (("retain", "RA ratio", retain_ratio), ("test", "TA ratio", test_ratio))
}

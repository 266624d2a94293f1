"""ToW: how far from retraining's a run's accuracies are, on all splits at once.

    tug = tug_of_war({"forget": forget_U, "test": test_U}, {"forget": 0.96, "test": 0.97})
    tug.per_run.mean(), tug.splits

Zhao et al., "What Makes Unlearning Hard and What to Do About It" (RUM, NeurIPS 2024). Read in the authors' program,
kairanzhao/RUM, `surgical_plugins/analysis.py` at f593c9d: the same product. On purpose different: a run is compared
with the mean of all retrained models, there with the one that was retrained with its seed.

Does not cover: accuracies by class and group (`evaluation.slices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.measure import ALL, Measure, Pair
from ray_unlearn.evaluation.populations import FloatArray, by_examples

SPLITS = ("retain", "forget", "test")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TugOfWar:
    """ToW of each run, and the splits that it is a product over: never compare different ones."""

    per_run: FloatArray
    """[U], float64 in [0, 1]; 1 is as accurate as retraining on every split."""
    splits: tuple[str, ...]


def tug_of_war(accuracies: Mapping[str, npt.ArrayLike], retrained_means: Mapping[str, float]) -> TugOfWar:
    """Return for each run the product over splits of 1 - |accuracy - mean accuracy of retrained models|.

    RUM's is over retain, forget and test; a split that both arguments leave out is left out, and `splits` names the
    ones that remain.

    Args:
        accuracies: split -> accuracies [U] of the unlearned runs, shares in [0, 1]; splits among retain, forget, test.
        retrained_means: split -> mean accuracy of the retrained runs; the same splits.

    Raises:
        EvaluationError: no split, unknown or different ones, different numbers of runs, or accuracies outside [0, 1].

    """
    if not accuracies or set(accuracies) != set(retrained_means) or set(accuracies) - set(SPLITS):
        raise EvaluationError(
            f"tug_of_war: expected the same splits on both sides, among {', '.join(SPLITS)}; "
            f"found {sorted(accuracies)} and {sorted(retrained_means)}"
        )
    splits = tuple(split for split in SPLITS if split in accuracies)
    checked = {split: _accuracies(accuracies[split], f"unlearned {split} accuracies") for split in splits}
    means = {split: _accuracies([retrained_means[split]], f"retrained {split} accuracy") for split in splits}
    if len({len(values) for values in checked.values()}) > 1:
        counts = ", ".join(f"{split} {len(values)}" for split, values in checked.items())
        raise EvaluationError(f"tug_of_war: expected as many runs on every split, found {counts}")
    closeness_SU = np.stack([1 - np.abs(checked[split] - means[split]) for split in splits])
    return TugOfWar(per_run=closeness_SU.prod(axis=0), splits=splits)


def _accuracies(values: npt.ArrayLike, name: str) -> FloatArray:
    shares = by_examples(values, name)
    if shares.min() < 0 or shares.max() > 1:
        raise EvaluationError(f"{name}: expected shares in [0, 1], found {shares.min():g} to {shares.max():g}")
    return shares


def _mean(pair: Pair) -> float:
    """Return the mean over unlearned runs."""
    ours = {split: pair.unlearned.splits[split].accuracy_R for split in ALL}
    theirs = {split: float(pair.reference.splits[split].accuracy_R.mean()) for split in ALL}
    return float(tug_of_war(ours, theirs).per_run.mean())


MEASURES = {
    "tug_of_war": Measure(
        label="ToW",
        better="high",
        meaning="product over forget, retain and test of 1 - |accuracy - the reference's mean|, mean over runs",
        source="Zhao et al., What Makes Unlearning Hard and What to Do About It (RUM), NeurIPS 2024",
        deviation="a run is compared with the mean of all retrained models, where the program takes the one with its "
        "seed",
        upper=1.0,
        needs=ALL,
        takes=("answers",),
        compute=_mean,
    )
}

"""Plain distances from the retrained population: shift and spread per example, accuracies, and both by group.

    distance = shift_and_spread(unlearned_UE, retrained_RE)    # phi, margins or losses
    distance.mean_absolute_shift, distance.median_spread_ratio
    tug = tug_of_war({"forget": forget_U, "test": test_U}, {"forget": 0.96, "test": 0.97})
    tug.per_run.mean(), tug.splits
    accuracy_by_class = mean_by(correct_RE, labels_E)          # {class: [R]}; losses and groups likewise

Does not cover: intervals over runs (the arrays are per run, for that), tests of significance.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.populations import FloatArray, by_examples, by_runs, compared

SPLITS = ("retain", "forget", "test")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShiftAndSpread:
    """How far the unlearned models' mean and spread are from the retrained ones', per example."""

    shift: FloatArray
    """[E], float64: (mean of unlearned - mean of retrained) / sd of retrained; NaN where that sd is 0."""
    log_spread_ratio: FloatArray
    """[E]: log(sd of unlearned / sd of retrained); -inf where unlearned models do not differ, NaN as above."""

    @property
    def undefined(self) -> int:
        """Number of examples on which all retrained models agree exactly; the summaries leave them out."""
        return int(np.isnan(self.shift).sum())

    @property
    def mean_absolute_shift(self) -> float:
        """Mean of |shift| in sd of retrained; NaN if no example is left."""
        return float(np.abs(self.shift[self._defined]).mean()) if self._defined.any() else float("nan")

    @property
    def median_spread_ratio(self) -> float:
        """Median of sd of unlearned / sd of retrained: 1 if as varied, 0 if constant; NaN if no example is left."""
        return float(np.median(np.exp(self.log_spread_ratio[self._defined]))) if self._defined.any() else float("nan")

    @property
    def _defined(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.shift)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TugOfWar:
    """ToW of each run, and the splits that it is a product over: never compare different ones."""

    per_run: FloatArray
    """[U], float64 in [0, 1]; 1 is as accurate as retraining on every split."""
    splits: tuple[str, ...]


def shift_and_spread(unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike) -> ShiftAndSpread:
    """Return the standardised shift of the mean and the log ratio of standard deviations (ddof 1) for each example.

    Raises:
        EvaluationError: wrong shapes, fewer than 2 runs, different examples, NaN or infinity.

    """
    unlearned_UE, retrained_RE = compared(unlearned_UE, retrained_RE, at_least=2)
    sd_E = _sd(retrained_RE)
    sd_E[sd_E == 0] = np.nan
    with np.errstate(divide="ignore"):  # log 0 = -inf is the answer
        log_ratio_E = np.log(_sd(unlearned_UE) / sd_E)
    return ShiftAndSpread(
        shift=(unlearned_UE.mean(axis=0) - retrained_RE.mean(axis=0)) / sd_E, log_spread_ratio=log_ratio_E
    )


def _sd(values_RE: FloatArray) -> FloatArray:
    """Return standard deviations (ddof 1) over runs, exactly 0 where all runs agree, [E]."""
    return np.where(np.ptp(values_RE, axis=0) > 0, values_RE.std(axis=0, ddof=1), 0)


def tug_of_war(accuracies: Mapping[str, npt.ArrayLike], retrained_means: Mapping[str, float]) -> TugOfWar:
    """Return for each run the product over splits of 1 - |accuracy - mean accuracy of retrained models|.

    ToW of "What makes unlearning hard and why" (RUM, NeurIPS 2024), there over retain, forget and test; a split that
    both arguments leave out is left out, and `splits` says which remain.

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


def mean_by(values_RE: npt.ArrayLike, keys_E: npt.ArrayLike) -> dict[Hashable, FloatArray]:
    """Return for each key, in order, the mean of each run over the examples with that key: key -> [R], float64.

    Correctness (true or false) gives accuracies, losses give mean losses; keys are labels, groups, anything that sorts.

    Raises:
        EvaluationError: wrong shapes, other than one key per example, keys that do not sort, NaN or infinity.

    """
    values_RE, keys = by_runs(values_RE, "values"), np.asarray(keys_E)
    if keys.shape != (values_RE.shape[1],):
        raise EvaluationError(
            f"mean_by: expected {values_RE.shape[1]} keys, one per example, found shape {list(keys.shape)}"
        )
    try:
        found, first = np.unique(np.sort(keys), return_index=True)
    except TypeError as error:
        raise EvaluationError(f"mean_by: expected keys of one kind, such as labels or groups: {error}") from error
    sums_RK = np.add.reduceat(values_RE[:, np.argsort(keys, kind="stable")], first, axis=1)
    means_RK = sums_RK / np.diff([*first, len(keys)])
    return {key: means_RK[:, k] for k, key in enumerate(found.tolist())}

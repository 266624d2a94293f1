"""Accuracy and loss by split, class and group, over a population's runs; and the figures of its records, run by run.

    rows = slices([outputs], names)              # (Slice(split="forget", by="class", key="3-9", ...), ...)
    curves = stages(outputs.records)             # means by epoch, where the study published stages
    price = cost(outputs.records, reference.records)

Does not cover: comparisons with the reference (`comparison`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.originals import error_of_mean
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.populations import FloatArray, by_runs
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS
from ray_unlearn.evaluation.scores import Cost, Slice, Stage, Summary
from ray_unlearn.evaluation.t_distribution import t_quantile
from ray_unlearn.store import Record
from ray_unlearn.store.outputs import UNKNOWN
from ray_unlearn.store.splits import ImageNames

GROUPS_SHOWN = 50
"""Groups (persons) of a split: those with the most images."""

EFFICIENT = 0.2
"""Share of retraining's time that the challenge allowed (CHALLENGE: hard cut-off at about 20 %)."""


By = Literal["all", "class", "group"]
_WAYS: tuple[By, ...] = ("all", "class", "group")


def slices(parts: Iterable[Outputs], names: ImageNames) -> tuple[Slice, ...]:
    """Return every split as a whole, then by class and, where images have groups, by group.

    Runs arrive in parts; one part at a time is in memory. Splits whose answers are not known are left out.
    """
    found: dict[tuple[str, By], _Sliced] = {}
    starts: list[int] = []
    for outputs in parts:
        scratch = -1 - len(starts)  # a part numbers its own runs from scratch
        starts += [start if start >= 0 else scratch - row for row, start in enumerate(outputs.originals_R.tolist())]
        for name, split in outputs.splits.items():
            for by in _WAYS if "answers" not in split.lacks else ():
                if (name, by) not in found:
                    found[name, by] = _Sliced(name, by, _keys_of(name, by, split, names), split.labels_N)
                found[name, by].add(split)
    return tuple(part for one in found.values() for part in one.slices(np.array(starts, dtype=np.int64)))


def forget_keys(outputs: Outputs, names: ImageNames) -> dict[str, np.ndarray]:
    """Return for each way of slicing (all, class, group) the key of every forget image, text [N]."""
    return {by: _keys_of("forget", by, outputs.splits["forget"], names) for by in _WAYS}


class _Sliced:
    """Accuracies and losses of one split, sliced one way, of runs that arrive in parts."""

    def __init__(self, name: str, by: By, keys_N: np.ndarray, labels_N: np.ndarray) -> None:
        self._name, self._by, self._keys_N = name, by, keys_N
        self._sizes = Counter(keys_N.tolist())
        ordered = list(enumerate(keys_N[np.argsort(labels_N)].tolist()))
        self._first = {key: position for position, key in reversed(ordered)}
        self._accuracies: list[dict[Hashable, FloatArray]] = []
        self._losses: list[dict[Hashable, FloatArray]] = []

    def add(self, split: SplitOutputs) -> None:
        """Add the split under some runs."""
        self._accuracies.append(mean_by(split.correct_RN, self._keys_N))
        if "probabilities" not in split.lacks:
            self._losses.append(mean_by(split.loss_RN, self._keys_N))

    def slices(self, originals_R: np.ndarray) -> list[Slice]:
        """Return one part per key: classes in the order of their labels, groups with the most images first.

        Args:
            originals_R: which original each run started from, in the order of the runs that were added.

        """
        by_size = self._by == "group"
        order = sorted(self._sizes, key=lambda key: (-self._sizes[key], key) if by_size else (self._first[key], key))
        shown = [key for key in order if key][:GROUPS_SHOWN] if by_size else order
        return [
            Slice(
                split=self._name,
                by=self._by,
                key=key,
                images=self._sizes[key],
                accuracy=summary(np.concatenate([part[key] for part in self._accuracies]), 1.0, originals_R),
                loss=summary(np.concatenate([part[key] for part in self._losses]), math.inf, originals_R)
                if self._losses
                else None,
            )
            for key in shown
        ]


def _keys_of(name: str, by: By, split: SplitOutputs, names: ImageNames) -> np.ndarray:
    """Return the key of every image of a split, text [N]."""
    if by == "all":
        return np.full(len(split.labels_N), "")
    if by == "class":
        return np.array([class_name(names, int(label)) for label in split.labels_N])
    return np.array([names.groups[name][position] for position in split.positions_N])


def class_name(names: ImageNames, label: int) -> str:
    """Return the class's name, or its number where the source has no names, or that it is not known."""
    if label == UNKNOWN:
        return "not known"
    return names.class_names[label] if label < len(names.class_names) else str(label)


def stages(records: Sequence[Record]) -> tuple[Stage, ...]:
    """Return means over runs after each epoch that a run published; empty where the study asked for no stages."""
    by_epoch: dict[int, list[dict[str, float]]] = {}
    for record in records:
        for stage in record.stages:
            by_epoch.setdefault(int(stage["epoch"]), []).append(stage)
    return tuple(
        Stage(epoch=epoch, n=len(found), metrics={key: float(np.mean([s[key] for s in found])) for key in _keys(found)})
        for epoch, found in sorted(by_epoch.items())
    )


def _keys(found: Sequence[dict[str, float]]) -> list[str]:
    return [key for key in found[0] if key != "epoch" and all(key in stage for stage in found)]


def cost(records: Sequence[Record], reference: Sequence[Record]) -> Cost:
    """Return a run's training time, against the reference's: medians, because any run may meet a busy machine.

    On CPUs, CPU times are compared, where every record has them. Wall times compare only on equal devices with equal
    load; the records name device, threads and host. Runs that another program made have no times.
    """
    everyone = [*records, *reference]
    if not all("train" in record.seconds for record in records):
        return Cost(seconds=None, relative=None, efficient=None)
    on_cpu = all(record.device == "cpu" and record.cpu_seconds.get("train") for record in everyone)
    ours, theirs = (_train_s(side, cpu=on_cpu) for side in (records, reference))
    relative = float(np.median(ours) / np.median(theirs)) if len(theirs) and np.median(theirs) else None
    return Cost(
        seconds=summary(_train_s(records, cpu=False)),
        relative=relative,
        efficient=None if relative is None else relative <= EFFICIENT,
    )


def _train_s(records: Sequence[Record], *, cpu: bool) -> FloatArray:
    times = [record.cpu_seconds if cpu else record.seconds for record in records]
    return np.array([one["train"] for one in times if "train" in one])


def summary(values_R: np.ndarray, upper: float = math.inf, originals_R: np.ndarray | None = None) -> Summary:
    """Return mean, standard deviation and the mean's 95 % t-interval, cut at 0 and `upper`, of one number per run.

    Runs of one original are alike: from 4 originals on, the interval is over originals.
    """
    n, mean = len(values_R), float(np.mean(values_R))
    if n < 2:
        return Summary(mean=mean, sd=None, low=None, high=None, n=n)
    sd = float(np.std(values_R, ddof=1))
    margin = t_quantile(0.975, n - 1) * sd / math.sqrt(n)
    if originals_R is not None and LEAST_ORIGINALS <= len(np.unique(originals_R)) < n:
        variance, originals = error_of_mean(values_R, originals_R)
        margin = t_quantile(0.975, originals - 1) * math.sqrt(variance)
    return Summary(mean=mean, sd=sd, low=max(0.0, mean - margin), high=min(upper, mean + margin), n=n)


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

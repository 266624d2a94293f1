"""Definition of a measure: a number that compares a population with the reference, with its metadata.

    MEASURES = {"tug_of_war": Measure(label="ToW", better="high", ..., needs=("forget",), compute=compute)}

A file of this room defines `MEASURES`, in the order in which tables show them, and is listed in `measures/__init__.py`.
`compute` gets a `Pair` and returns one number, or None where it is not defined. A number that looks at one model at a
time has `per_run` instead: it gets one population and returns a value for each run.

Does not cover: intervals and nulls (`evaluation.resampling`), and which measures a study has outputs for
(`evaluation.comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np

from ray_unlearn.evaluation.outputs import Lack, Outputs
from ray_unlearn.evaluation.populations import FloatArray, random_half
from ray_unlearn.evaluation.roc import Roc, roc

Mode = Literal["parity", "exact"]
T = TypeVar("T")

ALL = ("forget", "retain", "test")
"""Splits that the challenge's score looks at."""
LEAST_RUNS = 2
"""Runs that make a distribution."""
FALSE_POSITIVES = {"0.1": 0.001, "1": 0.01}
"""Ending of a measure's name -> the false positive rate at which its true positive rate is taken."""

At = Callable[..., Any]
"""(a `Pair` or a `Single`, fpr=...) -> a true positive rate, or one for each run."""

MakeRng = Callable[[], np.random.Generator]
"""Returns the same fresh generator each time."""


@dataclass(frozen=True)
class Pair:
    """A population, or some of its runs, and as many runs of the reference, of the same images."""

    unlearned: Outputs
    reference: Outputs
    mode: Mode
    """Mode of the forgetting quality."""
    make_rng: MakeRng
    """Divides the test images where an attack takes a part of them, in the same way for every pair of a study."""
    alone: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Values [R] of the unlearned runs by the name of the measure, of measures that look at one model at a time."""
    _known: dict[object, Any] = field(default_factory=dict, repr=False)

    def phi(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return phi of both sides, [runs, images] each."""
        return self.unlearned.splits[split].phi_RN, self.reference.splits[split].phi_RN

    def half_of(self, split: str) -> np.ndarray | None:
        """Return a mask of half of a split's images, the same for every pair of a study; None with a single image."""
        images, key = len(self.unlearned.splits[split].labels_N), ("half", split)
        if key not in self._known:
            self._known[key] = random_half(images, self.make_rng()) if images > 1 else None
        return cast("np.ndarray | None", self._known[key])

    def once(self, compute: Callable[[Pair], T]) -> T:
        """Return what a function makes of this pair, computed at the first call: measures of one attack share it."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        return cast(T, self._known[compute])

    def knows(self, compute: Callable[[Pair], T], value: T) -> None:
        """Take what a function makes of this pair, which was computed together with that of other pairs."""
        self._known[compute] = value


@dataclass(frozen=True)
class Single:
    """A population that is looked at one model at a time."""

    outputs: Outputs
    make_rng: MakeRng
    """Chooses the images where an attack takes a subset, the same for every run."""
    _known: dict[object, Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Single], T]) -> T:
        """Return what a function makes of this population, computed at the first call."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        return cast(T, self._known[compute])


class Distance(NamedTuple):
    """What the interval of a measure of distance is made of (`evaluation.moved`)."""

    moved: Callable[[Pair, FloatArray], FloatArray]
    """Values [moves] after phi of the unlearned models' images is moved by [moves, images]."""
    own: Callable[[Pair], float]
    """Variance between studies if images had nothing in common: at most the variance over images of what each adds,
    over their number; inf with a single image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number: its name, meaning, required inputs and computation."""

    label: str
    better: Literal["high", "low", "null"]
    """`null`: the closer to the null, the better."""
    meaning: str
    source: str
    deviation: str = ""
    """What is different from the source on purpose, and why, for the page's glossary; empty where nothing is."""
    upper: float | None = None
    """Largest possible value; the smallest is 0 for all."""
    needs: tuple[str, ...] = ("forget",)
    """Splits whose outputs it takes."""
    of_shadows: bool = False
    """Whether it takes a population of shadows; a study without one does not have this measure."""
    takes: tuple[Lack, ...] = ()
    """What it takes of the images besides phi; runs that were imported as margins may lack it."""
    least_runs: int = LEAST_RUNS
    """Runs that it takes on each side."""
    why_runs: str = ""
    """Reason for the least number of runs, where it is not obvious."""
    least_images: int = 1
    """Images that it takes of each split."""
    error: float = 1.0
    """Share of the jackknife's standard error that is this number's. Percentiles, medians and rates are no averages
    over runs, and vary between large subsets more than between studies; low areas of RMIA have small errors, which a
    share above 1 makes good for. Estimated as the factors of `intervals`."""
    halves: Callable[[Pair], tuple[float, float] | None] | None = None
    """Values on two halves of the images, where `error` is that of what images have alone: what both halves have in
    common is an average over runs. None where a half has no image."""
    rare: bool = False
    """Whether it is a share that varies with its mean, as counts do: its interval is symmetric on the scale of the
    square root."""
    distance: Distance | None = None
    """Of a measure of how far two populations are apart, whatever the direction: what its interval is made of."""
    undefined: str = "not defined here: runs that do not differ, too few images, or a reference that is never right"
    """Reason why there may be no value although all splits and runs are there."""
    compute: Callable[[Pair], float | None] | None = None
    """Function of two populations; None where `per_run` is set."""
    per_run: Callable[[Single], np.ndarray | None] | None = None
    """Function of one population: float64 [R]; the mean over runs is the measure's value."""

    def lacks_images(self, outputs: Outputs) -> bool:
        """Return whether a split that it needs has too few images."""
        return any(len(outputs.splits[split].labels_N) < self.least_images for split in self.needs)

    def possible(self, outputs: Outputs, runs: int) -> bool:
        """Return whether these outputs, and so many runs a side, are enough."""
        saved = outputs.splits.keys() >= set(self.needs)
        return saved and not self.lacks_images(outputs) and not self.not_known(outputs) and runs >= self.least_runs

    def not_known(self, outputs: Outputs) -> list[Lack]:
        """Return what it takes of saved outputs and they do not have."""
        splits = [outputs.splits[split] for split in self.needs if split in outputs.splits]
        return [what for what in self.takes if any(what in split.lacks for split in splits)]

    def applies(self, outputs: Outputs) -> bool:
        """Return whether the study has what the measure is about: shadows, for an attack by shadows."""
        return not self.of_shadows or any(split.shadows is not None for split in outputs.splits.values())


def enough_negatives(negatives: int, fpr: float) -> bool:
    """Return whether one false positive among so many negatives is no more than the rate allows."""
    return negatives * fpr > 1 - 1e-9


def rates(
    attack: str,
    label: str,
    recognised: str,
    accused: str,
    one: Measure,
    at: At,
    *,
    error: float = 1.0,
    halves: At | None = None,
    rare: bool = False,
) -> dict[str, Measure]:
    """Return an attack's true positive rates at false positive rates of 0.1 % and 1 %, as measures by name.

    With M negatives the rates that an attack can reach are multiples of 1 / M: at 0.1 % with fewer than 1,000 negatives
    it would be the rate at no false positive at all, which is 1 / (M + 1) for an attack by chance. Such a rate has no
    value.

    Args:
        attack: how their names begin.
        label: how their labels begin.
        recognised: what a true positive is a share of.
        accused: what a false positive is a share of.
        one: the attack's own measure; what it takes, the rates take.
        error: as in `Measure`.
        halves: as in `Measure`, at a false positive rate.
        rare: as in `Measure`.
        at: returns the rate at a false positive rate, of a `Pair`, or of each run of a `Single`, as `one` is computed.

    """
    return {
        f"{attack}_tpr_{percent}": replace(
            one,
            label=f"{label} TPR at {percent} % FPR",
            better="null",
            meaning=f"share of {recognised} recognised while {percent} % of {accused} are accused",
            undefined=f"needs {round(1 / fpr):,} or more {accused} that the attack did not use otherwise",
            upper=1.0,
            error=error,
            rare=rare,
            halves=partial(halves, fpr=fpr) if halves else None,
            compute=partial(at, fpr=fpr) if one.compute else None,
            per_run=partial(at, fpr=fpr) if one.per_run else None,
        )
        for percent, fpr in FALSE_POSITIVES.items()
    }


@dataclass(frozen=True)
class SingleAttack:
    """Result of an attack on one model at a time, for a population."""

    values_R: FloatArray
    """The attack's own number for each run."""
    curves: tuple[Roc, ...]
    """ROC of each run; forget images are the positives."""
    curve: Roc
    """ROC over all runs and images together."""
    negatives: int
    """Negatives of each run."""

    @classmethod
    def of(cls, values: Sequence[float], positives_RE: FloatArray, negatives_RT: FloatArray) -> SingleAttack:
        """Return the curves of scores, in addition to the attack's own numbers."""
        curves = (roc(mine, others) for mine, others in zip(positives_RE, negatives_RT, strict=True))
        return cls(np.array(values), tuple(curves), roc(positives_RE, negatives_RT), negatives_RT.shape[1])

    def tpr_at(self, fpr: float) -> FloatArray:
        """Return each run's true positive rate at a false positive rate of at most `fpr`, [R]."""
        return np.array([curve.tpr_at(fpr) for curve in self.curves])

    def rate_of(self, fpr: float) -> FloatArray | None:
        """Return the same, or None where the negatives are too few for that rate."""
        return self.tpr_at(fpr) if enough_negatives(self.negatives, fpr) else None

"""The saved outputs of a population's runs -> what every score is made of: phi and correctness, run by image.

    outputs = read_outputs(store, "kookmin", store.made("kookmin"))
    outputs.splits["forget"].phi_RN              # float64 [runs, images]
    half = outputs.take([0, 3, 4])               # the same of some runs only

The cross-entropy follows from phi exactly: phi = log(p / (1 - p)), so -log p = log(1 + exp(-phi)).

Does not cover: checkpoints; nothing here needs a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol, cast

import numpy as np

from ray_unlearn.errors import EvaluationError, StoreError, first_line
from ray_unlearn.evaluation.confidence import logit_scaled_confidence, probability_of
from ray_unlearn.evaluation.ordered import Ordered, ordered_by_value
from ray_unlearn.evaluation.shadow_fits import ShadowFit
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.outputs import UNKNOWN, Margin, SplitLogits, SplitMargins, decode_margins, decode_outputs
from ray_unlearn.store.records import IMPORTED, OUTPUTS
from ray_unlearn.store.splits import UNREADABLE
from ray_unlearn.study.plan import Run

_READERS = 8
Lack = Literal["answers", "probabilities"]
WHY_LACKING: Mapping[Lack, str] = {
    "answers": "the runs were imported as margins to all other classes, which do not tell the class that a model named",
    "probabilities": "the runs were imported as margins to the next class, which do not tell the label's probability",
}
"""Why something is not known of imported runs."""
_LACKS: Mapping[Margin | None, frozenset[Lack]] = {
    None: frozenset(),
    "log_odds": frozenset({"answers"}),
    "top_two": frozenset({"probabilities"}),
}


@dataclass(frozen=True)
class SplitOutputs:
    """One split under R runs, N images."""

    positions_N: np.ndarray
    """int64: of the image in its split, as the splits file lists it."""
    labels_N: np.ndarray
    """int64."""
    phi_RN: np.ndarray
    """float64, logit-scaled confidence of the label."""
    correct_RN: np.ndarray
    """bool: the label has the largest logit. Where `lacks` says that answers are not known, no column."""
    shadows: ShadowFit | None = None
    """What a population of shadows makes of the images; None where the study has none."""
    margin: Margin | None = None
    """Kind of the margins that phi was taken from; None for logits."""
    taken_of: tuple[SplitOutputs, np.ndarray | Sequence[int]] | None = field(default=None, repr=False)
    """The same split of more runs, and the rows of these among them: what is computed of each run, these share."""

    @property
    def lacks(self) -> frozenset[Lack]:
        """What is not known of the images because margins alone are."""
        return _LACKS[self.margin]

    @cached_property
    def loss_RN(self) -> np.ndarray:
        """Cross-entropy in nats, float64.

        Raises:
            EvaluationError: margins do not give it.

        """
        self._check("probabilities")
        return np.asarray(np.logaddexp(0.0, -self.phi_RN))

    @property
    def probability_RN(self) -> np.ndarray:
        """Probability of the label, float64; errors as `loss_RN`."""
        if self.taken_of is None:
            return self._probability_RN
        whole, rows = self.taken_of
        return whole.probability_RN[rows]

    @property
    def among_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of all runs that these were taken of, and the rows of these, int64; errors as `loss_RN`."""
        if self.taken_of is None:
            return self._probability_RN, np.arange(len(self.phi_RN))
        whole, rows = self.taken_of
        if whole.taken_of is None:
            return whole.probability_RN, np.asarray(rows, dtype=np.int64)
        return self.probability_RN, np.arange(len(rows))

    @cached_property
    def _probability_RN(self) -> np.ndarray:
        self._check("probabilities")
        return probability_of(self.phi_RN)

    @property
    def accuracy_R(self) -> np.ndarray:
        """Share of right answers of each run, float64; errors as `loss_RN`."""
        if self.taken_of is None:
            return self._accuracy_R
        whole, rows = self.taken_of
        return whole.accuracy_R[rows]

    @cached_property
    def _accuracy_R(self) -> np.ndarray:
        self._check("answers")
        return np.asarray(self.correct_RN.mean(1))

    @cached_property
    def ordered(self) -> Ordered:
        """All runs in the order of phi, image by image."""
        return ordered_by_value(self.phi_RN)

    def take(self, rows: np.ndarray | Sequence[int]) -> SplitOutputs:
        """Return the split under some of the runs; phi and answers are copied where they are first asked for."""
        some = object.__new__(_SomeRuns)
        some.__dict__.update({name: self.__dict__[name] for name in ("positions_N", "labels_N", "shadows", "margin")})
        some.__dict__["taken_of"] = (self, rows)
        return some

    def _check(self, needed: Lack) -> None:
        if needed in self.lacks:
            raise EvaluationError(f"{needed} are not known: {WHY_LACKING[needed]}")


class _SomeRuns(SplitOutputs):
    """One split under some of its runs: compiled loops read these among all runs, and need no copy."""

    @cached_property
    def phi_RN(self) -> np.ndarray:
        whole, rows = self._whole
        return np.asarray(whole.phi_RN[rows])

    @cached_property
    def correct_RN(self) -> np.ndarray:
        whole, rows = self._whole
        return np.asarray(whole.correct_RN[rows])

    @property
    def _whole(self) -> tuple[SplitOutputs, np.ndarray | Sequence[int]]:
        return cast("tuple[SplitOutputs, np.ndarray | Sequence[int]]", self.taken_of)


@dataclass(frozen=True)
class Outputs:
    """A population's runs: their records, and their outputs by split."""

    population: str
    records: tuple[Record, ...]
    """Records of the runs, in the order of the run axis."""
    splits: Mapping[str, SplitOutputs]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def originals_R(self) -> np.ndarray:
        """Which original each run started from, int64; a different negative number for each run from scratch."""
        starts = [original_of(record) for record in self.records]
        return np.array([-1 - row if start is None else start for row, start in enumerate(starts)], dtype=np.int64)

    def with_shadows(self, fits: Mapping[str, ShadowFit]) -> Outputs:
        """Return the same with what shadows make of the images, by split; of margins to the next class without.

        Those are not phi, which shadows are fitted to.
        """
        splits = self.splits.items()
        return replace(
            self, splits={n: one if one.margin == "top_two" else replace(one, shadows=fits.get(n)) for n, one in splits}
        )

    def take(self, rows: np.ndarray | Sequence[int]) -> Outputs:
        """Return the same of some of the runs, in that order."""
        records = tuple(self.records[int(row)] for row in rows)
        return Outputs(self.population, records, {name: split.take(rows) for name, split in self.splits.items()})


def original_of(record: Record) -> int | None:
    """Return the number of the original that a run started from; of imported weights, as far as the study says it."""
    stated = record.options.get("from_originals") if record.method == "weights" else None
    if stated:
        return int(stated[record.index])
    return record.original if record.original_sha256 else None


def read_outputs(store: StudyStore, population: str, records: Mapping[int, Record]) -> Outputs:
    """Read the outputs of these runs back, comparing each with its record.

    Args:
        store: the study's folder.
        population: whose runs they are.
        records: by run index.

    Raises:
        StoreError: a file is missing or damaged, or the runs have outputs of different images.

    """
    if not records:
        raise StoreError(f"{store.uri}: population {population} has no finished run; `ray-unlearn generate` makes them")
    indexes = sorted(records)
    with ThreadPoolExecutor(_READERS) as readers:
        runs = list(readers.map(lambda index: read_run(store, population, index, records[index]), indexes))
    first = runs[0]
    for index, run in zip(indexes, runs, strict=True):
        if not same_images(first, run):
            raise StoreError(f"{store.uri}: {population}/{index:05d} has outputs of other images than its population")
    splits = {
        name: SplitOutputs(
            first[name].positions_N,
            first[name].labels_N,
            np.concatenate([run[name].phi_RN for run in runs]),
            np.concatenate([run[name].correct_RN for run in runs]),
            margin=first[name].margin,
        )
        for name in first
    }
    return Outputs(population, tuple(records[index] for index in indexes), splits)


class OfImages(Protocol):
    """What holds the outputs of one split's images."""

    @property
    def positions_N(self) -> np.ndarray:
        """int64: of the image in its split."""
        ...


def same_images(one: Mapping[str, OfImages], other: Mapping[str, OfImages]) -> bool:
    """Return whether two sides have outputs of the same images of the same splits."""
    return one.keys() == other.keys() and all(
        np.array_equal(split.positions_N, other[name].positions_N) for name, split in one.items()
    )


def check_same_images(one: Outputs, other: Outputs) -> None:
    """Refuse two populations whose outputs are of other images, or name other classes for them.

    Raises:
        StoreError: they are, or do.

    """
    if not same_images(one.splits, other.splits):
        sizes = [", ".join(f"{name} {len(s.positions_N)}" for name, s in side.splits.items()) for side in (one, other)]
        raise StoreError(
            f"{one.population} and {other.population} do not compare: their outputs are of other images ({sizes[0]}, "
            f"and {sizes[1]}); make them with the same outputs.splits and retain_sample, under the same seed"
        )
    for name, split in one.splits.items():
        ours, theirs = split.labels_N, other.splits[name].labels_N
        known = (ours != UNKNOWN) & (theirs != UNKNOWN)
        if wrong := np.flatnonzero(known & (ours != theirs)).tolist():
            raise StoreError(
                f"{one.population} and {other.population} do not compare: image {wrong[0]} of {name} is of class "
                f"{ours[wrong[0]]}, and of class {theirs[wrong[0]]}"
            )


def read_run(store: StudyStore, population: str, index: int, record: Record) -> dict[str, SplitOutputs]:
    """Return one run's outputs by split; the run axis has length 1.

    Raises:
        StoreError: the file is missing or damaged.

    """
    run = Run(population=population, index=index)
    data = store.payload(run, OUTPUTS, record)
    where = f"{store.uri}/{run}/{OUTPUTS}"
    try:
        if record.method == IMPORTED and (margins := decode_margins(data, where)):
            kind, splits = margins
            return {name: scored(split, kind) for name, split in splits.items()}
        found = decode_outputs(data, where)
    except UNREADABLE as error:
        raise StoreError(
            f"{store.uri}: run {run}: {OUTPUTS} does not hold outputs ({first_line(error)[:200]})"
        ) from error
    return {name: scored(split) for name, split in found.items()}


def scored(split: SplitLogits | SplitMargins, kind: Margin | None = None) -> SplitOutputs:
    """Return phi and correctness of one run's logits, or of margins as far as they are known; one run long.

    Args:
        split: the images' logits, or margins.
        kind: kind of the margins.

    """
    if isinstance(split, SplitMargins):
        phi_N = split.margins_N.astype(np.float64)
        correct_N = phi_N > 0 if "answers" not in _LACKS[kind] else np.zeros(0, np.bool_)
        return SplitOutputs(split.positions_N, split.labels_N, phi_N[None], correct_N[None], margin=kind)
    phi_N = logit_scaled_confidence(split.logits_NC, split.labels_N)
    correct_N = split.logits_NC.argmax(1) == split.labels_N
    return SplitOutputs(split.positions_N, split.labels_N, phi_N[None], correct_N[None])

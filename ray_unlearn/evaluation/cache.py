"""The parts of an evaluation as values: inputs, the digest of all that a part depends on, and its computation.

    task = Task(store=store, part="kookmin", role="unlearned", population=ours, reference=theirs, ...)
    task.key                                     # changes when a run does, or a setting that changes numbers
    text = task.run()                            # JSON of a `Part`, in this process or another

Does not cover: which parts a study needs, and where they are kept (`evaluate`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from ray_unlearn.evaluation.comparison import ATTACKED
from ray_unlearn.evaluation.forget_sets import merged_slices
from ray_unlearn.evaluation.intervals import ALONE, APART, OF_SCORE, REST, SHARED
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.nulls import NullPart, score_null
from ray_unlearn.evaluation.outputs import Outputs, check_same_images, original_of, read_outputs
from ray_unlearn.evaluation.permutation import CHOICES
from ray_unlearn.evaluation.population_scores import Scored, describe, on_set, whole
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.scores import FORMAT, OneRunAudit, PopulationScores, Role
from ray_unlearn.evaluation.shadow_fits import ShadowFit
from ray_unlearn.evaluation.shadow_scores import (
    fits_of,
    in_parts,
    score_originals,
    score_shadows,
    score_unlearned_shadows,
)
from ray_unlearn.evaluation.single_images import one_run_audit
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.records import OUTPUTS
from ray_unlearn.store.splits import ImageNames, read_image_names
from ray_unlearn.study.forget_sets import runs_by_set
from ray_unlearn.study.identity import digest

_ENDS = [[name, one.error, bool(one.halves), bool(one.distance), one.rare] for name, one in sorted(MEASURES.items())]
"""What decides the intervals of measures that are not made of points."""
_BYTES_PER_IMAGE = 50  # of outputs.arrow with ten classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """The finished runs of one population that are evaluated."""

    name: str
    method: str
    """Name of the method for people: of a script, file and function without the folder."""
    records: Mapping[int, Record]
    images: Mapping[str, Any]
    """Part of its identity about images and outputs; only equal ones compare."""
    splits: str
    """Digest of its splits: which images its outputs are of; of forget set 0 where the study has several."""
    further: tuple[str, ...] = ()
    """Digests of the splits of forget sets 1, 2, ..., of a population whose runs are about several."""
    store: StudyStore | None = None
    """Store that holds it; None for the study's own."""
    source: str = ""
    """Its name there."""

    @property
    def sets(self) -> int:
        """Number of forget sets that its runs are about."""
        return 1 + len(self.further)

    @property
    def least(self) -> int:
        """Number of runs about the forget set with the fewest."""
        return min(map(len, runs_by_set(self.records, self.sets)))

    @property
    def lacking(self) -> int:
        """Number of the first forget set that the fewest of its runs are about."""
        sizes = [len(mine) for mine in runs_by_set(self.records, self.sets)]
        return sizes.index(min(sizes))

    def by_set(self) -> tuple[Population, ...]:
        """Return the runs about each forget set, in order of the sets."""
        digests, indexes = (self.splits, *self.further), runs_by_set(self.records, self.sets)
        return tuple(
            replace(self, records={index: self.records[index] for index in mine}, splits=digest, further=())
            for digest, mine in zip(digests, indexes, strict=True)
        )

    def first(self, runs: int) -> Population:
        """Return the runs with the smallest indexes."""
        kept = dict(sorted(self.records.items())[:runs])
        return replace(self, records=kept)

    def evenly(self, runs: int) -> Population:
        """Return so many runs about each forget set, those with the smallest indexes."""
        kept = {index for mine in runs_by_set(self.records, self.sets) for index in mine[:runs]}
        return replace(self, records={index: one for index, one in sorted(self.records.items()) if index in kept})

    @property
    def common_originals(self) -> npt.NDArray[np.int64] | None:
        """Originals that runs about several forget sets start from; None with one set, or with runs from scratch."""
        starts = [start for record in self.ordered if (start := original_of(record)) is not None]
        return np.unique(starts) if self.sets > 1 and len(starts) == len(self.records) else None

    @property
    def ordered(self) -> list[Record]:
        """Its records, by index."""
        return [record for _, record in sorted(self.records.items())]

    @property
    def identity(self) -> list[str]:
        """What its numbers depend on: every run's outputs, and the seconds and stages that its record holds."""
        return [record.checksum for record in self.ordered]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One part to compute; picklable, and small."""

    store: StudyStore
    settings: Settings
    part: str
    """File name of the part."""
    role: Role
    population: Population
    reference: Population
    null: bool
    """Whether it is the reference against itself."""
    null_runs: int
    """Runs a side of the null, and of the numbers compared with it; the same for all populations of an evaluation."""
    names_sha256: str
    """SHA-256 of the splits file: image ids, groups and class names."""
    shadows: Population | None = None
    """Shadows that attack the population, or that it started from; None where the study has none."""
    control: tuple[tuple[str, ...], str] = ((), "")
    """Splits that the audit of one run may tell forget images from, and why there are none (`one_run`)."""

    def __str__(self) -> str:
        if self.null and self.null_runs < LEAST_TO_SCORE:
            return f"{self.reference.name} one model at a time; too few runs for halves"
        if self.null:
            return f"{self.reference.name} against itself (N={self.null_runs})"
        sets = f", {self.population.sets} forget sets" * (self.population.sets > 1)
        runs = f"(N={self.population.least}{sets})"
        return f"{self.population.name} {runs}" + f" against {self.reference.name}" * (self.role == "unlearned")

    @property
    def key(self) -> str:
        """Digest of all that the part is computed from."""
        settings = {name: getattr(self.settings, name) for name in Settings.__slots__}
        shadows = {"shadows": [self.shadows.name, self.shadows.identity]} if self.shadows else {}
        return digest(
            shadows
            | {
                "format": FORMAT,
                "settings": settings,
                "null": [self.null, self.null_runs] if self.null or self.role == "unlearned" else None,
                "version": importlib.metadata.version("ray-unlearn"),
                "measures": sorted(MEASURES),
                "rules": [
                    ATTACKED,
                    CHOICES,
                    *(sorted(factors.items()) for factors in (SHARED, APART, REST, ALONE, OF_SCORE)),
                    _ENDS,
                ],
                "population": None if self.null else [self.population.name, self.role, self.population.identity],
                "reference": [self.reference.name, self.reference.identity],
                "names": self.names_sha256,
                "control": None if self.null or self.role != "unlearned" else self.control,
            }
        )

    @property
    def expected_s(self) -> float:
        """Seconds on one core, roughly: what decides where parts are computed, and in which order."""
        if not self.null and self.role != "unlearned":
            return 1.0
        record = next(iter(self.reference.records.values()))
        outputs, runs = record.payloads.get(OUTPUTS), len(self.population.records)
        images = outputs.size_bytes / _BYTES_PER_IMAGE if outputs else 0  # reading them reports what is wrong
        comparisons = 2 * self.settings.resamples + 7 * self.settings.growth_draws
        return 0.08 * min(ATTACKED, runs) + images * comparisons * (2e-5 + 1e-7 * runs)  # fitted at N = 32, 256 and 416

    def run(self, threads: int = 1) -> str:
        """Compute the part; return it as JSON. `threads`: subsets of runs that are computed at once."""
        fits = self._fits()
        if self.null:
            sides = [self._read(one).with_shadows(fits) for one in self.reference.by_set()]
            return Part(key=self.key, null=score_null(sides, self.null_runs, self.settings, threads)).model_dump_json()
        if self.role == "unlearned":
            scored = self._scored(fits, threads)
            part = Part(key=self.key, population=scored.population, draws=scored.draws, images=scored.images)
            return part.model_dump_json()
        each = [self._described(one, in_parts(*self._held(one), one.records)) for one in self.population.by_set()]
        described = self._attacked(self._together(each), self._names(self.population))
        return Part(key=self.key, population=described).model_dump_json()

    def _held(self, population: Population) -> tuple[StudyStore, str]:
        """Return the store that holds a population, and its name there."""
        return population.store or self.store, population.source or population.name

    def _names(self, population: Population) -> ImageNames:
        return read_image_names(self._held(population)[0], population.splits)

    def _read(self, population: Population) -> Outputs:
        return replace(read_outputs(*self._held(population), population.records), population=population.name)

    def _described(self, population: Population, parts: Iterable[Outputs]) -> PopulationScores:
        """Return what needs no outputs of the reference, of runs about one forget set."""
        records, names = population.ordered, self._names(population)
        found = describe(parts, records, names, self.role, population.method, self.reference.ordered)
        return found.model_copy(update={"population": population.name})

    def _together(self, each: Sequence[PopulationScores]) -> PopulationScores:
        """Return the same of the runs about all forget sets; slices are merged as they are there."""
        if len(each) == 1:
            return each[0]
        return self._described(self.population, ()).model_copy(update={"slices": merged_slices(each)})

    def _scored(self, fits: Mapping[str, ShadowFit], threads: int) -> Scored:
        """Return the scores of an unlearned population, over all forget sets."""
        described, each, originals = [], [], self.population.common_originals
        for ours, theirs in zip(self.population.by_set(), self.reference.by_set(), strict=True):
            outputs, others = (self._read(side).with_shadows(fits) for side in (ours, theirs))
            check_same_images(outputs, others)
            described.append(self._described(ours, [outputs]))
            names = self._names(ours)
            sides = outputs, others, names
            each.append(on_set(described[-1], *sides, self.null_runs, self.settings, originals, threads))
        scored = whole(each, self.settings)
        if len(each) == 1:
            audit = one_run_audit(each[0].side.unlearned, each[0].side.reference, *self.control, self.settings)
            return replace(scored, population=scored.population.model_copy(update={"one_run": audit}))
        all_runs = self._together(described)
        update = {name: getattr(all_runs, name) for name in ("runs", "originals", "stages", "cost")}
        audit = OneRunAudit(missing=f"takes one forget set, and the study has {len(each)}")
        return replace(scored, population=scored.population.model_copy(update=update | {"one_run": audit}))

    def _fits(self) -> dict[str, ShadowFit]:
        """Return what shadows make of the images, where the population is compared with the reference."""
        if self.shadows is None or not (self.null or self.role == "unlearned"):
            return {}
        return fits_of(self.store, self.shadows.name, self.shadows.records, self.shadows.splits)

    def _attacked(self, described: PopulationScores, names: ImageNames) -> PopulationScores:
        """Add attacks by shadows on a population that is not compared with the reference."""
        name, records, splits = self.population.name, self.population.records, self.population.splits
        if self.role == "shadow":
            return score_shadows(described, self.store, name, records, names, splits, self.settings.attack_rng)
        shadows = (self.shadows.name, self.shadows.records) if self.shadows else ("", {})
        if self.role == "unlearned shadow":
            return score_unlearned_shadows(described, self.store, records, shadows, splits)
        if self.role == "original" and self.shadows and not self.population.store:
            return score_originals(described, self.store, records, shadows, splits, self.settings.attack_rng)
        return described


class Part(BaseModel):
    """One part, computed: a population's scores or a null."""

    format: int = FORMAT
    key: str
    """Key of the task when the part was computed."""
    population: PopulationScores | None = None
    null: NullPart | None = None
    draws: dict[str, tuple[float, ...]] = {}
    """Values on subsets of a population's runs, by the measures that populations are ranked by."""
    images: dict[str, tuple[float, ...]] = {}
    """Numbers of each forget image (`worst_images`), whose share beyond the null's limit is reported."""


Execute = Callable[[Sequence[Task]], Iterable[tuple[Task, str]]]
"""Tasks -> (task, its part) as each is there, in any order."""


def in_this_process(tasks: Sequence[Task], threads: int = 1) -> Iterable[tuple[Task, str]]:
    """Compute one part after another, each by so many threads."""
    for task in tasks:
        yield task, task.run(threads)

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

from pydantic import BaseModel

from ray_unlearn.evaluation.comparison import ATTACKED
from ray_unlearn.evaluation.intervals import APART, SHARED
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.nulls import NullPart, score_null
from ray_unlearn.evaluation.outputs import ImageNames, Outputs, check_same_images, read_image_names, read_outputs
from ray_unlearn.evaluation.population_scores import describe, score
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.scores import FORMAT, PopulationScores, Role
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
from ray_unlearn.study.identity import digest

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
    """Digest of its splits: which images its outputs are of."""
    store: StudyStore | None = None
    """Store that holds it; None for the study's own."""
    source: str = ""
    """Its name there."""

    def first(self, runs: int) -> Population:
        """Return the runs with the smallest indexes."""
        kept = dict(sorted(self.records.items())[:runs])
        return replace(self, records=kept)

    @property
    def identity(self) -> list[str]:
        """What its numbers depend on: every run's outputs, and the seconds and stages that its record holds."""
        return [record.checksum for _, record in sorted(self.records.items())]


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
        runs = f"(N={len(self.population.records)})"
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
                "rules": [ATTACKED, *(sorted(factors.items()) for factors in (SHARED, APART))],
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
        return 0.08 * runs + images * comparisons * (3e-5 + 7e-7 * runs)  # fitted at N = 32, 64 and 512

    def run(self) -> str:
        """Compute the part; return it as JSON."""
        fits = self._fits()
        if self.null:
            null = score_null(self._read(self.reference).with_shadows(fits), self.null_runs, self.settings)
            return Part(key=self.key, null=null).model_dump_json()
        home = self.population.store or self.store
        names, reference = read_image_names(home, self.population.splits), list(self.reference.records.values())
        if self.role != "unlearned":
            described = self._described(self._parts(), names, reference)
            return Part(key=self.key, population=self._attacked(described, names)).model_dump_json()
        outputs, theirs = (self._read(one).with_shadows(fits) for one in (self.population, self.reference))
        check_same_images(outputs, theirs)
        described = self._described([outputs], names, reference)
        scored = score(described, outputs, theirs, names, self.null_runs, self.settings)
        audit = one_run_audit(outputs, theirs, *self.control, self.settings)
        population = scored.population.model_copy(update={"one_run": audit})
        return Part(key=self.key, population=population, draws=scored.draws).model_dump_json()

    def _described(self, parts: Iterable[Outputs], names: ImageNames, reference: Sequence[Record]) -> PopulationScores:
        found = describe(parts, self._records, names, self.role, self.population.method, reference)
        return found.model_copy(update={"population": self.population.name})

    def _read(self, population: Population) -> Outputs:
        source = population.source or population.name
        found = read_outputs(population.store or self.store, source, population.records)
        return replace(found, population=population.name)

    @property
    def _records(self) -> list[Record]:
        return [record for _, record in sorted(self.population.records.items())]

    def _parts(self) -> Iterable[Outputs]:
        one = self.population
        return in_parts(one.store or self.store, one.source or one.name, one.records)

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
        if self.role == "original" and self.shadows:
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


Execute = Callable[[Sequence[Task]], Iterable[tuple[Task, str]]]
"""Tasks -> (task, its part) as each is there, in any order."""


def in_this_process(tasks: Sequence[Task]) -> Iterable[tuple[Task, str]]:
    """Compute one part after another."""
    for task in tasks:
        yield task, task.run()

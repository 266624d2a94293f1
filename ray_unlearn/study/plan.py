"""A study and the ingredients that other rooms found for it -> populations with digests, and their runs.

    plan = make_plan(study, Ingredients(data={...}, model={...}, methods={...}))
    plan.populations["finetune"].digest
    plan.runs                                   # (Run(population="original", ...), ...)

A population's identity covers all that changes its results: data, split, model, the originals that it starts from,
method, options, seed. Not its count, nor other populations, nor where and how fast it runs.

Does not cover: which runs are still to be made (`ray_unlearn.store`), nor how (`ray_unlearn.generation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from ray_unlearn.errors import StudyError, did_you_mean
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import digest, identity_of
from ray_unlearn.study.schema import PopulationSpec, Study

ORIGINAL = "original"
IDENTITY_FORMAT = 3
"""Number that rises where the same study begins to give other bytes; `changes.NEWER_BYTES` has the reasons."""

StartsFrom = Literal["scratch", "original"]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Run:
    """One checkpoint to be made. Its identity never depends on where or when it executes."""

    population: str
    index: int
    """Position in the population, from 0."""
    original: int = 0
    """Index of the original that it starts from; 0 for runs from scratch."""

    def __str__(self) -> str:
        return f"{self.population}/{self.index:05d}"


class Shard(NamedTuple):
    """One of several parts of a plan's runs, each made by a driver of its own; the parts share one store."""

    number: int
    """From 1."""
    parts: int

    def of(self, plan: Plan) -> list[Run]:
        """Return this part's runs, and the originals that they start from; the same part for the same plan.

        Every `parts`-th run is in the part. An original is in each part with a run that starts from it, so that no part
        waits for another; where it is made already, or another part publishes it first, that one stays.
        """
        runs = [run for run in plan.runs if run.population != ORIGINAL] or list(plan.runs)
        own = runs[self.number - 1 :: self.parts]
        starts = {start: None for run in own if (start := plan.start_of(run)) is not None}
        return [*sorted(starts), *own]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodUse:
    """One population's method, as `ray_unlearn.methods` resolved it."""

    name: str
    """Name as it is in the study file."""
    starts_from: StartsFrom
    options: BaseModel
    """Options: frozen, validated, with all defaults filled in."""
    identity: Mapping[str, Any]
    """Identity of method and options: plain JSON values, no paths of a machine."""
    deterministic: bool = False
    """Whether all runs from one original are equal."""
    corrections: Mapping[str, Sequence[Correction]] = field(default_factory=dict)
    """Corrections of the method, or of each method of a mix, by name: reasons for refusing older runs."""
    source: str = ""
    """Source text of a script method; the worker runs exactly what was hashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredients:
    """Identities of a study's data and model, and its resolved methods; all of them enter the digests."""

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    methods: Mapping[str, MethodUse]
    """Methods by population name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """`count` runs of one method with the same options."""

    name: str
    count: int
    originals: int
    """Number of originals that its runs start from; 0 from scratch."""
    method: MethodUse
    keep_checkpoints: bool
    identity: Mapping[str, Any]
    digest: str

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run of the population, by index."""
        return tuple(
            Run(population=self.name, index=i, original=i % self.originals if self.originals else 0)
            for i in range(self.count)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All populations of a study, originals first."""

    study: Study
    populations: Mapping[str, Population]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run of the study; a run comes after the original that it starts from."""
        return tuple(run for population in self.populations.values() for run in population.runs)

    @property
    def warnings(self) -> list[str]:
        """Return sentences about the plan that a reader of the scores must know."""
        unscored = [
            f"outputs.splits: without {split} the evaluation has no score, and adding it later means other populations"
            for split in ("forget", "test", "retain")
            if self.study.evaluation is not None and split not in self.study.outputs.splits
        ]
        return unscored + [
            f"population {p.name}: {p.method.name} is deterministic, so its {p.count} runs have no spread; "
            "the official metric gives such a population 0"
            for p in self.populations.values()
            if p.method.deterministic and p.count > max(1, p.originals)
        ]

    def start_of(self, run: Run) -> Run | None:
        """Return the original's run that `run` starts from, or None."""
        needs = self.populations[run.population].originals
        return Run(population=ORIGINAL, index=run.original) if needs else None

    def only(self, names: Iterable[str]) -> Plan:
        """Return the plan of these populations and of exactly the originals that they start from.

        Raises:
            StudyError: a name is not a population of the study.

        """
        names = list(names)
        if not names:
            return self
        for name in names:
            if name not in self.populations:
                raise StudyError(f"--only {name}: not a population of the study{did_you_mean(name, self.populations)}")
        chosen = {name: p for name, p in self.populations.items() if name in names}
        needed = max((min(p.originals, p.count) for p in chosen.values()), default=0)
        if needed and ORIGINAL not in chosen:
            original = self.populations[ORIGINAL]
            chosen = {ORIGINAL: replace(original, count=needed), **chosen}
        return Plan(study=self.study, populations=chosen)


def make_plan(study: Study, ingredients: Ingredients) -> Plan:
    """Resolve every population: counts, originals, identities, digests.

    Raises:
        StudyError: a population cannot start (no original, too few originals).

    """
    names = sorted(study.populations, key=lambda name: name != ORIGINAL)  # stable: originals first, then file order
    populations: dict[str, Population] = {}
    for name in names:
        populations[name] = _population(name, study, ingredients, populations.get(ORIGINAL))
    return Plan(study=study, populations=populations)


def _population(name: str, study: Study, ingredients: Ingredients, original: Population | None) -> Population:
    spec, use = study.populations[name], ingredients.methods[name]
    originals = _originals(name, spec, use, original)
    identity: dict[str, Any] = {
        "format": IDENTITY_FORMAT,
        "name": name,
        "seed": study.seed,
        "data": dict(ingredients.data),
        "model": dict(ingredients.model),
        **use.identity,
        "checkpoint_dtype": study.checkpoint_dtype,
        "outputs": identity_of(study.outputs),
    }
    if originals and original is not None:
        identity |= {"originals": originals, "original_digest": original.digest}
    return Population(
        name=name,
        count=spec.planned,
        originals=originals,
        method=use,
        keep_checkpoints=_keeps(name, spec, study),
        identity=identity,
        digest=digest(identity),
    )


def _originals(name: str, spec: PopulationSpec, use: MethodUse, original: Population | None) -> int:
    if use.starts_from == "scratch":
        if spec.originals != 1:
            raise StudyError(
                f"populations.{name}.originals: {use.name} trains from scratch and starts from no original"
            )
        return 0
    if name == ORIGINAL:
        raise StudyError(
            f"populations.{name}.method: {use.name} needs an original to start from; use train, or weights: FILE"
        )
    if original is None:
        raise StudyError(
            f"populations.{name}: {use.name} starts from a population called `{ORIGINAL}`, which is not defined; "
            f"add `{ORIGINAL}: {{method: train, on: train, count: 1}}` or `{ORIGINAL}: {{weights: FILE}}`"
        )
    if spec.originals > original.count:
        raise StudyError(
            f"populations.{name}.originals: expected at most {original.count}, as the study has; found {spec.originals}"
        )
    return spec.originals


def _keeps(name: str, spec: PopulationSpec, study: Study) -> bool:
    if name == ORIGINAL and spec.keep_checkpoints is False:
        raise StudyError(
            f"populations.{name}.keep_checkpoints: originals are always kept, because others start from them"
        )
    default = True if name == ORIGINAL else study.keep_checkpoints
    return default if spec.keep_checkpoints is None else spec.keep_checkpoints

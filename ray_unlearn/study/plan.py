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
from ray_unlearn.study.recipe import HalfOf
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
    """Index of the original, or of the shadow, that it starts from; 0 for runs from scratch."""

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
        starts = {start for run in own if (start := plan.start_of(run)) is not None}
        return [*sorted(starts), *(run for run in own if run not in starts)]


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
    modules: Mapping[str, str] = field(default_factory=dict)
    """Source text of the modules that a script imports from its folder, by their path in it."""

    no_pack: str = "the method was not asked"
    """Why its runs cannot be trained several in one step; empty where they can."""

    def texts(self, script: str) -> dict[str, str]:
        """Return all source text of a script method, by the name of its file; empty for other methods."""
        return {script: self.source, **self.modules} if self.source else {}


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
    starts_from: str = ORIGINAL
    """Population that its runs start from, if they start from one: the original, or shadows."""
    forget_sets: int = 1
    """Number of forget sets: run i is about set i modulo this many; 1 for originals, which are trained on all."""
    method: MethodUse
    keep_checkpoints: bool
    identity: Mapping[str, Any]
    digest: str

    @property
    def on_halves(self) -> bool:
        """Whether every run is trained on its own half of the train split."""
        return isinstance(getattr(self.method.options, "on", None), HalfOf)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run of the population, by index."""
        return tuple(
            Run(population=self.name, index=i, original=i // self.forget_sets % self.originals if self.originals else 0)
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
        return (
            unscored
            + [
                f"population {p.name}: {p.method.name} is deterministic, so its {p.count} runs have no spread; "
                "the official metric gives such a population 0"
                for p in self.populations.values()
                if p.method.deterministic and p.count > max(1, p.originals)
            ]
            + [
                f"population {p.name}: {p.count} is odd, so its last run has no partner with the other half of the "
                "images; attacks leave it out"
                for p in self.populations.values()
                if p.on_halves and p.count % 2 and p.name != ORIGINAL
            ]
        )

    def start_of(self, run: Run) -> Run | None:
        """Return the run that `run` starts from, of the original or of shadows, or None."""
        population = self.populations[run.population]
        return Run(population=population.starts_from, index=run.original) if population.originals else None

    def pack_of(self, run: Run) -> tuple[str, int] | None:
        """Return the pack that a run is trained in, population and number; None where it is trained alone."""
        size = self.study.execution.pack
        packed = size > 1 and not self.populations[run.population].method.no_pack
        return (run.population, run.index // size) if packed else None

    def pack_size(self, run: Run) -> int:
        """Return the number of runs that a run's pack is for; 1 where it is trained alone."""
        return 1 if self.pack_of(run) is None else self.study.execution.pack

    def forget_set_of(self, run: Run) -> int:
        """Return the number of the forget set that a run is about: its retain and forget images, and its outputs'."""
        return run.index % self.populations[run.population].forget_sets

    def half_of(self, run: Run) -> Run | None:
        """Return the run whose half of the train split `run` is limited to: itself, or the shadow that it starts from.

        None where it has all of retain and forget.
        """
        chosen = [one for one in (run, self.start_of(run)) if one and self.populations[one.population].on_halves]
        return chosen[0] if chosen else None

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
        for start in {p.starts_from for p in chosen.values() if p.originals} - set(chosen):
            needed = max(min(p.originals, p.count) for p in chosen.values() if p.starts_from == start)
            chosen = {start: replace(self.populations[start], count=needed), **chosen}
        return Plan(study=self.study, populations=chosen)


def make_plan(study: Study, ingredients: Ingredients) -> Plan:
    """Resolve every population: counts, originals, identities, digests.

    Raises:
        StudyError: a population cannot start (no original, too few originals).

    """
    specs = study.populations
    names = sorted(specs, key=lambda name: (name != ORIGINAL, specs[name].starts_from is not None))  # else file order
    populations: dict[str, Population] = {}
    for name in names:
        start = populations.get(specs[name].starts_from or ORIGINAL)
        populations[name] = _population(name, study, ingredients, start)
    return Plan(study=study, populations=populations)


def _population(name: str, study: Study, ingredients: Ingredients, original: Population | None) -> Population:
    spec, use = study.populations[name], ingredients.methods[name]
    originals = _shadows(name, spec, use, original) if spec.starts_from else _originals(name, spec, use, original)
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
    if spec.starts_from and original is not None:
        identity |= {"starts_from": spec.starts_from, "original_digest": original.digest}  # no count: it may be raised
    elif originals and original is not None:
        identity |= {"originals": originals, "original_digest": original.digest}
    return Population(
        name=name,
        count=spec.planned,
        originals=originals,
        starts_from=spec.starts_from or ORIGINAL,
        forget_sets=1 if name == ORIGINAL else study.data.forget.sets,
        method=use,
        keep_checkpoints=_keeps(name, spec, study),
        identity=identity,
        digest=digest(identity),
    )


def _shadows(name: str, spec: PopulationSpec, use: MethodUse, shadows: Population | None) -> int:
    """Return the number of shadows that a population starts from: one for each of its runs."""
    where = f"populations.{name}.starts_from"
    if use.starts_from == "scratch":
        raise StudyError(f"{where}: {use.name} trains from scratch and starts from no model")
    if shadows is None or not shadows.on_halves or shadows.name == ORIGINAL:
        raise StudyError(
            f"{where}: expected a population of shadows, {{method: train, on: {{half_of: train, balanced: true}}}}; "
            f"found {spec.starts_from!r}"
        )
    if spec.planned > shadows.count:
        raise StudyError(
            f"populations.{name}.count: expected at most {shadows.count}, as {shadows.name} has, because run i starts "
            f"from its run i; found {spec.planned}"
        )
    return spec.planned


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
    if original.on_halves:
        raise StudyError(
            f"populations.{name}: `{ORIGINAL}` is trained on a half of the images, so on half of the forget images "
            "alone; train it on all of them (on: train), or start from shadows (starts_from: NAME)"
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
    starts = [other for other, one in study.populations.items() if one.starts_from == name]
    if starts and spec.keep_checkpoints is False:
        raise StudyError(f"populations.{name}.keep_checkpoints: {starts[0]} starts from these runs, so they are kept")
    default = True if name == ORIGINAL or starts else study.keep_checkpoints
    return default if spec.keep_checkpoints is None else spec.keep_checkpoints

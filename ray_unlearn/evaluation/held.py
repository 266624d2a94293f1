"""The populations that an evaluation is of, as the store holds them: their finished runs, checked.

    held, warnings = held_populations(study, store, names, None)
    role_of(store, "finetune", held["finetune"], reference_of(study))        # "unlearned"

Does not cover: comparing them (`evaluate`), and reading their outputs (`outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ray_unlearn.errors import ReferenceNotMade, StoreError, StudyError, did_you_mean
from ray_unlearn.evaluation.cache import Population
from ray_unlearn.evaluation.scores import Role
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.arithmetic import mixtures
from ray_unlearn.store.forget_sets import splits_held, wrong_set
from ray_unlearn.store.membership import is_shadow
from ray_unlearn.store.starts import check_starts, start_population
from ray_unlearn.study.identity import diff
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Evaluation, PopulationSpec, Study


def reference_of(study: Study) -> str:
    """Return the population that all others are compared with.

    Raises:
        StudyError: the study does not have it.

    """
    name = (study.evaluation or Evaluation()).reference
    if name not in study.populations:
        raise StudyError(
            f"the study has no population {name!r} to compare others with{did_you_mean(name, study.populations)}; "
            "add it, or name another one: evaluation: {reference: NAME}"
        )
    return name


def held_populations(
    study: Study, store: StudyStore, names: Sequence[str], first: int | None
) -> tuple[dict[str, Population], list[str]]:
    """Return the populations to evaluate that have runs, in the study's order, and what is missing."""
    for name in names:
        if name not in study.populations:
            raise StudyError(f"--only {name}: not a population of the study{did_you_mean(name, study.populations)}")
    reference, warnings = reference_of(study), []
    held: dict[str, Population] = {}
    originals = store.made(ORIGINAL)
    for name, spec in study.populations.items():
        shadows = spec.on_halves and spec.starts_from is None
        if names and name not in (*names, reference, ORIGINAL) and not shadows:
            continue
        records = {index: record for index, record in store.made(name).items() if index < spec.planned}
        if len(records) < spec.planned:
            scored = f", and the first {first} are scored" if first and first < len(records) else ""
            warnings.append(f"population {name}: {len(records)} of {spec.planned} runs are made{scored}")
        check_starts(store, name, records, originals)
        if records:
            population = _population(name, spec, records, store).first(first or len(records))
            if population.least:
                held[name] = population
            else:
                lacking = next(number for number, one in enumerate(population.by_set()) if not one.records)
                warnings.append(f"population {name} is not scored: no run of forget set {lacking} is made")
    if reference not in held:
        raise ReferenceNotMade(
            f"{store.uri}: the reference {reference} has no finished run; `ray-unlearn generate` first"
        )
    theirs = held[reference]
    warnings += mixtures({name: population.records for name, population in held.items()}, reference)
    for name, population in held.items():
        if population.images != theirs.images:
            lines = diff(theirs.images, population.images)[:3]
            raise StoreError(f"{store.uri}: {name} and {reference} do not compare: {'; '.join(lines)}")
        most = min(population.least, theirs.least) * population.sets
        if role_of(store, name, population, reference) == "unlearned" and len(population.records) > most:
            runs, each = f"{most} of {len(population.records)} runs", " of each forget set" * (population.sets > 1)
            warnings.append(f"population {name}: {runs} are scored, as many as {reference} has{each}")
    return held, warnings


def _population(name: str, spec: PopulationSpec, records: Mapping[int, Record], store: StudyStore) -> Population:
    identity = (store.held(name) or {}).get("identity") or {}
    images = {key: identity.get(key) for key in ("data", "outputs")}
    splits = splits_held({"identity": identity})
    if not splits:
        raise StoreError(f"{store.uri}/{name}/population.json: does not name the images of its runs; restore it")
    wrong = [f"{name}/{index:05d} {why}" for index, one in records.items() if (why := wrong_set(one, len(splits)))]
    if wrong:
        raise StoreError(f"{store.uri}: {wrong[0]}; run `ray-unlearn verify STUDY --repair`")
    further = splits[1:] if name != ORIGINAL else ()
    method = PurePath(spec.method_name).name
    return Population(name=name, method=method, records=records, images=images, splits=splits[0], further=further)


def role_of(store: StudyStore, name: str, population: Population, reference: str) -> Role:
    """Return what a population is to the evaluation."""
    if name in (reference, ORIGINAL):
        return "reference" if name == reference else "original"
    if is_shadow(next(iter(population.records.values()))):
        return "shadow"
    return "unlearned" if start_population(store, name) == ORIGINAL else "unlearned shadow"

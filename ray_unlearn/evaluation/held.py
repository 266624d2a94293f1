"""The populations that an evaluation is of, as the store holds them: their finished runs, checked.

    held, warnings = held_populations(study, store, names, None)
    role_of(store, "finetune", held["finetune"], reference_of(study))        # "unlearned"

Does not cover: comparing them (`evaluate`), and reading their outputs (`outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_unlearn.errors import ReferenceNotMade, StudyError, did_you_mean
from ray_unlearn.evaluation.cache import Population
from ray_unlearn.evaluation.other_stores import check_images, described, not_known_of, populations_of
from ray_unlearn.evaluation.scores import Role
from ray_unlearn.store import StudyStore
from ray_unlearn.store.arithmetic import mixtures
from ray_unlearn.store.membership import is_shadow
from ray_unlearn.store.records import IMPORTED
from ray_unlearn.store.starts import check_starts, start_population
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Evaluation, Study


def reference_of(study: Study) -> str:
    """Return the population that all others are compared with.

    Raises:
        StudyError: the study does not have it.

    """
    name = (study.evaluation or Evaluation()).reference
    known = {**study.populations, **study.others}
    if name not in known:
        raise StudyError(
            f"the study has no population {name!r} to compare others with{did_you_mean(name, known)}; "
            "add it, or name another one: evaluation: {reference: NAME}"
        )
    return name


def held_populations(
    study: Study, store: StudyStore, names: Sequence[str], first: int | None
) -> tuple[dict[str, Population], list[str]]:
    """Return the populations to evaluate that have runs, in the study's order, and what is missing.

    Raises:
        StudyError: a name is no population, or the reference cannot be one.
        StoreError: the reference has no run, or populations do not compare.

    """
    for name in names:
        if name not in (known := {**study.populations, **study.others}):
            raise StudyError(f"--only {name}: not a population of the study{did_you_mean(name, known)}")
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
            held[name] = described(name, spec.method_name, records, store)
    others = populations_of(study)
    held |= {name: one for name, one in others.items() if not names or name in (*names, reference)}
    held = {name: one.first(first or len(one.records)) for name, one in held.items()}
    without = {name: one.lacking for name, one in held.items() if not one.least}
    held = {name: one for name, one in held.items() if name not in without}
    if reference not in held:
        which = f" of forget set {without[reference]}" if reference in without else ""
        raise ReferenceNotMade(
            f"{store.uri}: the reference {reference} has no finished run{which}; `ray-unlearn generate` first"
        )
    warnings += [f"population {name} is not scored: no run of forget set {n} is made" for name, n in without.items()]
    theirs = held[reference]
    _check_reference(store, held, reference)
    warnings += mixtures({name: population.records for name, population in held.items()}, reference)
    warnings += not_known_of(held)
    for name, population in held.items():
        check_images(store, population, theirs)
        most = min(population.least, theirs.least) * population.sets
        if role_of(store, name, population, reference) == "unlearned" and len(population.records) > most:
            runs, each = f"{most} of {len(population.records)} runs", " of each forget set" * (population.sets > 1)
            warnings.append(f"population {name}: {runs} are scored, as many as {reference} has{each}")
    return held, warnings


def _check_reference(store: StudyStore, held: Mapping[str, Population], reference: str) -> None:
    """Refuse to compare populations with shadows, which were trained on a part of the forget images each.

    Raises:
        StudyError: the reference is of shadows, and there are unlearned populations.

    """
    if is_shadow(next(iter(held[reference].records.values()))):
        roles = {name: role_of(store, name, one, reference) for name, one in held.items()}
        if unlearned := [name for name, role in roles.items() if role == "unlearned"]:
            raise StudyError(
                f"evaluation.reference: {reference} is of models on parts of the images, some of which were trained on "
                f"forget images: {unlearned[0]} does not compare with it; name a population that was retrained"
            )


def role_of(store: StudyStore, name: str, population: Population, reference: str) -> Role:
    """Return what a population is to the evaluation."""
    first = next(iter(population.records.values()))
    if name in (reference, ORIGINAL) and not (is_shadow(first) and first.method == IMPORTED):
        return "reference" if name == reference else "original"
    if is_shadow(first):
        return "shadow"
    return "unlearned" if population.store or start_population(store, name) == ORIGINAL else "unlearned shadow"

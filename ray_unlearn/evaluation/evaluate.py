"""evaluate(): a store's outputs -> the scores of a study, in parts that are computed once and kept.

    scores = evaluate(study, store)                              # in this process
    scores = evaluate(study, store, execute=on_ray, log=print)   # parts anywhere, in any order

A part is a population against the reference, or the reference against itself. It is kept under
`<study>/scores/<mode>/` with the digest of all that it was computed from, published as soon as it is there: a killed
evaluation goes on where it was, and an unchanged population is not computed again.

Does not cover: checkpoints, and making runs (`ray_unlearn.generation`).
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from ray_unlearn.errors import DamagedFile, NewerFormat, StoreError, StoreReadOnly
from ray_unlearn.evaluation.cache import Execute, Part, Population, Task, in_this_process
from ray_unlearn.evaluation.held import held_populations, reference_of, role_of
from ray_unlearn.evaluation.looks import ALPHA, Look, Looks, warning_of
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.nulls import with_null
from ray_unlearn.evaluation.one_run import control_splits
from ray_unlearn.evaluation.other_stores import planned_runs
from ray_unlearn.evaluation.permutation import LEAST_RUNS
from ray_unlearn.evaluation.planning import falls, plan
from ray_unlearn.evaluation.ranks import OF_DIFFERENCE, RANKED, ranks
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.scores import (
    FORMAT,
    NOT_SAVED,
    OLDER,
    Plan,
    PopulationScores,
    Rank,
    Role,
    Scores,
)
from ray_unlearn.evaluation.scores_table import scores_table
from ray_unlearn.evaluation.whole_populations import adjusted
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.store.formats import parse_object
from ray_unlearn.store.splits import image_names_sha256, read_image_names
from ray_unlearn.store.starts import start_population
from ray_unlearn.study.identity import digest
from ray_unlearn.study.schema import Evaluation, Study

_NULL = "null.of.reference"  # a part's name; a population's has no dot


def evaluate(
    study: Study,
    store: StudyStore,
    *,
    populations: Sequence[str] = (),
    mode: Mode | None = None,
    first: int | None = None,
    guests: Collection[str] = (),
    execute: Execute = in_this_process,
    log: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Compute what is not computed yet; publish and return the scores; from a read-only store, only return them.

    Args:
        study: names the reference, the mode and the number of halvings; its `count` limits which runs are read.
        store: the study's folder.
        populations: only these (reference and original are always there); default all.
        mode: overrides `evaluation.mode`.
        first: only so many runs of every population, those with the smallest indexes; such scores are not published,
            only returned. Default all.
        guests: populations of others, beside which the study's own are shown; looks at them are not kept, because
            their number of runs is planned elsewhere.
        execute: where parts are computed.
        log: called with one line per step of progress.

    Raises:
        StudyError: a name is no population of the study, or it has no reference.
        StoreError: the store was made from other values than the study has; the reference has no finished run; runs
            started from another original than is there; outputs are damaged, missing or of other images.

    """
    if lines := disagreements(study, store):
        raise StoreError(
            f"{store.uri} was made from other values than the study has: {'; '.join(lines[:3])}; change them back, or "
            "`ray-unlearn generate` under another study name"
        )
    settings = _settings(study, mode)
    held, warnings = held_populations(study, store, populations, first)
    reference = held[reference_of(study)]
    tasks = _tasks(study, store, settings, held, reference)
    parts = _computed(store, tasks, execute, log)
    looks = _looks(study, store, tasks, guests)
    scores = _assembled(study, store, settings, tasks, parts, looks, warnings)
    if first is not None:
        return scores  # of a look in between: what was published of more runs stays
    try:
        save(store, scores)
    except StoreReadOnly as error:  # a read-only study of another user: the numbers are still useful
        return scores.model_copy(update={"warnings": (*scores.warnings, f"{NOT_SAVED}: {error}")})
    return scores


def save(store: StudyStore, scores: Scores) -> None:
    """Publish scores.json and scores.parquet.

    Raises:
        StoreReadOnly: the store takes no files.

    """
    store.storage.publish_file(store.layout.scores_json, scores.model_dump_json(indent=1).encode())
    buffer = io.BytesIO()
    scores_table(scores).to_parquet(buffer, index=False)
    store.storage.publish_file(store.layout.scores_parquet, buffer.getvalue())


def read_scores(store: StudyStore) -> Scores:
    """Return the last evaluation; one of an earlier version has a warning that names it.

    Raises:
        StoreError: there is none, or it is damaged, or of a later version.

    """
    where = f"{store.storage.uri}/{store.layout.scores_json}"
    try:
        content = parse_object("scores", store.storage.read(store.layout.scores_json), where, newest=FORMAT)
        scores = Scores.model_validate(content)
        return scores.model_copy(update={"warnings": (*scores.warnings, OLDER)}) if scores.format < FORMAT else scores
    except FileNotFoundError:
        raise StoreError(f"{where}: no evaluation yet; `ray-unlearn evaluate` makes one") from None
    except (DamagedFile, ValidationError):
        raise StoreError(f"{where}: of another version or damaged; `ray-unlearn evaluate` makes a new one") from None


def _settings(study: Study, mode: Mode | None) -> Settings:
    wanted = study.evaluation or Evaluation()
    return Settings(mode=mode or wanted.mode, resamples=wanted.resamples, seed=study.seed)


def _tasks(
    study: Study, store: StudyStore, settings: Settings, held: Mapping[str, Population], reference: Population
) -> list[Task]:
    """Return every part: one per population, and the null that all are compared with."""
    roles = {name: role_of(store, name, population, reference.name) for name, population in held.items()}
    compared = [held[name].least for name, role in roles.items() if role == "unlearned"]
    null_runs, home = _null_runs(compared, reference), reference.store or store
    names = [image_names_sha256(home, digest) for digest in (reference.splits, *reference.further)]
    first_shadows = next((held[name] for name, role in roles.items() if role == "shadow"), None)
    tasks = []
    for name, population in held.items():
        role = roles[name]
        runs = min(population.least, reference.least)  # numbers at unequal N are never compared
        task = Task(
            store=store,
            settings=settings,
            part=name,
            role=role,
            population=population.evenly(runs) if role == "unlearned" else population,
            reference=reference,
            null=False,
            null_runs=null_runs,
            names_sha256="+".join(names),
            shadows=_shadows(store, name, role, held, first_shadows),
            control=control_splits(study.data),
        )
        tasks.append(task)
    null = replace(tasks[0], part=_NULL, null=True, shadows=first_shadows)
    return [*tasks, null] if any(task.role == "unlearned" for task in tasks) else tasks


def _shadows(
    store: StudyStore, name: str, role: Role, held: Mapping[str, Population], first: Population | None
) -> Population | None:
    """Return the shadows that attack a population: those that it started from, else the study's first."""
    if role == "unlearned shadow":
        return held.get(start_population(store, name))
    return first if role in ("unlearned", "original") else None


def _null_runs(sizes: Sequence[int], reference: Population) -> int:
    """Return the one number of runs a side at which populations, and halves of the reference, are compared; 0 for none.

    Half of the reference's, and no more than the smallest population has: with twice as many retrained runs as every
    method has, that is the methods' own N. Of several forget sets, runs of each.
    """
    return min([reference.least // 2, *(size for size in sizes if size >= LEAST_TO_SCORE)])


def _computed(
    store: StudyStore, tasks: Sequence[Task], execute: Execute, log: Callable[[str], None]
) -> dict[str, Part]:
    parts = {task.part: part for task in tasks if (part := _kept(store, task))}
    missing = [task for task in tasks if task.part not in parts]
    if parts:
        log(f"{len(parts)} of {len(tasks)} parts are unchanged")
    if older := _older(store, missing):
        log(f"{older} of {len(tasks)} parts were scored by another version of the evaluation; they are computed again")
    for task, text in execute(missing) if missing else ():
        with suppress(StoreReadOnly):
            store.storage.publish_file(store.layout.scores_part(task.settings.mode, task.part), text.encode())
        parts[task.part] = Part.model_validate_json(text)
        log(f"scored {task}")
    return parts


def _kept(store: StudyStore, task: Task) -> Part | None:
    try:
        part = Part.model_validate_json(_part_text(store, task))
    except (FileNotFoundError, ValidationError):
        return None
    return part if part.key == task.key else None


def _part_text(store: StudyStore, task: Task) -> bytes:
    return store.storage.read(store.layout.scores_part(task.settings.mode, task.part))


def _older(store: StudyStore, tasks: Sequence[Task]) -> int:
    """Return how many of the parts that must be computed are there in another format: an older or a newer version's."""
    found = 0
    for task in tasks:
        try:
            part = parse_object("scores", _part_text(store, task), task.part, newest=FORMAT)
            found += part.get("format", 2) != FORMAT
        except NewerFormat:
            found += 1
        except (FileNotFoundError, DamagedFile):
            continue  # it is computed anew in any case
    return found


def _looks(study: Study, store: StudyStore, tasks: Sequence[Task], guests: Collection[str]) -> dict[str, Look]:
    """Return the look that this is at each unlearned population with enough runs to test; keep those at no guests."""
    found, looks = dict[str, Look](), Looks.read(store)
    before = looks
    for task in tasks:
        runs, theirs = len(task.population.records), len(task.reference.records)
        if task.role != "unlearned" or task.null or task.population.least < LEAST_RUNS:
            continue
        planned, own = planned_runs(study, task.reference), planned_runs(study, task.population)
        share = min(1.0, theirs / planned, runs / min(planned, own))
        sides = [one.records for one in (task.population, task.reference)]
        identity, which = digest([_recipe(one) for one in sides]), digest([sorted(one) for one in sides])
        grown, found[task.part] = looks.take(
            task.part, runs=runs, reference_runs=theirs, share=share, identity=identity, which=which
        )
        looks = looks if task.part in guests else grown
    if looks != before:
        looks.save(store)
    return found


def _recipe(records: Mapping[int, Record]) -> str:
    """Return the digest of the population that runs are of."""
    return next(iter(records.values())).digest


def _ranked(
    populations: Mapping[str, PopulationScores], parts: Mapping[str, Part]
) -> tuple[dict[str, dict[str, Rank]], Plan | None]:
    """Return the places of all unlearned populations by each measure that they are ranked by, and what N would buy."""
    unlearned = {name: one for name, one in populations.items() if one.measures}
    error = min([one.look.level for one in unlearned.values() if one.look], default=ALPHA)
    falling = {name: falls(one.growth) for name, one in unlearned.items()}
    share = 1.0 if any(one.forget_sets for one in unlearned.values()) else OF_DIFFERENCE
    found, plans = dict[str, dict[str, Rank]](), list[Plan]()
    for measure in RANKED:
        estimates = {name: one.measures[measure] for name, one in unlearned.items()}
        draws = {name: parts[name].draws[measure] for name in unlearned if measure in parts[name].draws}
        if places := ranks(measure, estimates, draws, error, share):
            found[measure] = places
        if planned := plan(measure, estimates, draws, falling, share):
            plans.append(planned)
    return found, plans[0] if plans else None


def _assembled(
    study: Study,
    store: StudyStore,
    settings: Settings,
    tasks: Sequence[Task],
    parts: Mapping[str, Part],
    looks: Mapping[str, Look],
    warnings: list[str],
) -> Scores:
    reference = reference_of(study)
    populations: dict[str, PopulationScores] = {}
    for task in tasks:
        scored = parts[task.part].population
        if scored is not None:
            scored = _with_look(scored, looks.get(task.part))
            null = parts[_NULL].null if scored.measures else None
            populations[task.part] = with_null(scored, null, parts[task.part].images) if null else scored
    populations = adjusted(populations)
    first = tasks[0].population
    names = read_image_names(first.store or store, first.splits)
    newest = next(task for task in tasks if task.part == reference).population.records
    places, planned = _ranked(populations, parts)
    return Scores(
        study=study.name,
        mode=settings.mode,
        reference=reference,
        seed=study.seed,
        images={split: len(ids) for split, ids in names.ids.items()},
        class_names=names.class_names,
        populations=populations,
        ranks=places,
        plan=planned,
        warnings=tuple(warnings),
        versions={
            **newest[max(newest)].versions,
            "ray-unlearn (evaluation)": importlib.metadata.version("ray-unlearn"),
        },
    )


def _with_look(scored: PopulationScores, look: Look | None) -> PopulationScores:
    """Return a population's scores with the look that they are of, and what a reader must know about it."""
    if look is None:
        return scored
    warnings = (*scored.warnings, line) if (line := warning_of(look)) else scored.warnings
    return scored.model_copy(update={"look": look, "warnings": warnings})

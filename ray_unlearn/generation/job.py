"""A study -> a job that workers can execute: data prepared, methods resolved, runs planned, weights checked.

    job = open_job(study, backend.decode_all)
    job.plan.runs

Everything that can be refused is refused here, before any worker starts. Checks that need no torch come first; torch is
imported after them, and not by importing this module.

Does not cover: the runs that the store holds already (`records`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ray_unlearn.data.node_cache import cache_folder
from ray_unlearn.data.prepare import DecodeAll, in_place
from ray_unlearn.data.study_data import StudyData, open_sources, prepare_study
from ray_unlearn.errors import StudyError
from ray_unlearn.evaluation.memorisation import hardest_of
from ray_unlearn.generation.preflight import import_what_runs_need
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study.loading import located
from ray_unlearn.study.plan import ORIGINAL, Ingredients, Plan, make_plan
from ray_unlearn.study.schema import Study
from ray_unlearn.usercode.exits import stays

if TYPE_CHECKING:
    from ray_unlearn.run.job import Job

_JOB_FOLDER = "working_dir_files"


def open_job(study: Study, decode_all: DecodeAll = in_place) -> Job:
    """Prepare a study's data, and plan its runs.

    Raises:
        RayUnlearnError: the study, its data, its model, a method or a weights file is refused.

    """
    with located(study):
        return _open_job(study, decode_all)


def _open_job(study: Study, decode_all: DecodeAll) -> Job:
    check_storage(study.storage)
    sources = open_sources(study.data)
    import_what_runs_need()
    from ray_unlearn import models
    from ray_unlearn.generation.trial import check_model, lone_images
    from ray_unlearn.methods.resolve import remarks, resolve
    from ray_unlearn.methods.statements import check_statements, unheld
    from ray_unlearn.run.job import Job

    methods = {name: resolve(study, name) for name in study.populations}
    check_statements(methods)
    model_identity = models.identity(study.model)
    storage = open_storage(study.storage)
    data = prepare_study(study, storage, decode_all, opened=sources, hardest=hardest_of(study, storage))
    plan = make_plan(study, Ingredients(data=data.identity, model=model_identity, methods=methods))
    job = Job(plan=plan, data=data, store=StudyStore(storage, study.name), cache=str(cache_folder()))
    check_sets(plan, data)
    lines = (*remarks(study, methods), *unheld(study, methods), *not_resumed(job), *not_packed(job))
    with stays(f"model {study.model.arch}"):
        lines, lone = (*lines, *check_model(job)), lone_images(job)
    return replace(job, remarks=lines, data=data.warned((*data.warnings, *lone)))


def not_resumed(job: Job) -> list[str]:
    """Return a line for each reason why runs begin anew after a preemption although the study asks them to go on."""
    from ray_unlearn.methods.resolve import why_no_resume

    execution = job.plan.study.execution
    if execution.resume_every_minutes is None:
        return []
    packed = "" if execution.pack == 1 else "a pack is trained in one go; with execution.pack: 1, they go on"
    reasons = {
        name: why_no_resume(one.method) or (packed if not one.method.no_pack else "")
        for name, one in job.plan.populations.items()
    }
    found = _by_reason(reasons)
    return [f"execution.resume_every_minutes: interrupted runs of {names} begin anew: {why}" for why, names in found]


def not_packed(job: Job) -> list[str]:
    """Return a line for each reason why runs are trained one by one although the study asks for packs.

    Raises:
        StudyError: no population can be trained in packs.

    """
    size = job.plan.study.execution.pack
    if size == 1:
        return []
    found = _by_reason({name: one.method.no_pack for name, one in job.plan.populations.items()})
    lines = [f"execution.pack: runs of {names} are trained one by one: {why}" for why, names in found]
    if all(one.method.no_pack for one in job.plan.populations.values()):
        raise StudyError(f"execution.pack: {size} packs no population; set it to 1: {'; '.join(lines)}")
    return lines


def _by_reason(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each reason with the populations that have it; those without a reason are left out."""
    found: dict[str, list[str]] = {}
    for name, why in reasons.items():
        found.setdefault(why, []).append(name)
    return [(why, ", ".join(names)) for why, names in found.items() if why]


def check_storage(storage: str) -> None:
    """Refuse a storage inside the copy of a working_dir that Ray unpacks for a job and deletes after it."""
    if _JOB_FOLDER in Path(storage).parts:
        raise StudyError(
            f"storage: {storage} is inside the job's temporary copy of its working_dir, which Ray deletes after the "
            "job; give a permanent one: --set storage=/absolute/folder or s3://bucket/prefix"
        )


def check_sets(plan: Plan, data: StudyData) -> None:
    """Refuse outputs of splits without images, one forget image to halve, and class weights not one per class."""
    study, sizes = plan.study, data.splits.sizes()
    if "splits" in study.outputs.model_fields_set:
        for split in study.outputs.splits:
            if not sizes[split]:
                raise StudyError(f"outputs.splits: {split} has no images in this study; leave it out of the list")
    for population in plan.populations.values():
        if population.originals and population.starts_from != ORIGINAL and sizes["forget"] < 2:
            raise StudyError(
                f"populations.{population.name}.starts_from: runs forget the forget images in their half of the train "
                f"split; expected 2 or more; found {sizes['forget']}"
            )
        weights = getattr(population.method.options, "class_weights", ())
        if isinstance(weights, tuple) and weights and len(weights) != data.num_classes:
            expected = f"expected {data.num_classes} numbers, one per class; found {len(weights)}"
            raise StudyError(f"populations.{population.name}: class_weights: {expected}")

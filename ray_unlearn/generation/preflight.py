"""Checks that need no run: whether there is probably something to make, imports, precision, device.

    if probably_pending(study, only):            # a guess, for a head start
        import_what_runs_need()
    check_device(plan, pool.device, held)
    check_precision(plan, pool.device, {"finetune"})

Does not cover: what is in the study's files (`job`), nor anything on another machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ray_unlearn.errors import ClusterError, MethodError, RayUnlearnError
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.records import Record
from ray_unlearn.study.plan import Plan
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import without_keys


def probably_pending(study: Study, only: Sequence[str]) -> StudyStore | None:
    """Return the study's store where a population has fewer folders than runs; None where it has as many.

    Where the store cannot be read, None is returned, and whatever reads it next raises the error.
    """
    try:
        store = StudyStore(open_storage(study.storage), study.name)
        wanted = {name: spec.planned for name, spec in study.populations.items() if name in (only or study.populations)}
        return store if any(len(store.indexes(name)) < planned for name, planned in wanted.items()) else None
    except RayUnlearnError:
        return None


def import_what_runs_need() -> None:
    """Import torch and what needs it: seconds, in which Ray starts.

    Raises:
        RayUnlearnError: this environment cannot.

    """
    try:
        pass
    except Exception as error:  # a library that is damaged, or built for another, may raise anything
        said = without_keys(" ".join(str(error).split()))[:300]
        raise RayUnlearnError(
            f"what runs need cannot be imported: {type(error).__name__}: {said}; the environment is not whole: "
            "`uv sync --reinstall`, or pip install --force-reinstall torch torchvision"
        ) from error


def check_device(plan: Plan, device: str, held: Mapping[str, Mapping[int, Record]]) -> None:
    """Refuse to mix CPU and GPU runs in a population because a cluster happens to have, or lack, GPUs today.

    Args:
        plan: the study's.
        device: the kind that runs get: cpu or cuda.
        held: population -> run -> its record.

    Raises:
        ClusterError: a population was begun on the other kind, and the study says `auto`.

    """
    if plan.study.execution.device != "auto":
        return
    for name, records in held.items():
        others = {record.device for record in records.values()}
        if any((other == "cpu") != (device == "cpu") for other in others):
            raise ClusterError(
                f"population {name} was begun on {', '.join(sorted(others))}, and execution.device: auto now means "
                f"{device}; set execution.device to say which"
            )


def check_precision(plan: Plan, device: str, populations: Collection[str]) -> None:
    """Refuse `precision: tf32` on a CPU once for all runs; only a worker knows which GPU it has.

    Raises:
        MethodError: one of the populations asks for it.

    """
    for name, population in plan.populations.items():
        options = population.method.options
        if device == "cpu" and name in populations and getattr(options, "precision", "") == "tf32":
            import torch

            from ray_unlearn.training.precision import refuse_unsupported

            try:
                refuse_unsupported("tf32", torch.device(device))
            except MethodError as error:
                raise MethodError(f"populations.{name}: {error}") from None

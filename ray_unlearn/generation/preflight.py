"""Checks before any run: files that the study names, what can start early, imports, precision, device.

    check_files(study)                           # a mistyped path is refused before torch is imported
    start_early(study)
    if probably_pending(study, only):            # a guess, so that Ray can start early
        import_what_runs_need()
    check_device(plan, pool.device, held)
    check_precision(plan, pool.device, {"finetune"})

Does not cover: the contents of the study's files (`job`), checks on other machines.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ray_unlearn.errors import ClusterError, MethodError, ModelError, RayUnlearnError
from ray_unlearn.store import StudyStore
from ray_unlearn.store.records import Record
from ray_unlearn.study.plan import Plan
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import without_keys
from ray_unlearn.usercode.fork_server import start
from ray_unlearn.usercode.imports import is_script, read_script
from ray_unlearn.usercode.memory import address_space

_GIB = 2**30
_LEAST_ADDRESSES = 2**30
"""Bytes of addresses that must be left after the imports: with less, threads cannot start, or libraries abort."""


def probably_pending(study: Study, only: Sequence[str]) -> StudyStore | None:
    """Return the study's store if a population has fewer folders than planned runs; else None.

    If the store cannot be read, None is returned: its next reader raises the error.
    """
    try:
        store = StudyStore.of(study)
        wanted = {name: spec.planned for name, spec in study.populations.items() if name in (only or study.populations)}
        return store if any(len(store.indexes(name)) < planned for name, planned in wanted.items()) else None
    except RayUnlearnError:
        return None


def start_early(study: Study, *, forks: bool = False) -> None:
    """Start the process that forks others, for scripts or for workers (`forks`): its imports take seconds, too."""
    if forks or any(is_script(spec.method_name) for spec in study.populations.values()):
        start()


def check_files(study: Study) -> None:
    """Check that the scripts and the local weights files that a study names exist.

    Raises:
        MethodError: a script cannot be read.
        ModelError: a weights file does not exist.

    """
    for spec in study.populations.values():
        if is_script(spec.method_name):
            read_script(spec.method_name)
        for path in spec.weights or ():
            if "://" not in path and not Path(path).exists():
                raise ModelError(f"{path}: no such file; expected weights, .safetensors or .pth")


def import_what_runs_need() -> None:
    """Import torch and the modules that need it, which takes seconds, while Ray starts.

    Raises:
        RayUnlearnError: an import fails: the environment is damaged, or this process may not have enough addresses.

    """
    limit = _limit_of_addresses()
    try:
        import pandas  # noqa: F401 - tables of metrics are written at the end

        import ray_unlearn.run.worker  # noqa: F401

    except Exception as error:  # a damaged library, or one built for another machine, may raise anything
        reason = without_keys(" ".join(str(error).split()))[:300]
        if limit and (isinstance(error, MemoryError) or re.search("map segment|allocate memory|start new th", reason)):
            raise RayUnlearnError(_too_few_addresses(limit, reason)) from error
        raise RayUnlearnError(
            f"a module that runs need cannot be imported: {type(error).__name__}: {reason}; the environment is not "
            "whole: `uv sync --reinstall`, or pip install --force-reinstall torch torchvision"
        ) from error
    if limit and limit - (taken := address_space()) < _LEAST_ADDRESSES:
        why = f"its libraries take {taken / _GIB:.1f} GiB, and threads and images need {_LEAST_ADDRESSES / _GIB:g} more"
        raise RayUnlearnError(_too_few_addresses(limit, why))


def _limit_of_addresses() -> int:
    """Return the bytes of addresses that this process may have (RLIMIT_AS); 0 without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def _too_few_addresses(limit: int, reason: str) -> str:
    """Return what to do about libraries or threads that find no addresses; they might also hang, or end the process."""
    return (
        f"this process is limited to {limit / _GIB:.1f} GiB of addresses (RLIMIT_AS), which are no memory in use, and "
        f"they do not suffice: {reason}; set `ulimit -v unlimited`, and limit memory by a control group instead (a "
        "container's or Slurm's --mem, systemd-run -p MemoryMax=...)"
    )


def check_device(plan: Plan, device: str, held: Mapping[str, Mapping[int, Record]]) -> None:
    """Refuse to mix CPU and GPU runs in a population because a cluster happens to have, or lack, GPUs today.

    Args:
        plan: the study's plan.
        device: kind of device that runs get now: cpu or cuda.
        held: population -> run -> its record.

    Raises:
        ClusterError: a population was begun on the other kind of device, and execution.device is `auto`.

    """
    if plan.study.execution.device != "auto":
        return
    for name, records in held.items():
        others = {record.device for record in records.values()}
        if any((other == "cpu") != (device == "cpu") for other in others):
            raise ClusterError(
                f"population {name} was begun on {', '.join(sorted(others))}, and execution.device: auto now means "
                f"{device}; set execution.device to one of them"
            )


def check_precision(plan: Plan, device: str, populations: Collection[str]) -> None:
    """Refuse `precision: tf32` on a CPU once for all runs; only a worker knows which GPU it has.

    Raises:
        MethodError: one of the populations has precision tf32.

    """
    for name, population in plan.populations.items():
        options = population.method.options
        if device == "cpu" and name in populations and getattr(options, "precision", "") == "tf32":
            import torch

            from ray_unlearn.training.precision import check_supported

            try:
                check_supported("tf32", torch.device(device))
            except MethodError as error:
                raise MethodError(f"populations.{name}: {error}") from None

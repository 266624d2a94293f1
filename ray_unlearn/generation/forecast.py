"""What a `generate` would do: its refusals, its runs, their time, disk and GPU hours. Nothing is written or decoded.

    forecast = look_ahead(checks, workers=8)
    forecast.estimates, forecast.seconds, forecast.size_bytes, forecast.gpu_hours

Does not cover: the checks themselves (`checks`), nor where the numbers come from (`estimates`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.generation.checks import Checks
from ray_unlearn.generation.cores import cores
from ray_unlearn.generation.estimates import Estimate, Step, estimate, expected_sizes, total_s
from ray_unlearn.store import Record
from ray_unlearn.store.disk import existing
from ray_unlearn.study.schema import Execution, Study
from ray_unlearn.usercode.exits import stays

_ALONE = 0.7
"""CPU time of a run of one thread over its wall time, below which it waited for others: it does nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What is still to make, and what it costs."""

    estimates: Mapping[str, Estimate]
    workers: int
    device: str
    """cpu or cuda, as the study says; `auto` is what this machine has."""
    gpus_per_worker: float
    free_bytes: int | None
    """Free bytes where the runs go; None for an object store."""
    busy: str = ""
    """Why runs, or a step that was measured, took longer than they do alone; empty where nothing says so."""

    @property
    def seconds(self) -> float | None:
        """Seconds until every run is made, without starting; None where a population has no estimate."""
        return total_s(self.estimates.values(), self.workers)

    @property
    def worker_seconds(self) -> float | None:
        """Seconds of all workers together."""
        return total_s(self.estimates.values(), 1)

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all runs to make; None where a population has no estimate."""
        sizes = [(one.pending, one.size_bytes) for one in self.estimates.values() if one.pending]
        known = [pending * size for pending, size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @property
    def gpu_hours(self) -> float | None:
        """GPU hours of all runs to make; 0 on a CPU."""
        spent = self.worker_seconds
        return None if spent is None else spent * self.gpus_per_worker / 3600

    @property
    def lacks_space(self) -> bool:
        """Whether the runs need more space than is free."""
        return self.size_bytes is not None and self.free_bytes is not None and self.size_bytes > self.free_bytes


def look_ahead(checks: Checks, *, workers: int | None, gpus_per_worker: float | None = None) -> Forecast:
    """Return the forecast of a study whose checks were made; a step is measured where no run of a method was made.

    Args:
        checks: the study's checks; those with torch may be left out, and then no step is measured.
        workers: number of workers; default the study's, else as many as fit on this machine.
        gpus_per_worker: default the study's.

    """
    study = checks.study
    records = _records(checks)
    device = _device(study.execution, with_torch=checks.model is not None)
    packed = _packed(checks, records)
    estimates, busy = estimate(study, records, _sizes(checks), None, packed), ""
    if checks.model is not None and any(one.seconds is None for one in estimates.values() if one.pending):
        busy = _busy(study.execution.cpus_per_worker)
        estimates = estimate(study, records, _sizes(checks), _step(checks, device), packed)
    gpus = study.execution.gpus_per_worker if gpus_per_worker is None else gpus_per_worker
    share = (1.0 if gpus == "auto" else float(gpus)) if device == "cuda" else 0.0
    return Forecast(
        estimates=estimates,
        workers=workers or _workers(study, device, share),
        device=device,
        gpus_per_worker=share,
        free_bytes=_free_bytes(checks),
        busy=busy or _waited(study, records, estimates),
    )


def _busy(cores_of_a_step: int) -> str:
    """Return that the machine has no cores left for a step to be measured on; empty where it has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load + cores_of_a_step < cores + 0.5:
        return ""
    return f"this machine is busy (load {load:.1f} on {cores} cores), so the measured step took longer than alone"


def _waited(study: Study, records: Mapping[str, Mapping[int, Record]], estimates: Mapping[str, Estimate]) -> str:
    """Return that runs of one thread waited for the CPU, so that their seconds are no measure; else nothing."""
    basis = [one for name, each in records.items() if estimates[name].pending for one in each.values()]
    wall_s = sum(sum(one.seconds.values()) for one in basis)
    if study.execution.cpus_per_worker > 1 or not wall_s or any(one.device != "cpu" for one in basis):
        return ""
    share = sum(sum(one.cpu_seconds.values()) for one in basis) / wall_s
    if not 0 < share < _ALONE:
        return ""
    return (
        f"the runs that were made had {100 * share:.0f} % of a core each, because other processes, or more workers "
        "than cores, used the machine; alone they take as much less"
    )


def _records(checks: Checks) -> Mapping[str, Mapping[int, Record]]:
    try:
        return {name: checks.store.made(name) for name in checks.study.populations} if checks.store else {}
    except RayUnlearnError:  # damaged ones are a problem of the checks
        return {}


def _packed(checks: Checks, records: Mapping[str, Mapping[int, Record]]) -> list[str]:
    """Return the populations that are trained in packs; without the methods, those whose records say so."""
    if checks.study.execution.pack == 1:
        return []
    if checks.plan is not None:
        return [name for name, one in checks.plan.populations.items() if not one.method.no_pack]
    return [name for name, each in records.items() if any("pack" in one.arithmetic for one in each.values())]


def _sizes(checks: Checks) -> dict[str, int]:
    rows = {role: source.num_rows for role, source in checks.sources.items()}
    if checks.data is None:
        return expected_sizes(checks.study, rows, checks.num_classes)
    sizes = checks.data.splits.sizes()
    return {**sizes, "train": sizes["retain"] + sizes["forget"], "classes": checks.data.num_classes}


def _device(execution: Execution, *, with_torch: bool) -> str:
    if execution.device != "auto" or not with_torch:
        return execution.device if execution.device != "auto" else "cpu"
    from ray_unlearn.generation.inline import inline_device

    return inline_device(execution)


def _step(checks: Checks, device: str) -> Step | None:
    import torch

    from ray_unlearn.generation.measured_step import measure_step

    if checks.model is None or (device == "cuda" and not torch.cuda.is_available()):
        return None
    try:
        with stays():
            return measure_step(checks.study, checks.model, checks.num_classes, torch.device(device))
    except (Exception, SystemExit):  # a user's net may raise anything, and only scripts may train it
        return None


def _workers(study: Study, device: str, share: float) -> int:
    """Return the study's number of workers, else how many fit on this machine."""
    execution = study.execution
    if isinstance(execution.workers, int):
        return execution.workers
    fit = max(1, cores() // execution.cpus_per_worker)
    if device == "cuda":
        import torch

        fit = min(fit, max(1, int(torch.cuda.device_count() / share))) if share else fit
    return fit


def _free_bytes(checks: Checks) -> int | None:
    local = checks.store.storage.local if checks.store else None
    return None if local is None else shutil.disk_usage(existing(local)).free

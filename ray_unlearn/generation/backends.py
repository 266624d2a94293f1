"""Where runs are executed: in this process, in forked processes of this machine, or on Ray.

    with open_backend("auto", address=None, workers=2) as backend:
        with backend.starting():                 # Ray starts meanwhile; an exception cancels the start
            job = open_job(study, backend.decode_all)
        place = backend.chosen(job, work)        # itself, or what `auto` chooses
        for event in schedule(plan, place.pool(job), ...):
            ...

Does not cover: how they do it (`inline`, `forked`, `cluster.backend`), which of them `auto` is (`auto`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from ray_unlearn.errors import ClusterError, StudyError
from ray_unlearn.generation.preflight import import_what_runs_need
from ray_unlearn.schedule.events import Sink
from ray_unlearn.schedule.pool import Pool
from ray_unlearn.schedule.resources import check_share
from ray_unlearn.study.schema import Study

if TYPE_CHECKING:  # they bring torch, which is imported while Ray starts
    from ray_unlearn.cluster.backend import RayBackend
    from ray_unlearn.data.decode import DecodedSlice, DecodeJob
    from ray_unlearn.data.rows import Slice
    from ray_unlearn.generation.records import Work
    from ray_unlearn.run.job import Job

BackendName = Literal["auto", "ray", "inline"]


class Place(Protocol):
    """Where a job's runs are executed."""

    connects: bool
    """Whether to open a pool may wait for a connection to a cluster."""
    why: str
    """Why `auto` chose it; empty where it was asked for by name."""

    def pool(self, job: Job) -> Pool:
        """Return a pool of workers for the job; the backend closes it."""
        ...

    def sinks(self, study: Study) -> Sequence[Sink]:
        """Return the sinks of this place's monitoring systems."""
        ...


class Backend(Protocol):
    """What decodes sources, and chooses the place for a job's runs: itself, except `auto`."""

    def starting(self) -> AbstractContextManager[None]:
        """Start in the background while a block is executed; an exception that leaves the block cancels the start."""
        ...

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode every slice, in order."""
        ...

    def chosen(self, job: Job, work: Work) -> Place:
        """Return where the runs are to be made."""
        ...

    def close(self) -> None:
        """Stop everything that the backend started."""
        ...


@contextmanager
def open_backend(
    name: BackendName, *, address: str | None = None, workers: int | None = None, gpus_per_worker: float | None = None
) -> Iterator[Backend]:
    """Yield a backend, and close it; the arguments are those of `generate`.

    Raises:
        StudyError: an option does not fit the backend.
        ClusterError: Ray is not installed.

    """
    if gpus_per_worker is not None:
        check_share(gpus_per_worker, "--gpus-per-worker")
    backend = _backend(name, address, workers, gpus_per_worker)
    try:
        yield backend
    finally:
        backend.close()


def _backend(name: BackendName, address: str | None, workers: int | None, gpus_per_worker: float | None) -> Backend:
    if name == "ray":
        return ray_backend(address, workers, gpus_per_worker)
    if name == "auto" and (reason := ray_is_named(address, gpus_per_worker)):
        backend = ray_backend(address, workers, gpus_per_worker)
        backend.why = f"on Ray, because {reason}"
        return backend
    if address or gpus_per_worker is not None:
        raise StudyError(
            "--address and --gpus-per-worker are for --backend ray; inline works in this process, or with --workers in "
            "processes that are forked on this machine"
        )
    import_what_runs_need()
    from ray_unlearn.generation.auto import AutoBackend
    from ray_unlearn.generation.forked import ForkedBackend
    from ray_unlearn.generation.inline import InlineBackend

    if name == "auto":
        return AutoBackend(workers, partial(ray_backend, None, workers, None))
    return ForkedBackend(workers) if workers else InlineBackend()


def ray_backend(address: str | None, workers: int | None, gpus_per_worker: float | None) -> RayBackend:
    """Return the backend on Ray.

    Raises:
        ClusterError: Ray is not installed.

    """
    try:
        from ray_unlearn.cluster.backend import RayBackend
    except ImportError as error:
        raise ClusterError("the ray backend needs Ray: pip install 'ray[default]', or use --backend inline") from error
    return RayBackend(address=address, workers=workers, gpus_per_worker=gpus_per_worker)


def forks(name: BackendName, address: str | None, workers: int | None, gpus_per_worker: float | None) -> bool:
    """Return whether runs may be in forked processes."""
    return bool(workers) if name == "inline" else name == "auto" and not ray_is_named(address, gpus_per_worker)


def ray_is_named(address: str | None, gpus_per_worker: float | None) -> str:
    """Return why Ray must be used for any study; empty if it need not be."""
    if address or os.environ.get("RAY_ADDRESS"):
        return "a cluster's address is given"
    if gpus_per_worker is not None:
        return "--gpus-per-worker is given"
    ray = sys.modules.get("ray")
    return "this process is connected to Ray" if ray is not None and ray.is_initialized() else ""

"""Where runs are executed: in this process, or on Ray.

    with open_backend("ray", address=None, workers=2) as backend:
        with backend.starting():                 # Ray starts meanwhile; an exception cancels the start
            job = open_job(study, backend.decode_all)
        for event in schedule(plan, backend.pool(job), ...):
            ...

Does not cover: how they do it (`inline`, `cluster.backend`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

from ray_unlearn.errors import ClusterError, StudyError
from ray_unlearn.generation.preflight import import_what_runs_need
from ray_unlearn.schedule.events import Sink
from ray_unlearn.schedule.pool import Pool
from ray_unlearn.schedule.resources import check_share
from ray_unlearn.study.schema import Study
from ray_unlearn.usercode.fork_server import start

if TYPE_CHECKING:  # they bring torch, which is imported while Ray starts
    from ray_unlearn.data.decode import DecodedSlice, DecodeJob
    from ray_unlearn.data.rows import Slice
    from ray_unlearn.run.job import Job

BackendName = Literal["ray", "inline"]


class Backend(Protocol):
    """A place that can decode sources and execute a job's runs."""

    def starting(self) -> AbstractContextManager[None]:
        """Start in the background while a block is executed; an exception that leaves the block cancels the start."""
        ...

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode every slice, in order."""
        ...

    def pool(self, job: Job) -> Pool:
        """Return a pool of workers for the job; the backend closes it."""
        ...

    def sinks(self, study: Study) -> Sequence[Sink]:
        """Return the sinks of this place's monitoring systems."""
        ...

    def close(self) -> None:
        """Stop everything that the backend started."""
        ...


@contextmanager
def open_backend(
    name: BackendName, *, address: str | None = None, workers: int | None = None, gpus_per_worker: float | None = None
) -> Iterator[Backend]:
    """Yield a backend, and close it.

    Args:
        name: `ray`, or `inline` for this process.
        address: address of a Ray cluster; default RAY_ADDRESS, else a local cluster is started and stopped.
        workers: overrides `execution.workers`.
        gpus_per_worker: overrides `execution.gpus_per_worker`.

    Raises:
        StudyError: an option does not fit the backend.
        ClusterError: Ray is not installed.

    """
    if gpus_per_worker is not None:
        check_share(gpus_per_worker, "--gpus-per-worker")
    backend: Backend
    if name == "inline":
        if address or gpus_per_worker is not None:
            raise StudyError(
                "--address and --gpus-per-worker are for --backend ray; inline works in this process, or with --workers "
                "in processes that are forked on this machine"
            )
        if workers:
            start()  # its imports take as long as those of this process, and are done beside them
        import_what_runs_need()
        from ray_unlearn.generation.forked import ForkedBackend
        from ray_unlearn.generation.inline import InlineBackend

        backend = ForkedBackend(workers) if workers else InlineBackend()
    else:
        try:
            from ray_unlearn.cluster.backend import RayBackend
        except ImportError as error:
            raise ClusterError(
                "the ray backend needs Ray: pip install 'ray[default]', or use --backend inline"
            ) from error
        backend = RayBackend(address=address, workers=workers, gpus_per_worker=gpus_per_worker)
    try:
        yield backend
    finally:
        backend.close()

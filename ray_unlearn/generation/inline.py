"""The `inline` backend: executes the same plan from this process, one run after another, without Ray.

    backend = InlineBackend()
    pool = backend.pool(job)

It is meant for debuggers, for tests, and for machines without Ray. Runs of scripts have processes of their own
here, too.

Does not cover: more than one worker (`forked`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

import torch

from ray_unlearn.data.decode import DecodedSlice, DecodeJob
from ray_unlearn.data.prepare import in_place
from ray_unlearn.data.rows import Slice
from ray_unlearn.errors import RayUnlearnError, StorageNotShared, StudyError
from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import Attempt
from ray_unlearn.run.worker import Worker
from ray_unlearn.schedule.events import Sink
from ray_unlearn.schedule.pool import Finished, Lost, Ready, Report
from ray_unlearn.study.schema import Execution, Study
from ray_unlearn.training.precision import check_present

if TYPE_CHECKING:
    from ray_unlearn.generation.records import Work


class BackendHere:
    """What the backends of this machine share: plain loops decode, and there is no monitoring system."""

    connects, why = False, ""

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode every slice in a plain loop."""
        return in_place(slices, job)

    def chosen(self, job: Job, work: Work) -> Self:
        """Return this backend."""
        return self

    def sinks(self, study: Study) -> Sequence[Sink]:
        """Return no sinks."""
        return []


class InlineBackend(BackendHere):
    """Backend that executes runs in this process."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._pool: InlinePool | None = None

    def starting(self) -> AbstractContextManager[None]:
        """Do nothing: this process is running already."""
        return nullcontext()

    def pool(self, job: Job) -> InlinePool:
        """Return a pool of one worker.

        Raises:
            StudyError: the study sets `execution.run_timeout_s`, and has no scripts: this process cannot end a run of
                another method without ending itself.
            ModelError: the study asks for a GPU, and this machine has none.

        """
        execution = job.plan.study.execution
        scripts = any(population.method.source for population in job.plan.populations.values())
        if execution.run_timeout_s is not None and not scripts:
            raise StudyError(
                f"execution.run_timeout_s: {execution.run_timeout_s:g}, but the inline backend cannot end a run of its "
                "own process; use --workers 1 with it, which forks a process, --backend ray, or --set "
                "execution.run_timeout_s=null"
            )
        device = inline_device(execution)
        check_present(torch.device(device))
        limited = f"; run_timeout_s: {execution.run_timeout_s:g} for scripts alone" if execution.run_timeout_s else ""
        self._pool = InlinePool(job, device, limited)
        return self._pool

    def close(self) -> None:
        """Wait for the publication in flight, and restore the process's thread count."""
        if self._pool is not None:
            self._pool.close()
        torch.set_num_threads(self._threads)


def inline_device(execution: Execution) -> str:
    """Return the study's device; `auto` is cuda if this machine has a GPU that torch can use, else cpu."""
    if execution.device != "auto":
        return execution.device
    return "cuda" if torch.cuda.is_available() else "cpu"


class InlinePool:
    """Pool of one worker; `wait` executes the runs that were submitted."""

    def __init__(self, job: Job, device: str, limited: str = "") -> None:
        self._job, self.device, self._limited = job, device, limited
        self._worker: Worker | None = None
        self._started = 0
        self._calls: deque[tuple[Sequence[Attempt], bool]] = deque()

    def describe(self) -> str:
        """Return the device, and what limits hold."""
        return f"in this process on {self.device}{self._limited}"

    def capacity(self) -> int:
        """Return 1."""
        return 1

    def start(self) -> int:
        """Return a number for the worker, which `wait` makes and opens."""
        self._started += 1
        return self._started

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Keep the runs for `wait`."""
        self._calls.append((attempts, flush))

    def wait(self) -> list[Report]:
        """Open the worker, or execute the oldest call."""
        if self._worker is None:
            try:
                worker = Worker(self._job, self.device)
                info = worker.open()
            except RayUnlearnError as error:
                return [Lost(self._started, str(error), isinstance(error, StorageNotShared))]
            except Exception as error:  # a driver or a device may raise anything
                return [Lost(self._started, f"{type(error).__name__}: {error}")]
            self._worker = worker
            return [Ready(self._started, info)]
        if not self._calls:
            return []
        attempts, flush = self._calls.popleft()
        return [Finished(self._started, self._worker.work(attempts, flush))]

    def stop(self, worker: int) -> None:
        """Close the worker, and forget the runs that it was given."""
        self._calls.clear()
        self.close()

    def close(self) -> None:
        """Wait for the publication in flight, and close the worker."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

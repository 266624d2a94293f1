"""The `inline` backend: the same plan in this process, one run after another, with Ray not even installed.

    backend = InlineBackend()
    pool = backend.pool(job)

For a debugger, for tests, and for machines without Ray.

Does not cover: more than one worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ray_unlearn.data.decode import DecodedSlice, DecodeJob
from ray_unlearn.data.prepare import in_place
from ray_unlearn.data.rows import Slice
from ray_unlearn.errors import RayUnlearnError, StorageNotShared, StudyError
from ray_unlearn.run.outcome import Attempt
from ray_unlearn.run.worker import Job, Worker
from ray_unlearn.schedule.events import Sink
from ray_unlearn.schedule.pool import Finished, Lost, Ready, Report
from ray_unlearn.study.execution import Execution
from ray_unlearn.study.schema import Study
from ray_unlearn.training.precision import refuse_absent


class InlineBackend:
    """Executes in this process."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._pool: InlinePool | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """There is nothing to start."""
        yield

    def sinks(self, study: Study) -> Sequence[Sink]:
        """There is no monitoring system to tell."""
        return []

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode in a plain loop."""
        return in_place(slices, job)

    def pool(self, job: Job) -> InlinePool:
        """Return a pool of one worker.

        Raises:
            StudyError: the study limits the time of a run, which this process could only end together with itself.
            ModelError: the study asks for a GPU, and there is none.

        """
        execution = job.plan.study.execution
        if execution.run_timeout_s is not None:
            raise StudyError(
                f"execution.run_timeout_s: {execution.run_timeout_s:g}, but the inline backend cannot end a run of its "
                "own process; use --backend ray, or --set execution.run_timeout_s=null"
            )
        device = inline_device(execution)
        refuse_absent(torch.device(device))
        self._pool = InlinePool(job, device)
        return self._pool

    def close(self) -> None:
        """Finish what is being published, and give the process its thread count back."""
        if self._pool is not None:
            self._pool.close()
        torch.set_num_threads(self._threads)


def inline_device(execution: Execution) -> str:
    """Return the device of the study, `auto` decided by this machine."""
    if execution.device != "auto":
        return execution.device
    return "cuda" if torch.cuda.is_available() else "cpu"


class InlinePool:
    """One worker; `wait` executes the runs that were submitted."""

    def __init__(self, job: Job, device: str) -> None:
        self._job, self.device = job, device
        self._worker: Worker | None = None
        self._started = 0
        self._calls: deque[tuple[Sequence[Attempt], bool]] = deque()

    def describe(self) -> str:
        """Return the device."""
        return f"in this process on {self.device}"

    def capacity(self) -> int:
        """Return 1."""
        return 1

    def start(self) -> int:
        """Make the worker; it opens in `wait`."""
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
        """Forget the worker and what it was given."""
        self._calls.clear()
        self.close()

    def close(self) -> None:
        """Wait for the publication in flight, which nobody can take out of this process."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

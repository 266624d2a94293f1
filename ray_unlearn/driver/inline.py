"""The `inline` backend: the same plan in this process, one run after another, with Ray not even installed.

    backend = InlineBackend()
    pool = backend.pool(job)

For a debugger, for tests, and for machines without Ray.

Does not cover: more than one worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ray_unlearn.data.decode import DecodedSlice, DecodeJob
from ray_unlearn.data.prepare import in_place
from ray_unlearn.data.rows import Slice
from ray_unlearn.driver.pool import Event, Finished, Lost, Ready
from ray_unlearn.errors import RayUnlearnError, StudyError
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Execution
from ray_unlearn.worker import Job, Worker


class InlineBackend:
    """Executes in this process."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode in a plain loop."""
        return in_place(slices, job)

    def pool(self, job: Job) -> InlinePool:
        """Return a pool of one worker.

        Raises:
            StudyError: the study limits the time of a run, which this process could only end together with itself.

        """
        execution = job.plan.study.execution
        if execution.run_timeout_s is not None:
            raise StudyError(
                f"execution.run_timeout_s: {execution.run_timeout_s:g}, but the inline backend cannot end a run of its "
                "own process; use --backend ray, or --set execution.run_timeout_s=null"
            )
        return InlinePool(job, inline_device(execution))

    def close(self) -> None:
        """Give the process its thread count back."""
        torch.set_num_threads(self._threads)


def inline_device(execution: Execution) -> str:
    """Return the device of the study, `auto` decided by this machine."""
    if execution.device != "auto":
        return execution.device
    return "cuda" if torch.cuda.is_available() else "cpu"


class InlinePool:
    """One worker; `wait` executes the run that was submitted."""

    def __init__(self, job: Job, device: str) -> None:
        self._job, self.device = job, device
        self._worker: Worker | None = None
        self._started = 0
        self._submitted: tuple[Run, int] | None = None

    def describe(self) -> str:
        """Return the device."""
        return f"in this process on {self.device}"

    def capacity(self) -> int:
        """Return 1."""
        return 1

    def start(self) -> int:
        """Make the worker; it opens in `wait`."""
        self._started += 1
        self._worker = None
        return self._started

    def submit(self, worker: int, run: Run, attempt: int) -> None:
        """Keep the run for `wait`."""
        self._submitted = (run, attempt)

    def wait(self) -> list[Event]:
        """Open the worker, or execute the submitted run."""
        if self._worker is None:
            try:
                worker = Worker(self._job, self.device)
                info = worker.open()
            except RayUnlearnError as error:
                return [Lost(self._started, str(error))]
            except Exception as error:  # a driver or a device may raise anything
                return [Lost(self._started, f"{type(error).__name__}: {error}")]
            self._worker = worker
            return [Ready(self._started, info)]
        if self._submitted is None:
            return []
        (run, attempt), self._submitted = self._submitted, None
        return [Finished(self._started, self._worker.execute(run, attempt))]

    def stop(self, worker: int) -> None:
        """Forget the worker."""
        self._worker = None

"""The `inline` backend with workers: processes of this machine, forked from one that has imported torch already.

    backend = ForkedBackend(workers=2)
    pool = backend.pool(job)

A worker is ready a fraction of a second after it is asked for, and shares the memory of what it imported with all
others. CPUs only. Runs have the same bytes as in this process and on Ray.

Does not cover: forking (`usercode.fork_server`), what a worker does (`run.forked`), clusters (`cluster.pool`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ray_unlearn.errors import StudyError
from ray_unlearn.generation.inline import BackendHere, inline_device
from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import Attempt
from ray_unlearn.run.worker_process import NotOpened, WorkerDied, WorkerProcess
from ray_unlearn.schedule.deadlines import Deadlines
from ray_unlearn.schedule.pool import Finished, Lost, Pool, Ready, Report
from ray_unlearn.study.schema import Execution
from ray_unlearn.usercode.fork_server import ServerLost, fork_server, start
from ray_unlearn.usercode.wire import ready
from ray_unlearn.wording import plural

_POLL_S = 1.0


class ForkedBackend(BackendHere):
    """Backend that executes runs in forked processes of this machine."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ForkedPool | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Let the server that forks workers import what they need while the block is executed."""
        start()
        yield

    def pool(self, job: Job) -> Pool:
        """Return a pool of forked workers.

        Raises:
            StudyError: the study's runs are for a GPU.

        """
        return self._forked(job)

    def _forked(self, job: Job) -> ForkedPool:
        check_cpu(job.plan.study.execution)
        self._pool = ForkedPool(job, self._workers)
        return self._pool

    def close(self) -> None:
        """End all workers."""
        if self._pool is not None:
            self._pool.close()


def check_cpu(execution: Execution) -> None:
    """Refuse what forked workers cannot do.

    Raises:
        StudyError: runs would be on a GPU.

    """
    if inline_device(execution) != "cpu":
        raise StudyError(
            f"--backend inline with --workers forks processes, for CPUs alone, and execution.device: {execution.device}"
            f" is {inline_device(execution)} here; use --backend ray, leave --workers out, or --set "
            "execution.device=cpu"
        )


class ForkedPool:
    """Processes of this machine that each hold one worker."""

    device = "cpu"

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._count = job, workers
        self._workers: dict[int, WorkerProcess] = {}
        self._opening: set[int] = set()
        self._not_started: list[Report] = []
        self._started = 0
        self._scripts = {name for name, population in job.plan.populations.items() if population.method.source}
        limit_s = job.plan.study.execution.run_timeout_s
        self._deadlines = Deadlines(limit_s, apart=self._scripts, pack_size=job.plan.pack_size)

    def describe(self) -> str:
        """Return the number of workers, and where they are."""
        return f"up to {plural(self._count, 'worker')} on cpu, processes forked on this machine"

    def capacity(self) -> int:
        """Return the number of workers."""
        return self._count

    def start(self) -> int:
        """Fork a process, which opens the job."""
        self._started += 1
        try:
            with fork_server() as first:
                scripts = first.clone() if self._scripts or self._job.isolates_any else None
                self._workers[self._started] = WorkerProcess(first.clone(), self._job, self.device, scripts=scripts)
            self._opening.add(self._started)
        except ServerLost as error:
            self._not_started.append(Lost(self._started, str(error), died=True))
        return self._started

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Send a worker runs; it executes its calls in order."""
        self._workers[worker].send(attempts, flush=flush)
        self._deadlines.given(worker, attempts, time.monotonic())

    def wait(self, most_s: float = _POLL_S) -> list[Report]:
        """Return the reports of the workers, waiting for `most_s` seconds at most."""
        watched = {one.channel.fileno(): number for number, one in self._workers.items()}
        printed = {one.output: number for number, one in self._workers.items() if one.output >= 0}
        reports, self._not_started = self._not_started, []
        found = ready([*watched, *printed], 0 if reports else most_s)
        for descriptor in found & printed.keys():
            self._workers[printed[descriptor]].read_output()
        reports += [self._report(watched[descriptor]) for descriptor in sorted(found & watched.keys())]
        late = [self._deadlines.exceeded(worker) for worker, _ in self._deadlines.overdue(time.monotonic())]
        for one in late:
            self.stop(one.worker)
        return [*reports, *late]

    def _report(self, worker: int) -> Report:
        try:
            message = self._workers[worker].receive()
        except WorkerDied as error:
            self.stop(worker)
            return Lost(worker, str(error), died=True)
        if isinstance(message, NotOpened):
            self.stop(worker)
            return Lost(worker, message.cause, message.unshared)
        if worker in self._opening:
            self._opening.discard(worker)
            return Ready(worker, message)
        self._deadlines.answered(worker, time.monotonic())
        return Finished(worker, message)

    def stop(self, worker: int) -> None:
        """Kill a worker, and forget its calls in flight."""
        self._deadlines.forget(worker)
        self._opening.discard(worker)
        if worker in self._workers:
            self._workers.pop(worker).close()

    def close(self) -> None:
        """Kill every worker."""
        for worker in list(self._workers):
            self.stop(worker)

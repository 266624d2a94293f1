"""The `inline` backend with workers: processes of this machine, forked from one that has imported torch already.

    backend = ForkedBackend(workers=2)
    pool = backend.pool(job)

A worker is ready a fraction of a second after it is asked for, and shares the memory of what it imported with all
others. CPUs only. Runs have the same bytes as in this process and on Ray.

Does not cover: forking (`usercode.fork_server`), what a worker does (`run.forked`), clusters (`cluster.pool`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ray_unlearn.data.decode import DecodedSlice, DecodeJob
from ray_unlearn.data.prepare import in_place
from ray_unlearn.data.rows import Slice
from ray_unlearn.errors import StudyError
from ray_unlearn.generation.inline import inline_device
from ray_unlearn.run.forked import WORK, NotOpened
from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import Attempt
from ray_unlearn.schedule.deadlines import Deadlines
from ray_unlearn.schedule.events import Sink
from ray_unlearn.schedule.pool import Finished, Lost, Pool, Ready, Report
from ray_unlearn.study.schema import Execution, Study
from ray_unlearn.usercode.fork_server import ForkServer, ServerLost, fork_server, start
from ray_unlearn.usercode.processes import how_it_ended
from ray_unlearn.usercode.wire import ready
from ray_unlearn.wording import plural

if TYPE_CHECKING:
    from ray_unlearn.generation.records import Work

_POLL_S = 1.0
_TAIL_BYTES = 2**12
"""Bytes of what a worker printed last, outside of runs, that are kept to say why it died."""
_READ_BYTES = 2**16


class ForkedBackend:
    """Backend that executes runs in forked processes of this machine."""

    connects, why = False, ""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ForkedPool | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Let the server that forks workers import what they need while the block is executed."""
        start()
        yield

    def sinks(self, study: Study) -> Sequence[Sink]:
        """Return no sinks: these processes have no monitoring system."""
        return []

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode every slice in a plain loop."""
        return in_place(slices, job)

    def chosen(self, job: Job, work: Work) -> ForkedBackend:
        """Return this backend."""
        return self

    def pool(self, job: Job) -> Pool:
        """Return a pool of forked workers.

        Raises:
            StudyError: the study's runs are for a GPU.

        """
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


@dataclass(slots=True)
class _Forked:
    """A worker's process, seen from here."""

    server: ForkServer
    """The server that forked it, and has forked nothing else."""
    channel: Connection
    output: int
    """Descriptor of what it prints outside of runs; -1 once all is read."""
    is_ready: bool = False
    tail: bytearray = field(default_factory=bytearray)

    def keep(self, data: bytes) -> None:
        """Keep the end of what it printed."""
        self.tail += data
        del self.tail[:-_TAIL_BYTES]

    def read_output(self) -> None:
        """Read a part of what it printed, which is there."""
        if data := os.read(self.output, _READ_BYTES):
            self.keep(data)
        else:
            self.output = -1

    def how_it_died(self) -> str:
        """Wait until all that belongs to a worker which has died is gone; return how it died."""
        try:
            how = how_it_ended(self.server.end_fork(self.keep).status)
        except ServerLost as error:
            how = str(error)
        last = next((line.strip() for line in reversed(self.tail.decode(errors="replace").splitlines()) if line), "")
        return f"worker process died: it {how}{f'; its last line: {last[:200]}' if last else ''}"

    def end(self) -> None:
        """Kill it and all that it started."""
        self.channel.close()
        self.server.close()


class ForkedPool:
    """Processes of this machine that each hold one worker."""

    device = "cpu"

    def __init__(self, job: Job, workers: int) -> None:
        # Only the driver writes the splits' file: for a million images, it would be 62 MB for every worker.
        self._job = replace(job, data=replace(job.data, arrows={}))
        self._count = workers
        self._workers: dict[int, _Forked] = {}
        self._not_started: list[Report] = []
        self._started = 0
        self._timeout_s = job.plan.study.execution.run_timeout_s
        self._scripts = {name for name, population in job.plan.populations.items() if population.method.source}
        self._deadlines = Deadlines(self._timeout_s, apart=self._scripts)

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
            self._workers[self._started] = self._forked()
        except ServerLost as error:
            self._not_started.append(Lost(self._started, str(error), died=True))
        return self._started

    def _forked(self) -> _Forked:
        ours, theirs = socket.socketpair()
        files = [theirs.detach()]
        channel = Connection(ours.detach())
        try:
            with fork_server() as first:
                server = first.clone()
                files += [first.clone().given_away()] if self._scripts else []
            output = server.begin_fork(WORK, {"folder": str(Path.cwd())}, files)
        except BaseException:
            channel.close()
            raise
        finally:
            for descriptor in files:
                os.close(descriptor)
        with suppress(OSError):  # `wait` finds a process that has died already
            channel.send((self._job, self.device))
        return _Forked(server, channel, output)

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Send a worker runs; it executes its calls in order."""
        with suppress(OSError):  # as above
            self._workers[worker].channel.send((attempts, flush))
        self._deadlines.given(worker, attempts, time.monotonic())

    def wait(self) -> list[Report]:
        """Return the reports of the workers, waiting for about a second at most."""
        watched = {one.channel.fileno(): number for number, one in self._workers.items()}
        printed = {one.output: number for number, one in self._workers.items() if one.output >= 0}
        reports, self._not_started = self._not_started, []
        found = ready([*watched, *printed], 0 if reports else _POLL_S)
        for descriptor in found & printed.keys():
            self._workers[printed[descriptor]].read_output()
        reports += [self._report(watched[descriptor]) for descriptor in sorted(found & watched.keys())]
        return [*reports, *(self._too_long(worker) for worker, _ in self._deadlines.overdue(time.monotonic()))]

    def _report(self, worker: int) -> Report:
        one = self._workers[worker]
        try:
            message = one.channel.recv()
        except (EOFError, OSError):
            cause = one.how_it_died()
            self.stop(worker)
            return Lost(worker, cause, died=True)
        if isinstance(message, NotOpened):
            self.stop(worker)
            return Lost(worker, message.cause, message.unshared)
        if not one.is_ready:
            one.is_ready = True
            return Ready(worker, message)
        self._deadlines.answered(worker, time.monotonic())
        return Finished(worker, message)

    def _too_long(self, worker: int) -> Report:
        """End a worker whose call took too long; the scheduler decides which of its runs is to blame."""
        self.stop(worker)
        limit_s = float(self._timeout_s or 0)
        return Lost(worker, f"took longer than execution.run_timeout_s: {limit_s:g}", overdue_s=limit_s)

    def stop(self, worker: int) -> None:
        """Kill a worker, and forget its calls in flight."""
        self._deadlines.forget(worker)
        one = self._workers.pop(worker, None)
        if one is not None:
            one.end()

    def close(self) -> None:
        """Kill every worker."""
        for worker in list(self._workers):
            self.stop(worker)

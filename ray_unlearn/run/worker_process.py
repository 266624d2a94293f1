"""A worker in a forked process, seen from the process that wants its work.

    process = WorkerProcess(server, job, "cpu")  # `server` forks this process, and no other until it is closed
    process.receive()                            # a WorkerInfo, or NotOpened; then, for each `send`, outcomes
    process.send([(run, 1)], flush=True)
    process.channel, process.output              # what `wire.ready` waits for
    process.close()

    outcomes = made_alone(job, "cpu", run, 1)    # a process for one run

Values are those that Ray's actors get and give; both ends are processes of this package.

Does not cover: what the process executes (`forked`), forking (`usercode.fork_server`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import Attempt, FailedApart, Outcome
from ray_unlearn.study.plan import Run
from ray_unlearn.usercode.fork_server import Ended, ForkServer, ServerLost, fork_server
from ray_unlearn.usercode.processes import how_it_ended
from ray_unlearn.usercode.wire import ready

_WORK = "ray_unlearn.run.forked:work"
_TAIL_BYTES = 2**12
"""Bytes of what a worker printed last, outside of runs, that are kept to say why it died."""
_READ_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class NotOpened:
    """Why a worker could not open its job, in plain values."""

    cause: str
    unshared: bool = False
    """Whether it does not see the driver's storage."""


class WorkerDied(Exception):
    """The process ended before it answered; the text says how."""


class WorkerProcess:
    """A worker's process."""

    def __init__(
        self,
        server: ForkServer,
        job: Job,
        device: str,
        *,
        scripts: ForkServer | None = None,
        limit_s: float | None = None,
    ) -> None:
        """Fork the process, and send it the job.

        Args:
            server: the server that forks it.
            job: the job that it opens.
            device: kind of device of its runs.
            scripts: a server for its scripts, which it gets for itself; None where it starts its own.
            limit_s: seconds after which it is ended.

        Raises:
            ServerLost: the server has ended, or cannot fork.

        """
        self.server = server
        ours, theirs = socket.socketpair()
        files = [theirs.detach(), *([scripts.given_away()] if scripts else [])]
        self.channel = Connection(ours.detach())
        try:
            self.output = server.begin_fork(_WORK, {"folder": working_folder()}, files, limit_s=limit_s)
            """Descriptor of what it prints outside of runs; -1 once all is read."""
        except BaseException:
            self.channel.close()
            raise
        finally:
            for descriptor in files:
                os.close(descriptor)
        self._tail = bytearray()
        # Only the driver writes the splits' file: for a million images, it would be 62 MB for every worker.
        self._send((replace(job, data=replace(job.data, arrows={})), device))

    def send(self, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Give it runs; it answers its calls in order."""
        self._send((attempts, flush))

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it has died, as `receive` will find
            self.channel.send(message)

    def read_output(self) -> None:
        """Read a part of what it printed, which is there."""
        data = os.read(self.output, _READ_BYTES)
        self._keep(data)
        if not data:
            self.output = -1

    def _keep(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-_TAIL_BYTES]

    def receive(self) -> Any:
        """Wait for its next answer.

        Raises:
            WorkerDied: it has ended.

        """
        while self.output >= 0 and self.channel.fileno() not in (found := ready([self.channel.fileno(), self.output])):
            if self.output in found:
                self.read_output()
        try:
            return self.channel.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._how_it_died()) from None

    def _how_it_died(self) -> str:
        try:
            ended = self.end()
        except ServerLost as error:
            return f"worker process died: {error}"
        if ended.why == "time":
            return "took longer than execution.run_timeout_s"
        last = next((one.strip() for one in reversed(self._tail.decode(errors="replace").splitlines()) if one), "")
        return f"worker process died: it {how_it_ended(ended.status)}{f'; its last line: {last[:200]}' if last else ''}"

    def end(self) -> Ended:
        """Let it end, and wait until all that it started is gone, too; its server can fork another one then.

        Raises:
            ServerLost: the server has ended.

        """
        self.channel.close()
        return self.server.end_fork(self._keep)

    def close(self) -> None:
        """Kill it, all that it started, and its server."""
        self.channel.close()
        self.server.close()


def working_folder() -> str:
    """Return this process's working folder; the root where it was removed, since no relative name is meant there."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"


def made_alone(job: Job, device: str, run: Run, attempt: int) -> list[Outcome]:
    """Make a run in a process of its own, which is forked for it; return its outcome.

    Raises:
        FailedApart: the process ended without one.

    """
    limit_s = job.plan.study.execution.run_timeout_s
    try:
        with fork_server() as server:
            process = WorkerProcess(server, replace(job, alone=True), device, limit_s=limit_s)
            try:
                answer = process.receive()
                if not isinstance(answer, NotOpened):
                    process.send([(run, attempt)], flush=True)
                    answer = process.receive()
                process.end()
            except WorkerDied:
                raise
            except BaseException:
                process.close()
                raise
    except (ServerLost, WorkerDied) as error:
        raise FailedApart(error=str(error)) from error
    if isinstance(answer, NotOpened):
        raise FailedApart(error=answer.cause)
    return [replace(outcome, poisoned=False, recycle=False) for outcome in answer]

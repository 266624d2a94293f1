"""A worker in a process that is forked from a server: the function that such a process executes.

    work({"folder": "/home/me"}, [channel, scripts])         # in a forked child, until the channel closes

The channel's other end sends a job and a device, then calls, `(attempts, flush)`, each of which is answered by a list
of outcomes. Values are those that Ray's actors get and give; both ends are processes of this package.

Does not cover: the channel's other end (`generation.forked`), forking (`usercode.fork_server`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ray_unlearn.errors import RayUnlearnError, StorageNotShared
from ray_unlearn.run.outcome import WorkerInfo
from ray_unlearn.run.settings import count_gpus_by_cuda
from ray_unlearn.run.worker import Worker
from ray_unlearn.usercode import fork_server

WORK = "ray_unlearn.run.forked:work"
"""Name of the function, for the server."""


@dataclass(frozen=True, slots=True)
class NotOpened:
    """Why a worker could not open its job, in plain values."""

    cause: str
    unshared: bool = False
    """Whether it does not see the driver's storage."""


def work(arguments: Mapping[str, Any], files: Sequence[int]) -> None:
    """Open the job that the channel sends, then answer its calls until it closes.

    Args:
        arguments: `folder`, the working folder of the process that wants the work, where relative names are meant.
        files: the channel; and the connection of a server for scripts, where the job has scripts.

    """
    os.chdir(arguments["folder"])
    count_gpus_by_cuda()
    if len(files) > 1:
        fork_server.adopt(os.dup(files[1]))
        os.close(files[1])
    with Connection(files[0]) as channel:
        try:
            job, device = channel.recv()
            worker = Worker(job, device)
            answer: WorkerInfo | NotOpened = opened(worker)
            channel.send(answer)
            while not isinstance(answer, NotOpened):
                attempts, flush = channel.recv()
                channel.send(worker.work(attempts, flush))
        except EOFError:  # nobody needs the worker any more
            return


def opened(worker: Worker) -> WorkerInfo | NotOpened:
    """Open a worker; return its description, or why it could not open: a driver or a device may raise anything."""
    try:
        return worker.open()
    except RayUnlearnError as error:
        return NotOpened(str(error), isinstance(error, StorageNotShared))
    except Exception as error:
        return NotOpened(f"{type(error).__name__}: {error}")

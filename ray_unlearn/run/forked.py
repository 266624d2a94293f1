"""What a worker's forked process executes.

    work({"folder": "/home/me"}, [channel, scripts])         # until the channel closes

Does not cover: the other end of the channel (`worker_process`), forking (`usercode.fork_server`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ray_unlearn.errors import RayUnlearnError, StorageNotShared
from ray_unlearn.run.outcome import WorkerInfo
from ray_unlearn.run.settings import count_gpus_by_cuda
from ray_unlearn.run.worker import Worker
from ray_unlearn.run.worker_process import NotOpened
from ray_unlearn.usercode import fork_server


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
            answer = _opened(worker)
            channel.send(answer)
            while not isinstance(answer, NotOpened):
                attempts, flush = channel.recv()
                channel.send(worker.work(attempts, flush))
        except EOFError:  # the driver closed the worker, or has ended
            return


def _opened(worker: Worker) -> WorkerInfo | NotOpened:
    """Open a worker; return its description, or why it could not open: a driver or a device may raise anything."""
    try:
        return worker.open()
    except RayUnlearnError as error:
        return NotOpened(str(error), isinstance(error, StorageNotShared))
    except Exception as error:
        return NotOpened(f"{type(error).__name__}: {error}")

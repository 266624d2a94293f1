"""Parts of an evaluation as Ray tasks: a few numbers in, a page of JSON out; each task reads the outputs it needs.

    for task, part in on_ray(tasks, jobs=8, address=None):
        ...

Does not cover: the parts (`evaluation.cache`), storing their results, which the caller does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ray_unlearn.cluster.backend import RayBackend
from ray_unlearn.errors import ClusterError, ClusterLost, RayUnlearnError
from ray_unlearn.evaluation.cache import Task
from ray_unlearn.interrupts import interrupts

_LOOK_S = 1.0
"""Seconds between checks that Ray is alive."""


def on_ray(tasks: Sequence[Task], *, jobs: int | None, address: str | None) -> Iterable[tuple[Task, str]]:
    """Compute parts on a cluster, the longest first; yield each when it is done.

    Args:
        tasks: the parts.
        jobs: maximum number of parts at once; default as many as the cluster has CPUs for.
        address: address of a Ray cluster; default RAY_ADDRESS, else a local cluster is started and stopped.

    Raises:
        ClusterError: Ray cannot be reached, or has died.
        RayUnlearnError: the error of a part.

    """
    with interrupts():
        backend = RayBackend(address=address, workers=None)
        try:
            backend.connect()
            yield from _execute(tasks, jobs or len(tasks), backend.check)
        finally:
            backend.close()


def _execute(tasks: Sequence[Task], at_once: int, check: Callable[[], None]) -> Iterable[tuple[Task, str]]:
    compute = ray.remote(num_cpus=1, max_retries=3)(Task.run)
    waiting = sorted(tasks, key=lambda task: task.expected_s)
    running: dict[Any, Task] = {}
    try:
        yield from _results(compute, waiting, running, at_once, check)
    finally:
        for reference in running:
            ray.cancel(reference)


def _results(
    compute: Any, waiting: list[Task], running: dict[Any, Task], at_once: int, check: Callable[[], None]
) -> Iterable[tuple[Task, str]]:
    while waiting or running:
        while waiting and len(running) < at_once:
            task = waiting.pop()
            running[compute.remote(task)] = task
        try:
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
            check()
            for done in ready:
                yield running.pop(done), ray.get(done)
        except RayTaskError as error:
            cause = error.cause
            raise (
                cause if isinstance(cause, RayUnlearnError) else ClusterError(f"evaluation failed: {error}")
            ) from error
        except RayError as error:
            raise ClusterLost(f"Ray is gone: {error}; parts that were scored are kept") from error

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
from ray_unlearn.cluster.nodes import Nodes
from ray_unlearn.errors import ClusterError, ClusterLost, RayUnlearnError
from ray_unlearn.evaluation.cache import Task
from ray_unlearn.interrupts import interrupts

_LOOK_S = 1.0
"""Seconds between checks that Ray is alive."""


def on_ray(tasks: Sequence[Task], *, jobs: int | None, address: str | None) -> Iterable[tuple[Task, str]]:
    """Compute parts on a cluster, the longest first; yield each when it is done.

    Args:
        tasks: the parts.
        jobs: CPUs to use; default all that are free. Where there are fewer parts, each computes several subsets of runs
            at once.
        address: address of a Ray cluster; default RAY_ADDRESS, else a local cluster is started and stopped.

    Raises:
        ClusterError: Ray cannot be reached, or has died.
        RayUnlearnError: the error of a part.

    """
    with interrupts():
        backend = RayBackend(address=address, workers=None)
        try:
            backend.connect()
            yield from _execute(tasks, jobs, backend.check)
        finally:
            backend.close()


def _execute(tasks: Sequence[Task], jobs: int | None, check: Callable[[], None]) -> Iterable[tuple[Task, str]]:
    nodes = Nodes()
    nodes.look()
    threads = threads_of_a_part(len(tasks), jobs, [free.get("CPU", 0) for free in nodes.free])
    compute, at_once = ray.remote(num_cpus=threads, max_retries=3)(Task.run), jobs // threads if jobs else len(tasks)
    waiting = sorted(tasks, key=lambda task: task.expected_s)
    running: dict[Any, Task] = {}
    try:
        yield from _results(compute, waiting, running, (at_once, threads), check)
    finally:
        for reference in running:
            ray.cancel(reference)


def threads_of_a_part(parts: int, jobs: int | None, free_by_node: Sequence[float]) -> int:
    """Return how many CPUs a part takes: its share where more are free than parts, and no more than on any node.

    A part that asked for CPUs which a study's workers hold would wait until all their runs are made.
    """
    smallest = min([cpus for cpus in free_by_node if cpus >= 1], default=1.0)
    return max(1, int(min(smallest, (jobs or sum(free_by_node)) // parts)))


def _results(
    compute: Any, waiting: list[Task], running: dict[Any, Task], limits: tuple[int, int], check: Callable[[], None]
) -> Iterable[tuple[Task, str]]:
    at_once, threads = limits
    while waiting or running:
        while waiting and len(running) < at_once:
            task = waiting.pop()
            running[compute.remote(task, threads)] = task
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

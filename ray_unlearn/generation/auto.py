"""The `auto` backend: forked processes of this machine where they are enough, else Ray.

    backend = AutoBackend(None, open_ray)
    place = backend.chosen(job, work)            # a backend for the runs to make
    place.why                                    # why it was chosen, for the line with which runs begin

Ray takes part where a cluster is named or this process is connected to one, where runs are on a GPU, where a large
source is to be decoded, and where the runs left take so long that its start is a small part of the time. Where no run
of the study tells how long it takes, the first ones do, in forked processes (`moving`).

Does not cover: the two places themselves (`forked`, `cluster.backend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray_unlearn.data.decode import DecodedSlice, DecodeJob
from ray_unlearn.data.prepare import in_place, is_large
from ray_unlearn.data.rows import Slice
from ray_unlearn.errors import ClusterError, RayUnlearnError
from ray_unlearn.generation.cores import cores
from ray_unlearn.generation.forked import ForkedBackend
from ray_unlearn.generation.inline import inline_device
from ray_unlearn.generation.moving import Earlier, LateSink, Left, MovingPool, Polled
from ray_unlearn.run.job import Job
from ray_unlearn.schedule.events import Sink
from ray_unlearn.schedule.pool import Pool
from ray_unlearn.study.schema import Execution, Study
from ray_unlearn.terminal import print_error
from ray_unlearn.usercode.fork_server import start
from ray_unlearn.wording import duration

if TYPE_CHECKING:
    from ray_unlearn.cluster.backend import RayBackend
    from ray_unlearn.generation.records import Work

RAY_START_S = 20.0
"""Seconds that Ray and its workers take to start on a machine of two cores: Ray 4 s, two imports of torch 14 s."""
MOST_S = 15 * RAY_START_S
"""Seconds of work left up to which runs stay in forked processes: Ray's start would be more than 6 % of the time."""


def ray_is_needed(execution: Execution) -> str:
    """Return why a study's runs cannot be in forked processes of this machine; empty if they can."""
    if inline_device(execution) != "cpu":
        return f"runs are on {inline_device(execution)}"
    if execution.cpus_per_worker > (cpus := cores()):
        return f"this machine has {cpus} CPUs, and execution.cpus_per_worker is {execution.cpus_per_worker}"
    return ""


def workers_here(execution: Execution, workers: int | None) -> int:
    """Return how many workers are asked for, at most as many as this machine has cores for."""
    fit = max(1, cores() // execution.cpus_per_worker)
    return min(workers or (execution.workers if isinstance(execution.workers, int) else fit), fit)


class AutoBackend:
    """Backend that names another one once the runs to make are known."""

    def __init__(
        self, workers: int | None, open_ray: Callable[[], RayBackend], log: Callable[[str], None] = print_error
    ) -> None:
        self._workers, self._open_ray, self._log = workers, open_ray, log
        self._here: ForkedBackend | None = None
        self._ray: RayBackend | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Let the server that forks workers import what they need while the block is executed."""
        start()
        yield

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode a large source on Ray, a small one here."""
        ray = self._on_ray("it decoded the images") if is_large(slices) else None
        return in_place(slices, job) if ray is None else ray.decode_all(slices, job)

    def chosen(self, job: Job, work: Work) -> RayBackend | ForkedBackend:
        """Return the backend for the runs to make.

        Raises:
            ClusterError: the runs need Ray, which is not installed.

        """
        execution = job.plan.study.execution
        count, left = workers_here(execution, self._workers), Left(work.pending, work.seconds())
        if needed := ray_is_needed(execution):
            self._ray = self._ray or self._open_ray()
            return self._with(self._ray, needed)
        if self._ray is not None:
            return self._ray
        expected_s = left.seconds(count)
        if expected_s is not None and expected_s > MOST_S and (ray := self._on_ray(_long(expected_s))):
            return ray
        self._here = _Moving(count, left, expected_s, self._on_ray, self._log)
        return self._here

    def _on_ray(self, reason: str) -> RayBackend | None:
        """Return a backend on Ray; None where Ray is not installed."""
        try:
            self._ray = self._ray or self._open_ray()
        except ClusterError:
            return None
        return self._with(self._ray, reason)

    @staticmethod
    def _with(ray: RayBackend, reason: str) -> RayBackend:
        ray.why = f"on Ray, because {reason}"
        return ray

    def close(self) -> None:
        """Close both places, where they were opened."""
        for place in (self._here, self._ray):
            if place is not None:
                place.close()


def _long(expected_s: float) -> str:
    return f"about {duration(expected_s)} of work are left"


class _Moving(ForkedBackend):
    """Forked workers, which go over to Ray where the first runs show that much work is left."""

    def __init__(
        self,
        workers: int,
        left: Left,
        expected_s: float | None,
        on_ray: Callable[[str], RayBackend | None],
        log: Callable[[str], None],
    ) -> None:
        super().__init__(workers)
        self._left, self._on_ray, self._log, self._stays = left, on_ray, log, False
        self._moved_to: RayBackend | None = None
        known = "the first run shows how much work it is" if expected_s is None else _long(expected_s)
        self.why = f"without Ray, because {known}"

    def pool(self, job: Job) -> Pool:
        """Return a pool that begins here."""

        def begin(expected_s: float) -> Callable[[], Polled | None]:
            ray = self._on_ray(_long(expected_s))
            if ray is None:
                self._stays = True
                return lambda: None
            self._log(f"going over to Ray: {_long(expected_s)}; runs go on here while it starts")
            ray.begin()
            return lambda: self._there(ray, job)

        return MovingPool(self._forked(job), self._left, begin=begin, most_s=MOST_S)

    def sinks(self, study: Study) -> Sequence[Sink]:
        """Return a sink for Ray's monitoring system, which gets all events once Ray is there."""

        def opened(earlier: Earlier) -> Sequence[Sink] | None:
            if self._moved_to is None:
                return () if self._stays else None
            return self._moved_to.sinks(study, earlier)

        return [LateSink(opened)]

    def _there(self, ray: RayBackend, job: Job) -> Polled | None:
        if self._stays or not ray.has_begun:
            return None
        try:
            pool, self._moved_to = ray.pool(job), ray
            return pool
        except RayUnlearnError as error:
            self._log(f"runs stay on this machine: {error}")
            self._stays = True
            return None

"""A pool of forked workers that goes over to Ray, once the first runs show that the work left takes long.

    left = Left(pending, {"finetune": 1.5})      # mean seconds of made runs
    pool = MovingPool(here, left, begin=begin, most_s=300.0)

Forked workers go on while Ray starts. With Ray's first ready worker they leave, as workers of a node that is removed
do: they finish the runs that they have.

Does not cover: the rule by which a place is chosen (`auto`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ray_unlearn.run.outcome import Attempt
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Pool, Ready, Report
from ray_unlearn.study.plan import Run


class Left:
    """Seconds of work left, estimated from runs that were made."""

    def __init__(self, pending: Iterable[Run], seconds: Mapping[str, float]) -> None:
        """Begin with the runs to make, and the mean seconds of a run that is made, by population."""
        self._pending = Counter(run.population for run in pending)
        self._known = {name: (each, 1) for name, each in seconds.items()}

    def note(self, run: Run, seconds: float) -> None:
        """Note a run that was made now."""
        mean, count = self._known.get(run.population, (0.0, 0))
        self._known[run.population] = (mean * count + seconds) / (count + 1), count + 1
        self._pending[run.population] -= 1

    def seconds(self, workers: int) -> float | None:
        """Return the seconds that so many workers need; None where no run of the study is made yet.

        Runs of a population without a made one count as those of the slowest population.
        """
        if not self._known:
            return None
        slowest = max(mean for mean, _ in self._known.values())
        work = [max(0, n) * self._known.get(name, (slowest, 0))[0] for name, n in self._pending.items()]
        return sum(work) / workers


class MovingPool:
    """Two pools, the second of which replaces the first; workers of both have numbers of this one."""

    def __init__(
        self, here: Pool, left: Left, *, begin: Callable[[float], Callable[[], Pool | None]], most_s: float
    ) -> None:
        """Begin with the first pool.

        Args:
            here: the first pool.
            left: the work left.
            begin: begins to start the other place, given the expected seconds; what it returns gives the pool of that
                place once it has started, else None.
            most_s: expected seconds above which the other place is better.

        """
        self._here, self._left, self._begin, self._most_s = here, left, begin, most_s
        self._there: Callable[[], Pool | None] | None = None
        """Gives the second pool, which may not be there yet; None until it is needed."""
        self._next: Pool | None = None
        self._is_over = False
        """Whether the second pool has a ready worker, so that the first gets no more runs."""
        self._workers: dict[int, tuple[Pool, int]] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._started = 0

    @property
    def device(self) -> str:
        """The kind of device, of both pools."""
        return self._here.device

    def describe(self) -> str:
        """Describe the pool that begins."""
        return self._here.describe()

    def capacity(self) -> int:
        """Return the number of workers of both pools, until the first one's have left."""
        if self._next is None:
            return self._here.capacity()
        return self._next.capacity() + (0 if self._is_over else self._here.capacity())

    def start(self) -> int:
        """Begin to start a worker, of the second pool once there is one."""
        pool = self._next or self._here
        worker = pool.start()
        self._started += 1
        self._workers[self._started] = pool, worker
        self._numbers[id(pool), worker] = self._started
        return self._started

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Give a worker runs."""
        pool, number = self._workers[worker]
        pool.submit(number, attempts, flush=flush)

    def wait(self) -> list[Report]:
        """Return the reports of all workers; go over to the other pool where it is time."""
        self._move_on()
        reports = self._reports(self._here) if self._is_any_here() or self._next is None else []
        reports += self._reports(self._next) if self._next is not None else []
        for report in reports:
            if isinstance(report, Finished):
                for outcome in report.outcomes:
                    if not outcome.error:
                        self._left.note(outcome.run, outcome.seconds)
        return reports

    def _reports(self, pool: Pool) -> list[Report]:
        found: list[Report] = []
        for report in pool.wait():
            found.append(replace(report, worker=self._numbers[id(pool), report.worker]))
            if isinstance(report, Lost):  # nobody stops it: without this, the first pool would be waited for, empty
                self._workers.pop(found[-1].worker, None)
            if isinstance(report, Ready) and pool is self._next and not self._is_over:
                self._is_over = True
                found += [Leaving(worker) for worker, (owner, _) in self._workers.items() if owner is self._here]
        return found

    def _is_any_here(self) -> bool:
        return any(owner is self._here for owner, _ in self._workers.values())

    def _move_on(self) -> None:
        """Begin to start the other place where much work is left; open its pool once it has started."""
        expected_s = self._left.seconds(self._here.capacity())
        if self._there is None and expected_s is not None and expected_s > self._most_s:
            self._there = self._begin(expected_s)
        if self._next is None and self._there is not None:
            self._next = self._there()

    def stop(self, worker: int) -> None:
        """End a worker."""
        pool, number = self._workers.pop(worker)
        pool.stop(number)

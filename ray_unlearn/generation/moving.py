"""A pool of forked workers that goes over to Ray, once the first runs show that the work left takes long.

    left = Left(pending, {"finetune": 1.5})      # mean seconds of made runs
    pool = MovingPool(here, left, begin=begin, most_s=300.0)

Forked workers go on while Ray starts. With Ray's first ready worker they leave, as workers of a node that is removed
do: they finish the runs that they have.

A sink that is there only in the second place gets all events once it is (`LateSink`).

Does not cover: the rule by which a place is chosen (`auto`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ray_unlearn.run.outcome import Attempt
from ray_unlearn.schedule.events import Event, Sink
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Pool, Ready, Report
from ray_unlearn.study.plan import Run

_TURN_S = 0.05
"""Seconds for which one of two pools is waited for, before the other is looked at."""
_TURNS = 10


class Polled(Pool, Protocol):
    """A pool that can be waited for as long as the caller says."""

    def wait(self, most_s: float = 1.0) -> list[Report]:
        """Return reports as soon as there are any; an empty list after `most_s` seconds."""
        ...


Earlier = Sequence[tuple[float, Event]]
"""Events, each with the time when it happened, in seconds of `time.monotonic`."""


class LateSink:
    """A sink that keeps events until those that they are for are there."""

    def __init__(self, open_sinks: Callable[[Earlier], Sequence[Sink] | None]) -> None:
        """Take the function that opens the sinks and gives them earlier events; it returns None until it can."""
        self._open = open_sinks
        self._earlier: list[tuple[float, Event]] = []
        self._sinks: Sequence[Sink] | None = None

    def __call__(self, event: Event) -> None:
        """Give an event to the sinks, or keep it."""
        if self._sinks is None:
            self._earlier.append((time.monotonic(), event))
            self._sinks = self._open(self._earlier)
            return
        self._earlier.clear()
        for sink in self._sinks:
            sink(event)


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
        self, here: Polled, left: Left, *, begin: Callable[[float], Callable[[], Polled | None]], most_s: float
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
        self._there: Callable[[], Polled | None] | None = None
        """Gives the second pool, which may not be there yet; None until it is needed."""
        self._next: Polled | None = None
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
        reports = self._of_both()
        for report in reports:
            if isinstance(report, Finished):
                for outcome in report.outcomes:
                    if not outcome.error:
                        self._left.note(outcome.run, outcome.seconds)
        return reports

    def _of_both(self) -> list[Report]:
        """Return reports of the pools that have workers; two are looked at in turns."""
        if self._next is None:
            return self._reports(self._here, 1.0 if self._there is None else _TURNS * _TURN_S)
        if not self._is_any_here():
            return self._reports(self._next, 1.0)
        for _ in range(_TURNS):
            if found := [*self._reports(self._here, _TURN_S), *self._reports(self._next, _TURN_S)]:
                return found
        return []

    def _reports(self, pool: Polled, most_s: float) -> list[Report]:
        found: list[Report] = []
        for report in pool.wait(most_s):
            found.append(replace(report, worker=self._numbers[id(pool), report.worker]))
            if isinstance(report, Lost):  # without this, the first pool would be waited for, empty
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

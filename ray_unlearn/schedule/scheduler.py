"""The scheduler: pending runs and a pool of workers -> an iterator of events. Without Ray, clock and storage.

    for event in schedule(plan, pool, pending=pending, made=made, max_attempts=2):
        ...                                      # Started, Ready, Made, Retried, Failed, Lost, Leaving, Stopped, ...

Runs are given out in the order of `pending`, each once the original that it starts from is made. A worker holds several
runs: those of its calls, and one that it publishes while it works on the next. Workers that die are replaced, and all
their runs go back to the front of the queue. A run that fails by its own fault is tried `max_attempts` times; a run
whose worker dies `max_attempts + 1` times is given up, too, because it may be what kills them. Where several runs may
have killed a worker, each is tried alone from then on, and only those deaths count. No run is blamed for a death where
the node was removed (by a spot market, or a drain). A run that its dead worker had published but not reported is made.
A population ends early where a script's runs are all the same (`sameness`), or all fail alike (`equal_failures`).

Does not cover: publishing (workers do), handling events (sinks), signals (`interrupts`).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ray_unlearn.errors import ClusterError, StorageNotShared, StoreUnwritable
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.schedule.batching import AHEAD_S, Batching
from ray_unlearn.schedule.equal_failures import EqualFailures
from ray_unlearn.schedule.events import Ended, Equal, Event, Failed, Made, Retried, Started, Stopped
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Pool, Ready, Report
from ray_unlearn.schedule.sameness import Sameness
from ray_unlearn.study.plan import Plan, Run

_STARTS_GIVEN_UP = 3  # workers in a row that could not open: the next would not either
_DEATHS_GIVEN_UP = 10  # workers in a row that died before they were ready: machines may be removed, as on a spot market
_NODES_GIVEN_UP = 20  # nodes that were lost with the same run: more than any spot market removes, so the run ends them


def schedule(
    plan: Plan,
    pool: Pool,
    *,
    pending: Iterable[Run],
    made: Collection[Run],
    max_attempts: int,
    published: Callable[[Run], Outcome | None] = lambda run: None,
    held: Mapping[Run, str] | None = None,
    fail_fast: bool = False,
) -> Iterator[Event]:
    """Make every pending run that can be made; yield events as they happen.

    Args:
        plan: the plan of the runs.
        pool: workers that execute the runs.
        pending: the runs to make, in the order in which they are handed out.
        made: runs that are already made; runs that start from them are ready.
        max_attempts: number of attempts at a run that fails.
        published: returns the outcome of a run whose worker died after it published the run and before it reported it;
            None if the run is not published.
        held: sha256 of the outputs of each run that is already made, with which new runs are compared.
        fail_fast: whether a population ends at its third run that fails in the same way, if none of its runs is made.

    Raises:
        ClusterError: several workers in a row could not open, and none is working.
        StorageNotShared: a worker does not see the storage, and no run is made yet.
        StoreUnwritable: the storage accepts no run: it is full, read-only, or another user's.

    """
    failures = EqualFailures(enabled=fail_fast, made=made)
    return _Scheduler(plan, pool, pending, made, max_attempts, published, Sameness(plan, held or {}), failures).events()


@dataclass(slots=True)
class InFlight:
    """A ready worker's unfinished runs."""

    calls: deque[list[Run]] = field(default_factory=deque)
    """Runs of each call that is not answered yet; the worker executes the first call."""
    publishing: list[Run] = field(default_factory=list)
    """Runs of answered calls that the worker is still publishing."""

    @property
    def runs(self) -> list[Run]:
        """All unfinished runs, oldest first."""
        return [*self.publishing, *(run for call in self.calls for run in call)]

    @property
    def touched(self) -> list[Run]:
        """Runs that the worker may be executing now: those that it publishes, and those of its first call."""
        return [*self.publishing, *(self.calls[0] if self.calls else ())]

    @property
    def is_idle(self) -> bool:
        """Whether the worker has neither a call nor a publication in flight."""
        return not self.calls and not self.publishing

    def __len__(self) -> int:
        """Return the number of unfinished runs."""
        return len(self.publishing) + sum(map(len, self.calls))

    def answered(self, outcomes: Iterable[Outcome]) -> None:
        """Record the answer to the oldest call."""
        reported = {outcome.run for outcome in outcomes}
        self.publishing = [run for run in (*self.publishing, *self.calls.popleft()) if run not in reported]


class _Scheduler:
    """One pass over the pending runs."""

    def __init__(
        self,
        plan: Plan,
        pool: Pool,
        pending: Iterable[Run],
        made: Collection[Run],
        max_attempts: int,
        published: Callable[[Run], Outcome | None],
        sameness: Sameness,
        failures: EqualFailures,
    ) -> None:
        self._pool, self._max_attempts, self._published = pool, max_attempts, published
        self._sameness, self._failures = sameness, failures
        self._ended: set[str] = set()
        """Populations that ended before their last run: runs of theirs that fail now are not tried again."""
        self._happened: list[Event] = []
        """Events that are not yielded yet."""
        self._queue: deque[Run] = deque()
        self._blocked: dict[Run, list[Run]] = {}
        """Each original that is not made yet -> the runs that start from it."""
        self._starting: set[int] = set()
        self._in_flight: dict[int, InFlight] = {}
        """Ready worker -> its unfinished runs; the longest serving worker first."""
        self._leaving: set[int] = set()
        """Workers whose nodes are being removed: they finish the runs that they have."""
        self._available: dict[int, None] = {}
        """Workers that can take another call, in the order in which they became available; only these get runs."""
        self._held = 0
        """Number of runs in flight, of all workers."""
        self._wanted = 0
        self._batching = Batching(plan.pack_of)
        self._attempts: Counter[Run] = Counter()
        self._deaths: Counter[Run] = Counter()
        self._vanished: Counter[Run] = Counter()
        self._alone: set[Run] = set()
        self._failed_starts = 0
        self._nothing_made = True
        self._place = {run: place for place, run in enumerate(pending)}
        for run in self._place:
            start = plan.start_of(run)
            waits = start is not None and start not in made
            (self._blocked.setdefault(start, []) if waits and start else self._queue).append(run)
        for population, why in sameness.ended.items():
            self._end(population, why)

    def events(self) -> Iterator[Event]:
        """Yield events until no run is left that can be made."""
        yield from self._take()
        while self._queue or self._held:
            self._resize()
            self._dispatch()
            yield from self._take()
            for report in self._pool.wait():
                try:
                    self._handle(report)
                finally:  # events from before an error are yielded before it is raised
                    yield from self._take()
        for worker in (*self._in_flight, *self._starting):
            self._stop(worker)
        yield from self._take()

    def _take(self) -> list[Event]:
        events, self._happened = self._happened, []
        return events

    def _stop(self, worker: int) -> None:
        self._pool.stop(worker)
        self._happened.append(Stopped(worker))

    def _resize(self) -> None:
        """Start workers up to the capacity and the number of runs; stop surplus ones, if idle or still starting."""
        capacity, staying = self._pool.capacity(), len(self._in_flight) - len(self._leaving)
        # Runs that a worker holds need no other worker: neither the rest of its call, nor the run that it publishes.
        idle = sum(worker not in self._leaving and self._in_flight[worker].is_idle for worker in self._available)
        outstanding = len(self._queue) + staying - idle + sum(map(len, self._blocked.values()))
        surplus = staying + len(self._starting) - min(capacity, outstanding)
        for worker in sorted(self._starting, reverse=True)[: max(0, surplus)]:  # an autoscaler counts them as demand
            self._starting.discard(worker)
            self._stop(worker)
        # Where starts keep failing, one worker is started at a time, not all in a tight loop: the cause may pass.
        capacity = min(capacity, max(capacity - self._failed_starts, staying + 1))
        self._wanted = min(capacity, outstanding)
        for _ in range(self._wanted - staying - len(self._starting)):
            self._starting.add(self._pool.start())
        self._let_go(self._leaving, len(self._leaving))
        self._let_go(sorted(self._available, reverse=True), staying - self._wanted)

    def _let_go(self, workers: Iterable[int], at_most: int) -> None:
        """Stop at most so many idle ones of these workers."""
        for worker in [w for w in workers if self._in_flight[w].is_idle][: max(0, at_most)]:
            self._drop(worker)
            self._stop(worker)

    def _drop(self, worker: int) -> InFlight:
        held = self._in_flight.pop(worker)
        self._leaving.discard(worker)
        self._available.pop(worker, None)
        self._held -= len(held)
        return held

    def _dispatch(self) -> None:
        """Give each worker a call, and a second one if it is soon done; ask idle ones for runs they still publish."""
        fed = self._fed()
        for depth in (0, 1):
            for worker in fed:
                held = self._in_flight[worker]
                if self._queue and len(held.calls) == depth and self._is_soon_done(held):
                    self._give(worker, held)
        for worker in list(self._available):
            held = self._in_flight[worker]
            if held.publishing and not held.calls:
                self._submit(worker, [], flush=True)
            if len(held.calls) > 1 or not self._is_soon_done(held):
                del self._available[worker]

    def _fed(self) -> list[int]:
        """Return the workers that may get runs: neither those that leave, nor surplus ones."""
        staying = [worker for worker in self._available if worker not in self._leaving]
        if len(self._in_flight) - len(self._leaving) <= self._wanted:
            return staying
        kept = set([worker for worker in self._in_flight if worker not in self._leaving][: self._wanted])
        return [worker for worker in staying if worker in kept]

    def _is_soon_done(self, held: InFlight) -> bool:
        return self._batching.expected_s(run for call in held.calls for run in call) < AHEAD_S

    def _give(self, worker: int, held: InFlight) -> None:
        if self._queue[0] in self._alone and len(held):
            return  # the worker gets the next runs when these are done
        share = math.ceil(len(self._queue) / (2 * self._wanted))  # near the end, no worker holds many runs
        share = 1 if self._sameness.is_open(self._queue[0]) else share
        runs = self._batching.take(self._queue, at_most=share, alone=self._alone)
        awaited = any(run in self._blocked or run in self._alone for run in runs)
        self._submit(worker, runs, flush=awaited or not self._queue)

    def _submit(self, worker: int, runs: list[Run], *, flush: bool) -> None:
        self._in_flight[worker].calls.append(runs)
        self._held += len(runs)
        attempts = [(run, self._attempts[run] + 1) for run in runs]
        self._pool.submit(worker, attempts, flush=flush)
        if attempts:
            self._happened.append(Started(worker, attempts))

    def _handle(self, report: Report) -> None:
        if isinstance(report, Finished):
            if report.worker in self._in_flight:  # else it was stopped meanwhile, and its runs are in the queue again
                self._answered(report)
        elif isinstance(report, Ready):
            if report.worker in self._starting:  # else the same reports named its node as leaving
                self._ready(report)
        elif isinstance(report, Lost):
            self._lost(report)
        else:
            self._leaves(report)

    def _ready(self, report: Ready) -> None:
        self._starting.discard(report.worker)
        self._in_flight[report.worker] = InFlight()
        self._available[report.worker] = None
        self._failed_starts = 0
        self._happened.append(report)

    def _answered(self, report: Finished) -> None:
        worker, held = report.worker, self._in_flight[report.worker]
        self._available[worker] = None
        self._held -= len(held)
        held.answered(report.outcomes)
        self._held += len(held)
        goes = any(outcome.poisoned or outcome.recycle for outcome in report.outcomes)
        if goes:
            self._pool.stop(worker)
            self._queue.extendleft(reversed(self._drop(worker).runs))
        for outcome in sorted(report.outcomes, key=lambda outcome: outcome.unwritable):  # made runs count first
            self._finished(outcome, worker)
        if goes:
            self._happened.append(Stopped(worker))

    def _finished(self, outcome: Outcome, worker: int | None) -> None:
        run = outcome.run
        if outcome.unwritable:  # no other run could be published either: each would be trained for nothing
            raise StoreUnwritable(f"{outcome.error}; what was made is kept")
        self._attempts[run] += 1
        attempt = self._attempts[run]
        if not outcome.error:
            del self._attempts[run]
            self._batching.note(outcome)
            self._failures.made(run)
            self._nothing_made = False
            self._unblock(self._blocked.pop(run, []))
            self._happened.append(Made(outcome, attempt, worker))
            self._compare(outcome)
        elif outcome.final or attempt >= self._max_attempts or run.population in self._ended:
            self._happened.append(Failed(outcome, attempt, worker))
            if why := self._failures.noted(outcome):
                self._end(run.population, why)
        else:
            (self._queue.appendleft if self._failures.is_tried_at_once(outcome) else self._queue.append)(run)
            self._happened.append(Retried(outcome, attempt, worker, attempt + 1))

    def _compare(self, outcome: Outcome) -> None:
        """Say where a run is equal to others; end a population whose runs are all the same."""
        same = self._sameness.noted(outcome)
        if same is not None:
            self._happened.append(Equal(same))
            if same.ends:
                self._end(outcome.run.population, str(same))

    def _end(self, population: str, why: str) -> None:
        """Give out no more runs of a population; those that workers have are made."""
        self._ended.add(population)
        waiting = [run for runs in (self._queue, *self._blocked.values()) for run in runs]
        left = [run for run in waiting if run.population == population]
        self._queue = deque(run for run in self._queue if run.population != population)
        for start, runs in self._blocked.items():
            self._blocked[start] = [run for run in runs if run.population != population]
        if left:
            self._happened.append(Ended(population, left, why))

    def _leaves(self, report: Leaving) -> None:
        """Give a worker no more runs, because its node is being removed; stop it if it is only starting."""
        worker = report.worker
        if worker in self._in_flight:
            self._happened.append(report)
            self._leaving.add(worker)
        elif worker in self._starting:
            self._happened.append(report)
            self._starting.discard(worker)
            self._stop(worker)

    def _unblock(self, runs: list[Run]) -> None:
        """Insert runs into the queue in the order of the pending runs."""
        if runs:
            self._queue = deque(heapq.merge(self._queue, runs, key=self._place.__getitem__))

    def _lost(self, report: Lost) -> None:
        if report.worker in self._starting:
            self._happened.append(report)
            self._starting.discard(report.worker)
            if not report.preempted:
                self._failed_to_start(report)
        elif report.worker in self._in_flight:
            self._happened.append(report)
            held = self._drop(report.worker)
            published = [outcome for run in held.touched if (outcome := self._published(run))]
            made = {outcome.run for outcome in published}
            self._queue.extendleft(reversed([run for run in held.runs if run not in made]))
            self._blame([run for run in held.touched if run not in made], report)
            for outcome in published:
                self._finished(outcome, None)

    def _failed_to_start(self, report: Lost) -> None:
        self._failed_starts += 1
        if report.unshared and self._nothing_made:  # later, it is a single bad machine that joined: others go on
            raise StorageNotShared(report.cause)
        limit = _DEATHS_GIVEN_UP if report.died else _STARTS_GIVEN_UP
        if self._failed_starts >= limit and not self._in_flight and not self._starting:
            raise ClusterError(f"{self._failed_starts} workers in a row could not start: {report.cause}")

    def _blame(self, runs: list[Run], report: Lost) -> None:
        """Decide which of the requeued runs is to blame: count the loss, try it alone, or give it up."""
        if report.overdue_s and len(runs) == 1:
            self._queue.remove(runs[0])
            self._finished(Outcome(run=runs[0], seconds=report.overdue_s, error=report.cause), None)
        elif len(runs) > 1:  # several runs may be to blame: each is tried alone
            self._vanished.update(runs if report.preempted else ())
            self._alone.update(r for r in runs if not report.preempted or self._vanished[r] >= _NODES_GIVEN_UP)
            self._again(runs[-1], f"{report.cause} ({len(runs) - 1} more with it)")
        elif runs and report.preempted:
            self._count(runs[0], self._vanished, _NODES_GIVEN_UP, "its node was lost", report.cause)
        elif runs:
            self._count(runs[0], self._deaths, self._max_attempts, "its worker died", report.cause)

    def _count(self, run: Run, deaths: Counter[Run], borne: int, what: str, cause: str) -> None:
        deaths[run] += 1
        if deaths[run] <= borne:
            self._again(run, cause)
            return
        self._queue.remove(run)
        error = f"{what} {deaths[run]} times: {cause}"
        self._happened.append(Failed(Outcome(run=run, seconds=0.0, error=error), deaths[run], None))

    def _again(self, run: Run, cause: str) -> None:
        attempt = self._attempts[run] + 1
        self._happened.append(Retried(Outcome(run=run, seconds=0.0, error=cause), attempt, None, attempt))

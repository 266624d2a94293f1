"""The scheduler: pending runs and a pool of workers -> outcomes. No Ray, no clock, no storage; tests use fakes.

    tally = Scheduler(plan, pool, pending=pending, made=made, max_attempts=2, hooks=hooks).run()

A run is ready when the original that it starts from is made. Workers that die are replaced and their run goes back to
the front of the queue; a run that fails by its own fault is tried `max_attempts` times; a run whose worker dies
`max_attempts + 1` times is given up, too, because it may be what kills them.

Does not cover: publishing (workers do), signals (`interrupts`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from ray_unlearn.driver.pool import Finished, Lost, Pool, Ready
from ray_unlearn.errors import ClusterError
from ray_unlearn.study.plan import Plan, Run
from ray_unlearn.worker import Outcome, WorkerInfo

_STARTS_GIVEN_UP = 3  # workers in a row that could not open: the next would not either


def _nothing(*_: object) -> None:
    """Ignore what happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Called as things happen."""

    made: Callable[[Outcome], None] = _nothing
    failed: Callable[[Outcome, int], None] = _nothing
    """A run is given up after this many attempts."""
    retried: Callable[[Run, str], None] = _nothing
    ready: Callable[[WorkerInfo], None] = _nothing


@dataclass(slots=True)
class Tally:
    """What became of the pending runs."""

    made: list[Run] = field(default_factory=list)
    failed: dict[Run, str] = field(default_factory=dict)
    blocked: list[Run] = field(default_factory=list)
    """Runs whose original could not be made."""


class Scheduler:
    """One pass over the pending runs."""

    def __init__(
        self,
        plan: Plan,
        pool: Pool,
        *,
        pending: Iterable[Run],
        made: Collection[Run],
        max_attempts: int,
        hooks: Hooks | None = None,
    ) -> None:
        self._plan, self._pool, self._max_attempts = plan, pool, max_attempts
        self._hooks = hooks or Hooks()
        self._queue: deque[Run] = deque()
        self._blocked: dict[Run, list[Run]] = {}
        self._idle: list[int] = []
        self._starting: set[int] = set()
        self._busy: dict[int, Run] = {}
        self._attempts: Counter[Run] = Counter()
        self._deaths: Counter[Run] = Counter()
        self._failed_starts = 0
        self.tally = Tally()
        for run in pending:
            start = plan.start_of(run)
            waits = start is not None and start not in made
            (self._blocked.setdefault(start, []) if waits and start else self._queue).append(run)

    def run(self) -> Tally:
        """Work until nothing is left that can be made.

        Raises:
            ClusterError: several workers in a row could not open, and none is working.

        """
        while self._queue or self._busy:
            self._resize()
            self._dispatch()
            for event in self._pool.wait():
                self._handle(event)
        for worker in (*self._idle, *self._starting):
            self._pool.stop(worker)
        self.tally.blocked += sorted(run for runs in self._blocked.values() for run in runs)
        return self.tally

    def _resize(self) -> None:
        """Grow to what there is room and work for; let surplus idle workers go."""
        outstanding = len(self._queue) + len(self._busy) + sum(map(len, self._blocked.values()))
        room, working = self._pool.capacity(), len(self._busy) + len(self._idle)
        if working:  # a node where nothing can start must not be tried in a tight loop
            room = min(room, max(room - self._failed_starts, working))
        wanted = min(room, outstanding)
        workers = len(self._idle) + len(self._starting) + len(self._busy)
        for _ in range(wanted - workers):
            self._starting.add(self._pool.start())
        while self._idle and len(self._idle) + len(self._starting) + len(self._busy) > wanted:
            self._pool.stop(self._idle.pop())

    def _dispatch(self) -> None:
        while self._idle and self._queue:
            worker, run = self._idle.pop(), self._queue.popleft()
            self._busy[worker] = run
            self._pool.submit(worker, run, self._attempts[run] + 1)

    def _handle(self, event: Ready | Finished | Lost) -> None:
        if isinstance(event, Ready):
            self._starting.discard(event.worker)
            self._idle.append(event.worker)
            self._failed_starts = 0
            self._hooks.ready(event.info)
        elif isinstance(event, Finished):
            del self._busy[event.worker]
            if event.outcome.poisoned or event.outcome.recycle:
                self._pool.stop(event.worker)
            else:
                self._idle.append(event.worker)
            self._finished(event.outcome)
        else:
            self._lost(event)

    def _finished(self, outcome: Outcome) -> None:
        run = outcome.run
        self._attempts[run] += 1
        if not outcome.error:
            self.tally.made.append(run)
            self._queue.extend(self._blocked.pop(run, []))
            self._hooks.made(outcome)
        elif outcome.final or self._attempts[run] >= self._max_attempts:
            self._give_up(outcome, self._attempts[run])
        else:
            self._queue.append(run)
            self._hooks.retried(run, outcome.error)

    def _lost(self, event: Lost) -> None:
        if event.worker in self._starting:
            self._starting.discard(event.worker)
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_GIVEN_UP and not (self._busy or self._idle):
                raise ClusterError(f"{self._failed_starts} workers in a row could not start: {event.cause}")
            return
        run = self._busy.pop(event.worker, None)
        if run is None:
            self._idle.remove(event.worker)
            return
        self._deaths[run] += 1
        if self._deaths[run] > self._max_attempts:
            error = f"its worker died {self._deaths[run]} times: {event.cause}"
            self._give_up(Outcome(run=run, seconds=0.0, error=error), self._deaths[run])
        else:
            self._queue.appendleft(run)
            self._hooks.retried(run, event.cause)

    def _give_up(self, outcome: Outcome, attempts: int) -> None:
        self.tally.failed[outcome.run] = outcome.error
        self._hooks.failed(outcome, attempts)

"""The scheduler: pending runs and a pool of workers -> outcomes. No Ray, no clock, no storage; tests use fakes.

    tally = Scheduler(plan, pool, pending=pending, made=made, max_attempts=2, hooks=hooks).run()

Runs are given out in the order of `pending`, each once the original that it starts from is made. A worker holds several
runs: those of its calls, and one that it publishes beside them. Workers that die are replaced and all their runs go
back to the front of the queue. A run that fails by its own fault is tried `max_attempts` times; a run whose worker dies
`max_attempts + 1` times is given up, too, because it may be what kills them. Where several may have been it, each is
tried alone from then on, and only those deaths count.

Does not cover: publishing (workers do), signals (`interrupts`).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from ray_unlearn.driver.pace import AHEAD_S, Pace
from ray_unlearn.driver.pool import Finished, Lost, Pool, Ready
from ray_unlearn.errors import ClusterError, StorageNotShared
from ray_unlearn.outcome import Outcome, WorkerInfo
from ray_unlearn.study.plan import Plan, Run

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
    unready: Callable[[str], None] = _nothing
    """A worker could not open, and why."""


@dataclass(slots=True)
class Tally:
    """What became of the pending runs."""

    made: list[Run] = field(default_factory=list)
    failed: dict[Run, str] = field(default_factory=dict)
    blocked: list[Run] = field(default_factory=list)
    """Runs whose original could not be made."""


@dataclass(slots=True)
class _Hand:
    """What a worker was given and has not told the outcome of."""

    calls: deque[list[Run]] = field(default_factory=deque)
    """Calls not answered yet; it works on the first."""
    publishing: list[Run] = field(default_factory=list)
    """Runs of answered calls that it is still publishing."""

    @property
    def runs(self) -> list[Run]:
        """All of them, oldest first."""
        return [*self.publishing, *(run for call in self.calls for run in call)]

    @property
    def touched(self) -> list[Run]:
        """Those that the worker may be at now: what it publishes, and the call that it works on."""
        return [*self.publishing, *(self.calls[0] if self.calls else ())]

    def answered(self, outcomes: Iterable[Outcome]) -> None:
        """Take the answer of the oldest call in."""
        told = {outcome.run for outcome in outcomes}
        self.publishing = [run for run in (*self.publishing, *self.calls.popleft()) if run not in told]


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
        self._pool, self._max_attempts = pool, max_attempts
        self._hooks = hooks or Hooks()
        self._queue: deque[Run] = deque()
        self._blocked: dict[Run, list[Run]] = {}
        self._starting: set[int] = set()
        self._hands: dict[int, _Hand] = {}
        """Every ready worker, the longest serving first."""
        self._wanted = 0
        self._pace = Pace()
        self._attempts: Counter[Run] = Counter()
        self._deaths: Counter[Run] = Counter()
        self._alone: set[Run] = set()
        self._failed_starts = 0
        self.tally = Tally()
        self._place = {run: place for place, run in enumerate(pending)}
        for run in self._place:
            start = plan.start_of(run)
            waits = start is not None and start not in made
            (self._blocked.setdefault(start, []) if waits and start else self._queue).append(run)

    def run(self) -> Tally:
        """Work until nothing is left that can be made.

        Raises:
            ClusterError: several workers in a row could not open, and none is working.
            StorageNotShared: a worker does not see the storage, and nothing is made yet.

        """
        while self._queue or any(hand.runs for hand in self._hands.values()):
            self._resize()
            self._dispatch()
            for event in self._pool.wait():
                self._handle(event)
        for worker in (*self._hands, *self._starting):
            self._pool.stop(worker)
        self.tally.blocked += sorted(run for runs in self._blocked.values() for run in runs)
        return self.tally

    def _resize(self) -> None:
        """Grow to what there is room and work for; let surplus idle workers go."""
        held = sum(len(hand.runs) for hand in self._hands.values())
        outstanding = len(self._queue) + held + sum(map(len, self._blocked.values()))
        room, ready = self._pool.capacity(), len(self._hands)
        if ready:  # a node where nothing can start must not be tried in a tight loop
            room = min(room, max(room - self._failed_starts, ready))
        self._wanted = min(room, outstanding)
        for _ in range(self._wanted - ready - len(self._starting)):
            self._starting.add(self._pool.start())
        for worker in [worker for worker, hand in self._hands.items() if not hand.runs and not hand.calls][::-1]:
            if len(self._hands) > self._wanted:  # one that is only starting is no reason to stop one that is there
                del self._hands[worker]
                self._pool.stop(worker)

    def _dispatch(self) -> None:
        """Give every worker a call, then those that are soon done a second; ask for the rest of who gets none."""
        fed = list(self._hands)[: self._wanted]  # surplus workers run dry, and go
        for depth in (0, 1):
            for worker in fed:
                hand = self._hands[worker]
                soon_done = self._pace.expected_s(run for call in hand.calls for run in call) < AHEAD_S
                if self._queue and len(hand.calls) == depth and soon_done:
                    self._give(worker, hand)
        for worker, hand in self._hands.items():
            if hand.publishing and not hand.calls:
                self._submit(worker, [], flush=True)

    def _give(self, worker: int, hand: _Hand) -> None:
        if self._queue[0] in self._alone and hand.runs:
            return  # once it is done with those
        share = math.ceil(len(self._queue) / (2 * self._wanted))  # near the end no worker hoards
        runs = self._pace.take(self._queue, at_most=share, alone=self._alone)
        awaited = any(run in self._blocked or run in self._alone for run in runs)
        self._submit(worker, runs, flush=awaited or not self._queue)

    def _submit(self, worker: int, runs: list[Run], *, flush: bool) -> None:
        self._hands[worker].calls.append(runs)
        self._pool.submit(worker, [(run, self._attempts[run] + 1) for run in runs], flush=flush)

    def _handle(self, event: Ready | Finished | Lost) -> None:
        if isinstance(event, Ready):
            self._starting.discard(event.worker)
            self._hands[event.worker] = _Hand()
            self._failed_starts = 0
            self._hooks.ready(event.info)
        elif isinstance(event, Lost):
            self._lost(event)
        elif event.worker in self._hands:  # else it was stopped meanwhile, and its runs are in the queue again
            hand = self._hands[event.worker]
            hand.answered(event.outcomes)
            if any(outcome.poisoned or outcome.recycle for outcome in event.outcomes):
                self._pool.stop(event.worker)
                self._queue.extendleft(reversed(self._hands.pop(event.worker).runs))
            for outcome in event.outcomes:
                self._finished(outcome)

    def _finished(self, outcome: Outcome) -> None:
        run = outcome.run
        self._attempts[run] += 1
        if not outcome.error:
            del self._attempts[run]
            self._pace.heard(outcome)
            self.tally.made.append(run)
            if released := self._blocked.pop(run, None):  # each to its place among those that wait for a worker
                self._queue = deque(heapq.merge(self._queue, released, key=self._place.__getitem__))
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
            self._hooks.unready(event.cause)
            if event.unshared and not self.tally.made:  # later, it is one bad machine that joined: others go on
                raise StorageNotShared(event.cause)
            if self._failed_starts >= _STARTS_GIVEN_UP and not self._hands:
                raise ClusterError(f"{self._failed_starts} workers in a row could not start: {event.cause}")
            return
        hand = self._hands.pop(event.worker, None)
        if hand is not None and hand.runs:
            self._queue.extendleft(reversed(hand.runs))
            self._suspect(hand.touched, event.cause)

    def _suspect(self, runs: list[Run], cause: str) -> None:
        """Count a death against the run that was it; where that is not known, try each alone."""
        if len(runs) > 1:
            self._alone.update(runs)
            self._hooks.retried(runs[-1], f"{cause} ({len(runs) - 1} more with it)")
            return
        run = runs[0]
        self._deaths[run] += 1
        if self._deaths[run] > self._max_attempts:
            self._queue.remove(run)
            error = f"its worker died {self._deaths[run]} times: {cause}"
            self._give_up(Outcome(run=run, seconds=0.0, error=error), self._deaths[run])
        else:
            self._hooks.retried(run, cause)

    def _give_up(self, outcome: Outcome, attempts: int) -> None:
        self.tally.failed[outcome.run] = outcome.error
        self._hooks.failed(outcome, attempts)

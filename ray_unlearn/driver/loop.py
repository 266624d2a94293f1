"""The scheduler: pending runs and a pool of workers -> outcomes. No Ray, no clock, no storage; tests use fakes.

    tally = Scheduler(plan, pool, pending=pending, made=made, max_attempts=2, hooks=hooks).run()

Runs are given out in the order of `pending`, each once the original that it starts from is made. A worker holds several
runs: those of its calls, and one that it publishes beside them. Workers that die are replaced and all their runs go
back to the front of the queue. A run that fails by its own fault is tried `max_attempts` times; a run whose worker dies
`max_attempts + 1` times is given up, too, because it may be what kills them. Where several may have been it, each is
tried alone from then on, and only those deaths count. A death is nobody's fault where the node went with it (a spot
market's, a drain); a run that its dead worker had published but not told is made.

Does not cover: publishing (workers do), signals (`interrupts`).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable

from ray_unlearn.driver.hands import Hand
from ray_unlearn.driver.hooks import Hooks, unknown
from ray_unlearn.driver.pace import AHEAD_S, Pace
from ray_unlearn.driver.pool import Event, Leaving, Lost, Pool, Ready
from ray_unlearn.driver.tally import Tally
from ray_unlearn.errors import ClusterError, StorageNotShared, StoreUnwritable
from ray_unlearn.outcome import Outcome
from ray_unlearn.study.plan import Plan, Run

_STARTS_GIVEN_UP = 3  # workers in a row that could not open: the next would not either
_DEATHS_GIVEN_UP = 10  # workers in a row that died first: machines may be going, as on a spot market
_NODES_GIVEN_UP = 20  # nodes that went away with the same run: no spot market is like that, it takes them along


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
        published: Callable[[Run], Outcome | None] = unknown,
    ) -> None:
        """Take the runs.

        Args:
            plan: whose runs they are.
            pool: who executes them.
            pending: in the order in which they are handed out.
            made: runs that are there, so that what starts from them is ready.
            max_attempts: at a run that fails.
            hooks: what to call meanwhile.
            published: says what was made of a run whose worker died before it could tell; None where it was not.

        """
        self._pool, self._max_attempts, self._published = pool, max_attempts, published
        self._hooks = hooks or Hooks()
        self._queue: deque[Run] = deque()
        self._blocked: dict[Run, list[Run]] = {}
        self._starting: set[int] = set()
        self._hands: dict[int, Hand] = {}
        """Every ready worker, the longest serving first."""
        self._leaving: set[int] = set()
        """Those whose nodes go away: they finish what they have."""
        self._hungry: dict[int, None] = {}
        """Those that may take a call, in the order in which they came to: the others need no look at every event."""
        self._held = 0
        """Runs in all hands."""
        self._wanted = 0
        self._pace = Pace()
        self._attempts: Counter[Run] = Counter()
        self._deaths: Counter[Run] = Counter()
        self._vanished: Counter[Run] = Counter()
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
            StoreUnwritable: the storage takes no run: it is full, read-only, or not this user's.

        """
        while self._queue or self._held:
            self._resize()
            self._dispatch()
            for event in self._pool.wait():
                self._handle(event)
        for worker in (*self._hands, *self._starting):
            self._pool.stop(worker)
        self.tally.blocked += sorted(run for runs in self._blocked.values() for run in runs)
        return self.tally

    def _resize(self) -> None:
        """Grow to what there is room and work for; let surplus workers go: idle ones, and those that only start."""
        room, staying = self._pool.capacity(), len(self._hands) - len(self._leaving)
        # Of what a worker has, nothing is left for another: neither its call's next runs, nor what it publishes beside.
        idle = sum(worker not in self._leaving and self._hands[worker].is_idle for worker in self._hungry)
        outstanding = len(self._queue) + staying - idle + sum(map(len, self._blocked.values()))
        surplus = staying + len(self._starting) - min(room, outstanding)
        for worker in sorted(self._starting, reverse=True)[: max(0, surplus)]:  # an autoscaler sees them as demand
            self._starting.discard(worker)
            self._pool.stop(worker)
        # Where nothing can start, that must not be tried in a tight loop: one start at a time, for it may get well.
        room = min(room, max(room - self._failed_starts, staying + 1))
        self._wanted = min(room, outstanding)
        for _ in range(self._wanted - staying - len(self._starting)):
            self._starting.add(self._pool.start())
        self._let_go(self._leaving, len(self._leaving))
        self._let_go(sorted(self._hungry, reverse=True), staying - self._wanted)

    def _let_go(self, workers: Iterable[int], at_most: int) -> None:
        """Stop idle workers."""
        for worker in [w for w in workers if self._hands[w].is_idle][: max(0, at_most)]:
            self._drop(worker)
            self._pool.stop(worker)

    def _drop(self, worker: int) -> Hand:
        hand = self._hands.pop(worker)
        self._leaving.discard(worker)
        self._hungry.pop(worker, None)
        self._held -= len(hand)
        return hand

    def _dispatch(self) -> None:
        """Give every worker a call, then those that are soon done a second; ask for the rest of who gets none."""
        fed = self._fed()
        for depth in (0, 1):
            for worker in fed:
                hand = self._hands[worker]
                if self._queue and len(hand.calls) == depth and self._is_soon_done(hand):
                    self._give(worker, hand)
        for worker in list(self._hungry):
            hand = self._hands[worker]
            if hand.publishing and not hand.calls:
                self._submit(worker, [], flush=True)
            if len(hand.calls) > 1 or not self._is_soon_done(hand):
                del self._hungry[worker]

    def _fed(self) -> list[int]:
        """Return the workers that may be given something: not those that leave, and surplus ones run dry."""
        staying = [worker for worker in self._hungry if worker not in self._leaving]
        if len(self._hands) - len(self._leaving) <= self._wanted:
            return staying
        kept = set([worker for worker in self._hands if worker not in self._leaving][: self._wanted])
        return [worker for worker in staying if worker in kept]

    def _is_soon_done(self, hand: Hand) -> bool:
        return self._pace.expected_s(run for call in hand.calls for run in call) < AHEAD_S

    def _give(self, worker: int, hand: Hand) -> None:
        if self._queue[0] in self._alone and len(hand):
            return  # once it is done with those
        share = math.ceil(len(self._queue) / (2 * self._wanted))  # near the end no worker hoards
        runs = self._pace.take(self._queue, at_most=share, alone=self._alone)
        awaited = any(run in self._blocked or run in self._alone for run in runs)
        self._submit(worker, runs, flush=awaited or not self._queue)

    def _submit(self, worker: int, runs: list[Run], *, flush: bool) -> None:
        self._hands[worker].calls.append(runs)
        self._held += len(runs)
        self._pool.submit(worker, [(run, self._attempts[run] + 1) for run in runs], flush=flush)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Ready):
            if event.worker not in self._starting:
                return  # its node was said to go away in the same breath
            self._starting.discard(event.worker)
            self._hands[event.worker] = Hand()
            self._hungry[event.worker] = None
            self._failed_starts = 0
            self._hooks.ready(event.info)
        elif isinstance(event, Lost):
            self._lost(event)
        elif isinstance(event, Leaving):
            self._leaves(event.worker)
        elif event.worker in self._hands:  # else it was stopped meanwhile, and its runs are in the queue again
            hand = self._hands[event.worker]
            self._hungry[event.worker] = None
            self._held -= len(hand)
            hand.answered(event.outcomes)
            self._held += len(hand)
            if any(outcome.poisoned or outcome.recycle for outcome in event.outcomes):
                self._pool.stop(event.worker)
                self._queue.extendleft(reversed(self._drop(event.worker).runs))
            for outcome in sorted(event.outcomes, key=lambda outcome: outcome.unwritable):  # what was made counts first
                self._finished(outcome)

    def _finished(self, outcome: Outcome) -> None:
        run = outcome.run
        if outcome.unwritable:  # no other run could be published either: each would be trained and thrown away
            raise StoreUnwritable(f"{outcome.error}; what was made is kept")
        self._attempts[run] += 1
        if not outcome.error:
            del self._attempts[run]
            self._pace.heard(outcome)
            self.tally.made.append(run)
            self._unblock(self._blocked.pop(run, []))
            self._hooks.made(outcome)
        elif outcome.final or self._attempts[run] >= self._max_attempts:
            self._give_up(outcome, self._attempts[run])
        else:
            self._queue.append(run)
            self._hooks.retried(run, outcome.error)

    def _leaves(self, worker: int) -> None:
        """Give a worker no more, because its node goes away; a start there is in vain."""
        if worker in self._hands:
            self._leaving.add(worker)
        elif worker in self._starting:
            self._starting.discard(worker)
            self._pool.stop(worker)

    def _unblock(self, runs: list[Run]) -> None:
        """Take runs into the queue at their places: whoever put the pending runs in order meant all of them."""
        if runs:
            self._queue = deque(heapq.merge(self._queue, runs, key=self._place.__getitem__))

    def _lost(self, event: Lost) -> None:
        if event.worker in self._starting:
            self._starting.discard(event.worker)
            if not event.preempted:
                self._failed_to_start(event)
        elif event.worker in self._hands:
            hand = self._drop(event.worker)
            told = [outcome for run in hand.touched if (outcome := self._published(run))]
            made = {outcome.run for outcome in told}
            self._queue.extendleft(reversed([run for run in hand.runs if run not in made]))
            self._blame([run for run in hand.touched if run not in made], event)
            for outcome in told:
                self._finished(outcome)

    def _failed_to_start(self, event: Lost) -> None:
        self._failed_starts += 1
        self._hooks.unready(event.cause)
        if event.unshared and not self.tally.made:  # later, it is one bad machine that joined: others go on
            raise StorageNotShared(event.cause)
        limit = _DEATHS_GIVEN_UP if event.died else _STARTS_GIVEN_UP
        if self._failed_starts >= limit and not self._hands and not self._starting:
            raise ClusterError(f"{self._failed_starts} workers in a row could not start: {event.cause}")

    def _blame(self, runs: list[Run], event: Lost) -> None:
        """Say that runs are made again; count it against one where it was that one's fault."""
        if event.overdue_s and len(runs) == 1:
            self._queue.remove(runs[0])
            self._finished(Outcome(run=runs[0], seconds=event.overdue_s, error=event.cause))
        elif len(runs) > 1:  # where it may have been several, each is tried alone
            self._vanished.update(runs if event.preempted else ())
            self._alone.update(r for r in runs if not event.preempted or self._vanished[r] >= _NODES_GIVEN_UP)
            self._hooks.retried(runs[-1], f"{event.cause} ({len(runs) - 1} more with it)")
        elif runs and event.preempted:
            self._count(runs[0], self._vanished, _NODES_GIVEN_UP, "its node went away", event.cause)
        elif runs:
            self._count(runs[0], self._deaths, self._max_attempts, "its worker died", event.cause)

    def _count(self, run: Run, deaths: Counter[Run], borne: int, what: str, cause: str) -> None:
        deaths[run] += 1
        if deaths[run] <= borne:
            self._hooks.retried(run, cause)
            return
        self._queue.remove(run)
        error = f"{what} {deaths[run]} times: {cause}"
        self._give_up(Outcome(run=run, seconds=0.0, error=error), deaths[run])

    def _give_up(self, outcome: Outcome, attempts: int) -> None:
        self.tally.failed[outcome.run] = outcome.error
        self._hooks.failed(outcome, attempts)

"""Calls that take longer than `execution.run_timeout_s` allows. Without Ray; the caller passes the time.

    deadlines = Deadlines(limit_s=600.0, apart={"mine"})
    deadlines.given(worker, attempts, now)       # when a call is submitted; a worker answers its calls in order
    deadlines.answered(worker, now)
    deadlines.overdue(now)                       # [(worker, attempts of the call that takes too long)]

A run's limit applies to its whole call, because runs that share a call are expected to take a fraction of a second
together; a pack, which is computed as a whole whichever of its runs are left, has the limits of as many runs as it is
for. When a call exceeds the limit, each of its runs is tried again alone, and only then blamed. Runs of scripts have
processes of their own, which the worker ends in time; it is ended itself only where that did not help.

Does not cover: ending the worker (the pool does), how often a run is tried again (`scheduler`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from ray_unlearn.run.outcome import Attempt
from ray_unlearn.schedule.pool import Lost
from ray_unlearn.study.plan import Run

MORE_S = 15.0
"""Seconds in which a worker ends a script's processes, and reports."""


class Deadlines:
    """Calls in flight by worker, and the time at which each worker began its oldest call."""

    def __init__(
        self, limit_s: float | None, apart: Collection[str] = (), pack_size: Callable[[Run], int] = lambda run: 1
    ) -> None:
        """Begin without calls.

        Args:
            limit_s: seconds that a run may take; None without a limit.
            apart: names of the populations whose runs have processes of their own.
            pack_size: returns the number of runs that are trained in one step with a run.

        """
        self._limit_s, self._apart, self._pack_size = limit_s, apart, pack_size
        self._calls: dict[int, deque[Sequence[Attempt]]] = {}
        self._since: dict[int, float] = {}

    def given(self, worker: int, attempts: Sequence[Attempt], now: float) -> None:
        """Note a call; it begins now if the worker has no other."""
        calls = self._calls.setdefault(worker, deque())
        if not calls:
            self._since[worker] = now
        calls.append(attempts)

    def answered(self, worker: int, now: float) -> None:
        """Forget the worker's oldest call; its next one begins now."""
        if self._calls.get(worker):
            self._calls[worker].popleft()
            self._since[worker] = now

    def forget(self, worker: int) -> None:
        """Forget a worker that is gone."""
        self._calls.pop(worker, None)
        self._since.pop(worker, None)

    def overdue(self, now: float) -> list[tuple[int, Sequence[Attempt]]]:
        """Return the calls whose time limit has passed."""
        if self._limit_s is None:
            return []
        first = {worker: calls[0] for worker, calls in self._calls.items() if calls}
        return [
            (worker, attempts)
            for worker, attempts in first.items()
            if now - self._since[worker] > self._limit_s * self._runs(attempts) + self._more_s(attempts)
        ]

    def exceeded(self, worker: int) -> Lost:
        """Return the report of a worker that is ended for its call; the scheduler decides which run is to blame."""
        limit_s = float(self._limit_s or 0)
        return Lost(worker, f"took longer than execution.run_timeout_s: {limit_s:g}", overdue_s=limit_s)

    def _runs(self, attempts: Sequence[Attempt]) -> int:
        return max((self._pack_size(run) for run, _ in attempts), default=1)

    def _more_s(self, attempts: Sequence[Attempt]) -> float:
        return MORE_S if any(run.population in self._apart for run, _ in attempts) else 0.0

"""How many runs a worker is given at a time, from the seconds that earlier runs took.

    batching = Batching()
    batching.note(outcome)
    runs = batching.take(queue, at_most=8, alone=set())

Each call to a worker costs about a millisecond: short runs share a call, long runs get one call each.

Does not cover: which worker gets the runs (`scheduler`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable

from ray_unlearn.run.outcome import Outcome
from ray_unlearn.study.plan import Run

CALL_S = 0.25
"""Seconds of work in one call: a hundred times the cost of a call, and little to lose when a worker dies."""
AHEAD_S = 0.5
"""Seconds of work below which a worker gets a second call, so that it never waits for the driver."""


class Batching:
    """Running estimate of the seconds per run of each population."""

    def __init__(self, pack_of: Callable[[Run], object] = lambda run: None) -> None:
        """Take the function of a run that returns its pack, or None; runs of one pack share a call."""
        self._pack_of = pack_of
        self._seconds: dict[str, float] = {}

    def note(self, outcome: Outcome) -> None:
        """Update the estimate with a run that was made; the last few runs dominate it."""
        name = outcome.run.population
        self._seconds[name] = (self._seconds.get(name, outcome.seconds) + outcome.seconds) / 2

    def expected_s(self, runs: Iterable[Run]) -> float:
        """Return the seconds that the runs will take; infinity where no run of a population is made yet."""
        return sum(self._seconds.get(run.population, math.inf) for run in runs)

    def take(self, queue: deque[Run], *, at_most: int, alone: Collection[Run]) -> list[Run]:
        """Take at least one run from the queue's front for one call; a run in `alone` shares its call with no other.

        A pack is not divided, however many runs it has, and however long they take.
        """
        runs = [queue.popleft()]
        while queue and queue[0] not in alone and runs[0] not in alone:
            full = len(runs) >= at_most or self.expected_s([*runs, queue[0]]) > CALL_S
            if full and (self._pack_of(runs[-1]) is None or self._pack_of(runs[-1]) != self._pack_of(queue[0])):
                break
            runs.append(queue.popleft())
        return runs

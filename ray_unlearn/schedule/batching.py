"""How many runs a worker is given at a time, from the seconds that earlier runs took.

    batching = Batching()
    batching.note(outcome)
    runs = batching.take(queue, at_most=8, alone=set())

A call to a worker costs a millisecond or so, whatever it asks for: short runs share one, long ones go one by one.

Does not cover: which worker is given them (`scheduler`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable

from ray_unlearn.run.outcome import Outcome
from ray_unlearn.study.plan import Run

CALL_S = 0.25
"""Work in one call: a hundred times what a call costs, and little to lose with a worker."""
AHEAD_S = 0.5
"""A worker with less than this before it gets a second call, so that it never waits for the driver."""


class Batching:
    """Knows how long a population's runs take."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, outcome: Outcome) -> None:
        """Take a run that was made into account; the last few count."""
        name = outcome.run.population
        self._seconds[name] = (self._seconds.get(name, outcome.seconds) + outcome.seconds) / 2

    def expected_s(self, runs: Iterable[Run]) -> float:
        """Return how long runs will take; infinity where none of the population is made yet."""
        return sum(self._seconds.get(run.population, math.inf) for run in runs)

    def take(self, queue: deque[Run], *, at_most: int, alone: Collection[Run]) -> list[Run]:
        """Take runs for one call from the queue's front, at least one; none of those in `alone` after another."""
        runs = [queue.popleft()]
        while queue and len(runs) < at_most and queue[0] not in alone and runs[0] not in alone:
            if self.expected_s([*runs, queue[0]]) > CALL_S:
                break
            runs.append(queue.popleft())
        return runs

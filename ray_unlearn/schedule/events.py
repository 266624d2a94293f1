"""The scheduler's events: frozen values, yielded in the order in which things happen. A sink handles them.

    tally = Tally(pending)
    for event in schedule(plan, pool, pending=pending, made=made, max_attempts=2):
        for sink in (console, event_log, tally):
            sink(event)
    tally.made, tally.failed, tally.ended, tally.blocked     # every pending run is in exactly one

A new sink is a function of one event, added to the sinks of `generate`. `Ready`, `Leaving` and `Lost` are the pool's
own reports, passed on.

Does not cover: when an event occurs (`scheduler`), how events are shown or kept (`monitor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ray_unlearn.run.outcome import Attempt, Outcome
from ray_unlearn.schedule.pool import Leaving, Lost, Ready
from ray_unlearn.schedule.sameness import Same
from ray_unlearn.study.plan import Run


@dataclass(frozen=True, slots=True)
class Started:
    """Runs were given to a worker, which executes them in this order after those that it already has."""

    worker: int
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Made:
    """A run was published."""

    outcome: Outcome
    attempt: int
    """Which attempt succeeded, from 1."""
    worker: int | None
    """Number of the worker; None if it died after publishing the run and before reporting it."""


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt failed or was lost, and the run is tried again."""

    outcome: Outcome
    attempt: int
    worker: int | None
    """Number of the worker; None if it died or was ended."""
    next_attempt: int
    """Number of the next attempt; the same as `attempt` where the failure is not counted against the run."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A run is given up."""

    outcome: Outcome
    attempt: int
    """Number of attempts, or of workers that died."""
    worker: int | None
    """Number of the worker; None if it died or was ended."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A worker was stopped: no run is left for it, it must be replaced, or its node is being removed."""

    worker: int


@dataclass(frozen=True, slots=True)
class Equal:
    """A run that was made is equal to others of its population, or to its original."""

    same: Same


@dataclass(frozen=True, slots=True)
class Ended:
    """A population ends early: these runs of it are not made."""

    population: str
    runs: Sequence[Run]
    why: str


Event = Started | Ready | Made | Retried | Failed | Lost | Leaving | Stopped | Equal | Ended
Sink = Callable[[Event], None]


class Tally:
    """A sink that counts what became of the pending runs."""

    def __init__(self, pending: Iterable[Run]) -> None:
        self._pending = frozenset(pending)
        self.made: list[Run] = []
        self.failed: dict[Run, str] = {}
        """Run -> the reason why it was given up."""
        self.ended: list[Ended] = []
        """Populations that ended early."""

    def __call__(self, event: Event) -> None:
        """Count a run that was made or given up."""
        if isinstance(event, Made):
            self.made.append(event.outcome.run)
        elif isinstance(event, Failed):
            self.failed[event.outcome.run] = event.outcome.error
        elif isinstance(event, Ended):
            self.ended.append(event)

    @property
    def blocked(self) -> list[Run]:
        """Runs that are neither made nor given up: once the schedule is over, because their original failed."""
        return sorted(self._pending - {*self.made} - {*self.failed} - {run for one in self.ended for run in one.runs})

"""What the scheduler says as things happen: frozen values, in their order. What takes them is a sink.

    tally = Tally(pending)
    for event in schedule(plan, pool, pending=pending, made=made, max_attempts=2):
        for sink in (console, event_log, tally):
            sink(event)
    tally.made, tally.failed, tally.blocked      # every pending run is in exactly one

To listen, write a function of one event and add it to the sinks of `generate`. `Ready`, `Leaving` and `Lost` are the
pool's own reports, handed on.

Does not cover: when what happens (`scheduler`), nor how it is shown or kept (`monitor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ray_unlearn.run.outcome import Attempt, Outcome
from ray_unlearn.schedule.pool import Leaving, Lost, Ready
from ray_unlearn.study.plan import Run


@dataclass(frozen=True, slots=True)
class Started:
    """A worker was given runs, which it executes in this order after those that it has."""

    worker: int
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Made:
    """A run was published."""

    outcome: Outcome
    attempt: int
    """Which attempt succeeded, from 1."""
    worker: int | None
    """None where it died before it could report the run, whose record says that it is made."""


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt came to nothing, and the run is tried again."""

    outcome: Outcome
    attempt: int
    worker: int | None
    """None where the worker died, or was ended."""
    next_attempt: int
    """The same number where the attempt was not the run's fault as far as anybody knows."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A run is given up."""

    outcome: Outcome
    attempt: int
    """How many attempts, or deaths of workers, there were."""
    worker: int | None
    """None where the worker died, or was ended."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A worker was let go: nothing is left for it, it has to be replaced, or its node goes away."""

    worker: int


Event = Started | Ready | Made | Retried | Failed | Lost | Leaving | Stopped
Sink = Callable[[Event], None]


class Tally:
    """A sink that counts what became of the pending runs."""

    def __init__(self, pending: Iterable[Run]) -> None:
        self._pending = frozenset(pending)
        self.made: list[Run] = []
        self.failed: dict[Run, str] = {}
        """Run -> why it was given up."""

    def __call__(self, event: Event) -> None:
        """Count a run that was made or given up."""
        if isinstance(event, Made):
            self.made.append(event.outcome.run)
        elif isinstance(event, Failed):
            self.failed[event.outcome.run] = event.outcome.error

    @property
    def blocked(self) -> list[Run]:
        """Runs that are neither made nor given up: once the schedule is over, because their original failed."""
        return sorted(self._pending - {*self.made} - {*self.failed})

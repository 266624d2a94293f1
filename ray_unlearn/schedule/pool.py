"""What the scheduler asks of a place where runs execute, and what it hears back.

    worker = pool.start()
    pool.submit(worker, [(run, 1)], flush=True)
    for event in pool.wait():                    # Ready, Finished, Leaving or Lost
        ...

Does not cover: any real place: `inline`, `cluster.pool`, and the fakes of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ray_unlearn.run.outcome import Attempt, Outcome, WorkerInfo


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has opened its data and takes runs."""

    worker: int
    info: WorkerInfo


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker's oldest call ended; it takes another. A run still in publication is reported with a later call."""

    worker: int
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker's node goes away soon: it is to finish what it has, and get no more."""

    worker: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone: its process died, it could not open, or it was ended."""

    worker: int
    cause: str
    unshared: bool = False
    """It does not see the driver's storage, and the whole cluster is in doubt."""
    preempted: bool = False
    """Its node went away, or is about to: no run's fault."""
    overdue_s: float = 0.0
    """It was ended because its oldest call had taken this long; 0 where it was not."""
    died: bool = False
    """Its process ended before it could say why."""


Report = Ready | Finished | Leaving | Lost


class Pool(Protocol):
    """Workers, addressed by numbers that are never used twice."""

    @property
    def device(self) -> str:
        """The kind of device that runs get: cpu or cuda."""
        ...

    def describe(self) -> str:
        """Return what each worker gets, for people: nothing about the device is decided in silence."""
        ...

    def capacity(self) -> int:
        """Return how many workers there is room for now, at least 1."""
        ...

    def start(self) -> int:
        """Begin to start a worker; `Ready` or `Lost` follows."""
        ...

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Give a ready worker runs, or none; `Finished` or `Lost` follows. Calls are executed in order.

        Args:
            worker: which.
            attempts: at what.
            flush: whether the answer waits until everything is published and tells it.

        """
        ...

    def wait(self) -> list[Report]:
        """Return what happened, after about a second at most."""
        ...

    def stop(self, worker: int) -> None:
        """Let a worker go; nothing more is heard of it."""
        ...

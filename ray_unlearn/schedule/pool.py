"""The protocol between the scheduler and a place where runs are executed: requests, and the reports that answer them.

    worker = pool.start()
    pool.submit(worker, [(run, 1)], flush=True)
    for event in pool.wait():                    # Ready, Finished, Leaving or Lost
        ...

Does not cover: real places: `generation.inline`, `cluster.pool`, and the fakes of the tests.
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
    """A worker's node will be removed soon: the worker finishes the runs that it has, and gets no more."""

    worker: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone: its process died, it could not open, or it was ended."""

    worker: int
    cause: str
    unshared: bool = False
    """Whether the worker does not see the driver's storage, which puts the whole cluster in doubt."""
    preempted: bool = False
    """Whether its node was removed, or is about to be: no run is to blame."""
    overdue_s: float = 0.0
    """Seconds that its oldest call had taken when the worker was ended for it; 0 in all other cases."""
    died: bool = False
    """Whether its process ended before it could report a cause."""


Report = Ready | Finished | Leaving | Lost


class Pool(Protocol):
    """Workers, addressed by numbers that are never used twice."""

    @property
    def device(self) -> str:
        """The kind of device that runs get: cpu or cuda."""
        ...

    def describe(self) -> str:
        """Return the device and resources of each worker, as a text for people."""
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
            worker: the worker's number.
            attempts: runs, each with the number of the attempt.
            flush: whether the worker answers only when all its runs are published, and reports them all.

        """
        ...

    def wait(self) -> list[Report]:
        """Return reports as soon as there are any; an empty list after about a second."""
        ...

    def stop(self, worker: int) -> None:
        """End a worker; no report of it follows."""
        ...

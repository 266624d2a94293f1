"""A thread that publishes one run while the next one trains: one call at a time, results in order.

    publisher = Publisher()
    outcomes = publisher.flush()                 # wait for the call in flight; a list of its result, or empty
    publisher.begin(publish)                     # returns at once; one call at most is in flight
    publisher.close()

At most one publication is in flight, so that a worker holds two models and no more: the one that is written and the
one that is trained.

Does not cover: the runs that are published (`worker`), writing them (`store`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Publisher(Generic[T]):
    """A thread that executes one call at a time."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Start the thread with a call of `prepare`; now, because a run's code may use up all threads later."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher", initializer=prepare)
        self._clock = self._thread.submit(lambda: time.pthread_getcpuclockid(threading.get_ident())).result()
        self._flying: Future[T] | None = None

    def begin(self, call: Callable[[], T]) -> None:
        """Begin a call; the previous one must have been flushed."""
        if self._flying is not None:
            raise RuntimeError("a publication is in flight: flush it first")
        self._flying = self._thread.submit(call)

    def cpu_s(self) -> float:
        """Return the CPU seconds that the thread has used; call it before `close`."""
        return time.clock_gettime(self._clock)

    def known(self) -> list[T]:
        """Return the result of the call in flight if it has ended; never waits."""
        return self.flush() if self._flying is not None and self._flying.done() else []

    def flush(self) -> list[T]:
        """Wait for the call in flight and return its result; an empty list if there is none."""
        if self._flying is None:
            return []
        result = self._flying.result()  # an interrupt here leaves the call in flight, for `close`
        self._flying = None
        return [result]

    def close(self) -> None:
        """Wait for the call in flight, and end the thread."""
        self._thread.shutdown(wait=True)

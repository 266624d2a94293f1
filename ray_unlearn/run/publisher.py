"""A thread that publishes one run while the next one trains: one call at a time, results in order.

    publisher = Publisher()
    outcomes = publisher.flush()                 # wait for the call in flight; its result, or nothing
    publisher.begin(publish)                     # returns at once; one call at most is in flight
    publisher.close()

At most one publication is in flight, so that a worker holds two models and no more: the one that is written and the
one that is trained.

Does not cover: what is published (`worker`), nor how (`store`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Publisher(Generic[T]):
    """A thread for one call at a time."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Take what the thread does first, before any call. It starts now: later, a run's code may have used up all."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher", initializer=prepare)
        self._thread.submit(int)
        self._flying: Future[T] | None = None

    def begin(self, call: Callable[[], T]) -> None:
        """Begin a call; the one before must have been flushed."""
        if self._flying is not None:
            raise RuntimeError("a publication is in flight: flush it first")
        self._flying = self._thread.submit(call)

    def known(self) -> list[T]:
        """Return the result of the call in flight if it is there; never waits."""
        return self.flush() if self._flying is not None and self._flying.done() else []

    def flush(self) -> list[T]:
        """Wait for the call in flight and return its result; empty where there is none."""
        if self._flying is None:
            return []
        result = self._flying.result()  # an interrupt in here leaves it in flight, for `close`
        self._flying = None
        return [result]

    def close(self) -> None:
        """Wait for the call in flight, and end the thread."""
        self._thread.shutdown(wait=True)

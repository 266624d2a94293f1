"""Looks at something again and again next to what is measured, until it is asked to stop.

    with Sampler(lambda: os.getloadavg()[0], every_s=0.5) as sampler:
        ...
    sampler.samples                              # what was seen, in order

Does not cover: what to look at; `limited_memory` and `benchmark_driver` know.
"""

import threading
from collections.abc import Callable
from typing import Generic, Self, TypeVar

Seen = TypeVar("Seen")


class Sampler(Generic[Seen]):
    """A thread of its own that looks."""

    def __init__(self, look: Callable[[], Seen], every_s: float) -> None:
        self.samples: list[Seen] = []
        self._look, self._every_s, self._over = look, every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self.samples.append(self._look())

"""Two drivers in two threads whose every request to a storage waits for its turn, so that a test chooses the order.

ended = interleaved(monkeypatch, first, second, order=[0, 0, 1, 0], look=check)

A turn of a driver that has ended is passed over; when the order is used up, the first driver goes on to its end, then
the second. `look` is called between any two requests, as a reader that may come at any moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from ray_unlearn.store import Storage

REQUESTS = ("_put", "read", "exists", "_list", "remove")


class _Turns:
    """Whose request is next."""

    def __init__(self, order: Sequence[int], look: Callable[[], object]) -> None:
        self._order, self._look = list(order), look
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._ended: set[int] = set()
        self._busy = False

    def begin(self, driver: int) -> None:
        """Wait for a turn of this driver's."""
        with self._changed:
            self._waiting.add(driver)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._next() == driver, 20)
            if self._order:
                self._order.pop(0)
            self._waiting.discard(driver)
            self._busy = True
            self._look()

    def end(self) -> None:
        """Let the next one go on."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def close(self, driver: int) -> None:
        """Note that a driver has ended."""
        with self._changed:
            self._ended.add(driver)
            self._changed.notify_all()

    def _next(self) -> int | None:
        """Return whose turn it is, once every driver that goes on has asked for its next request."""
        if self._busy or len(self._waiting | self._ended) < 2:
            return None
        while self._order and self._order[0] in self._ended:
            self._order.pop(0)
        return self._order[0] if self._order else min({0, 1} - self._ended, default=None)


def interleaved(
    monkeypatch: pytest.MonkeyPatch,
    *drivers: Callable[[], object],
    order: Sequence[int],
    look: Callable[[], object] = lambda: None,
) -> tuple[list[BaseException | None], int]:
    """Let two drivers work in this order; return how each ended, and how many requests there were."""
    turns, errors, here = _Turns(order, look), [None, None], threading.local()
    requests = 0

    def gate(real: Callable[..., object]) -> Callable[..., object]:
        def request(*args: object, **kwargs: object) -> object:
            nonlocal requests
            if getattr(here, "driver", None) is None or here.inside:  # a reader, or a part of a request
                return real(*args, **kwargs)
            turns.begin(here.driver)
            here.inside, requests = True, requests + 1
            try:
                return real(*args, **kwargs)
            finally:
                here.inside = False
                turns.end()

        return request

    def work(number: int) -> None:
        here.driver, here.inside = number, False
        try:
            drivers[number]()
        except BaseException as error:
            errors[number] = error
        finally:
            turns.close(number)

    def watched() -> None:
        here.inside, before = True, here.inside
        try:
            look()
        finally:
            here.inside = before

    turns._look = watched
    with monkeypatch.context() as patch:
        for name in REQUESTS:
            patch.setattr(Storage, name, gate(getattr(Storage, name)))
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    return errors, requests


def orders(requests: int) -> Iterator[list[int]]:
    """Yield every order with up to three changes of turn: i requests of one, j of the other, k of the first, the rest.

    Both drivers begin; `requests` is how many each has at most.
    """
    for first in (0, 1):
        for i in range(1, requests + 1):
            for j in range(1, requests + 1):
                yield [first] * i + [1 - first] * j
                yield [first] * i + [1 - first] * j + [first] + [1 - first] * requests

"""Runs per second, while they are made: from the times in a driver's log, else from when looks saw them.

    rate_of(EventReader(store).newest())         # 0.5; None before something was made
    seen = Seen()
    seen.look(now_s, made=3)
    seen.per_s                                   # None before two looks saw more than the look before

Both end at a run's end, not at the time of the question: what has passed of a long run says nothing yet.

Does not cover: what is left to make (`watching`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ray_unlearn.store.events import Event

WINDOW_S = 1800.0
"""The time before the last run's end that counts, where it holds runs enough: nodes come and go."""
_ENOUGH = 60
_CHANGES = 60


def rate_of(events: Iterable[Event]) -> float | None:
    """Return the runs per second from the first ready worker on, or within the window, to the last run's end.

    Whole rounds of workers that work in step are counted from where the first began, which an earlier run's end is not.
    """
    ready_s, made_s = None, list[float]()
    for event in events:
        if event["event"] == "ready" and ready_s is None:
            ready_s = float(event["s"])
        elif event["event"] == "made":
            made_s.append(float(event["s"]))
    if ready_s is None or not made_s:
        return None
    last_s, begin_s = made_s[-1], ready_s
    if len(made_s) > _ENOUGH:
        begin_s = max(ready_s, min(last_s - WINDOW_S, made_s[-_ENOUGH - 1]))
    count = sum(at_s > begin_s for at_s in made_s)
    return count / (last_s - begin_s) if last_s > begin_s else None


class Seen:
    """What looks saw, where no log tells: only those count that saw more than the look before."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, int]] = deque(maxlen=_CHANGES)
        """When, and how many were made then."""
        self._made: int | None = None

    def look(self, now_s: float, made: int) -> None:
        """Take a look: how many are made."""
        if self._made is not None and made > self._made:
            self._changes.append((now_s, made))
        elif self._made is not None and made < self._made:  # taken away: what was seen is no measure any more
            self._changes.clear()
        self._made = made

    @property
    def per_s(self) -> float | None:
        """Return the runs between the first and the last change, by the time between them."""
        if len(self._changes) < 2:
            return None
        (start_s, before), (end_s, made) = self._changes[0], self._changes[-1]
        return (made - before) / (end_s - start_s) if end_s > start_s else None

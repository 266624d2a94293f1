"""How far a study is, looked at again and again: from another machine, too, and on any storage.

    watch = Watch(study, store)
    look = watch.look()                          # made, failed, planned by population; rate; what the driver does
    look.all_made, look.runs_per_s, look.left_s, look.driver

What is made is known from records alone: a look lists each population's folder and reads only records that are new to
it. The log of events adds which driver is at work, and how quick it was before the first look; where it cannot be
read, watching goes on without.

Does not cover: how it is shown (`cli.watching`), nor scores (`evaluation`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ray_unlearn.store import StudyStore
from ray_unlearn.store.disk import has_ended
from ray_unlearn.store.events import ALIVE_EVERY_S, Event, EventReader
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study

SILENT_S = 4 * ALIVE_EVERY_S
"""A driver from which nothing is heard for so long is dead, or cut off from its storage."""
PATIENCE_S = 30.0
"""A log that was ended when it was first seen may be of the last `generate`, and the next be about to begin."""
_LOOKS = 60  # that the rate is measured over


class Driver(StrEnum):
    """What the driver does."""

    none = "no driver yet"
    working = "at work"
    ended = "ended"
    silent = "silent"
    unknown = "unknown: its events cannot be read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """How far one population is."""

    population: str
    planned: int
    made: int
    failed: int
    """Given up, and not made since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How far a study is."""

    populations: tuple[Made, ...]
    driver: Driver
    runs_per_s: float | None
    """None before two looks saw a difference, where no log tells either."""
    left_s: float | None
    """Until everything that is not given up is made, at this rate."""

    @property
    def all_made(self) -> bool:
        """Whether nothing is left to make."""
        return all(one.made >= one.planned for one in self.populations)

    @property
    def made(self) -> int:
        """Runs of all populations."""
        return sum(one.made for one in self.populations)


class Watch:
    """Looks at one study."""

    def __init__(self, study: Study, store: StudyStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._study, self._store, self._clock = study, store, clock
        self._made: dict[str, tuple[str, set[int]]] = {}
        """Population -> digest, runs whose records were seen."""
        self._events = EventReader(store)
        self._samples: deque[tuple[float, int]] = deque(maxlen=_LOOKS)
        self._began = clock()
        self._seen: tuple[int, str, int] = (-1, "", 0)
        """Runs made, log and number of its events, when something last was new."""
        self._news_at = self._began
        self._was_working = False

    def look(self) -> Look:
        """Look at what is there now.

        Raises:
            StoreError: what is made cannot be read.

        """
        populations = tuple(self._population(name, spec.planned) for name, spec in self._study.populations.items())
        (events, unread), made = self._events.heard(), sum(one.made for one in populations)
        driver = Driver.unknown if unread else self._driver(events, made)
        if not self._samples and driver is Driver.working:
            self._sample_before(events, made)
        self._samples.append((self._clock(), made))
        rate = self._rate()
        left = sum(max(0, one.planned - one.made - one.failed) for one in populations if _asked_for(one, events))
        left_s = left / rate if rate else None
        return Look(populations=populations, driver=driver, runs_per_s=rate, left_s=left_s)

    def _population(self, name: str, planned: int) -> Made:
        digest = str((self._store.held(name) or {}).get("digest", ""))
        there, failed = set(self._store.indexes(name)), self._store.failed_indexes(name)
        before, known = self._made.get(name, ("", set[int]()))
        if digest and before != digest:
            known = set(self._store.records(name, digest))
        else:
            known = known & there
            known |= {index for index in there - known if self._is_made(name, index, digest)}
        self._made[name] = digest, known
        planned_for = range(planned)
        made = sum(index in planned_for for index in known)
        return Made(
            population=name,
            planned=planned,
            made=made,
            failed=sum(index in planned_for and index not in known for index in failed),
        )

    def _is_made(self, name: str, index: int, digest: str) -> bool:
        run = Run(population=name, index=index)
        record = self._store.record(run) if digest else None
        return record is not None and record.is_of(run, digest)

    def _driver(self, events: list[Event], made: int) -> Driver:
        now, news = self._clock(), (made, str(events[0]["at"]) if events else "", len(events))
        if news != self._seen:
            self._seen, self._news_at = news, now
        if not events:
            return Driver.none
        if events[-1]["event"] in ("ended", "broken off"):
            patient = not self._was_working and now - self._began < PATIENCE_S
            return Driver.none if patient else Driver.ended
        if now - self._news_at > SILENT_S or has_ended(str(events[0].get("host")), str(events[0].get("pid"))):
            return Driver.silent
        self._was_working = True
        return Driver.working

    def _sample_before(self, events: list[Event], made: int) -> None:
        """Take from the log what was made between the first ready worker and now."""
        ready = next((event["s"] for event in events if event["event"] == "ready"), None)
        if ready is not None and events[-1]["s"] > ready:
            new = sum(event["event"] == "made" for event in events)
            self._samples.append((self._clock() - (events[-1]["s"] - ready), made - new))

    def _rate(self) -> float | None:
        while len(self._samples) > 1 and self._samples[1][1] == self._samples[0][1]:
            self._samples.popleft()  # what passed before something was made says nothing of what is left
        (start, before), (now, made) = self._samples[0], self._samples[-1]
        return (made - before) / (now - start) if made > before and now > start else None


def _asked_for(one: Made, events: list[Event]) -> bool:
    """Return whether the driver makes this population; `generate --only` leaves others out."""
    pending = events[0].get("pending") if events else None
    return one.population in pending if isinstance(pending, Mapping) else True

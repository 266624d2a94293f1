"""Progress of a study, read again and again: from another machine, too, and on any storage.

    watch = Watch(study, store)
    look = watch.look()                          # made, failed, planned by population; rate; state of the driver
    look.all_made, look.runs_per_s, look.left_s, look.driver

The number of made runs is known from records alone: a look lists each population's folder and reads only records that
are new to it. The log of events adds which driver is at work, its rate, and the runs that it has given up; if the log
cannot be read, watching continues without it.

The rate comes from the times in the log; without a log, from the times of looks that saw more runs than the previous
look. Both end at the end of a run, not at the time of the look: the elapsed part of a long run is not counted.

Does not cover: showing the progress (`cli.watching`), scores (`evaluation`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ray_unlearn.monitor.event_log import SCORING
from ray_unlearn.store import StudyStore
from ray_unlearn.store.disk import has_ended
from ray_unlearn.store.events import ALIVE_EVERY_S, Event, EventReader
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study

WINDOW_S = 1800.0
"""Seconds before the last run's end that count for the rate, if enough runs ended in them: nodes come and go."""
_ENOUGH = 60
_CHANGES = 60
SILENT_S = 4 * ALIVE_EVERY_S
"""Seconds without a new event after which a driver counts as dead, or cut off from its storage."""
PATIENCE_S = 15.0
"""Seconds after the end of a log in which the next command's driver may be starting without an event of its own yet."""
_OVER = ("ended", "broken off")


class Driver(StrEnum):
    """State of the driver."""

    none = "no driver now"
    preparing = "preparing"
    scoring = "at its scores"
    working = "at work"
    ended = "ended"
    silent = "silent"
    unknown = "unknown: its events cannot be read"


_BEST = (Driver.working, Driver.preparing, Driver.scoring, Driver.none, Driver.silent, Driver.ended, Driver.unknown)
"""States, best first. Of the newest log, and of the newest whose driver began, the better state is shown, so that a
command that was refused hides no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """Progress of one population."""

    population: str
    planned: int
    made: int
    failed: int
    """Number of runs that were given up and not made since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Progress of a study."""

    populations: tuple[Made, ...]
    driver: Driver
    runs_per_s: float | None
    """Runs per second; None until the log, or two looks, have seen runs made."""
    left_s: float | None
    """Seconds until every run is made that this driver has not given up or left out, at this rate."""

    @property
    def all_made(self) -> bool:
        """Whether every planned run is made."""
        return all(one.made >= one.planned for one in self.populations)

    @property
    def made(self) -> int:
        """Number of made runs of all populations."""
        return sum(one.made for one in self.populations)


class Watch:
    """Watches one study."""

    def __init__(self, study: Study, store: StudyStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._study, self._store, self._clock = study, store, clock
        self._made: dict[str, tuple[str, set[int]]] = {}
        """Population -> its digest, and the runs whose records were read."""
        self._events = EventReader(store)
        self._rate = Seen()
        self._news: dict[str, tuple[int, int, float]] = {}
        """Log -> number of made runs and of its events, and the time when one of these numbers last changed."""

    def look(self) -> Look:
        """Return the progress now.

        Raises:
            StoreError: the records cannot be read.

        """
        populations = tuple(self._population(name, spec.planned) for name, spec in self._study.populations.items())
        (newest, unread), made, now = (
            self._events.newest_or_error(),
            sum(one.made for one in populations),
            self._clock(),
        )
        events = newest if _begun(newest) else self._events.newest_or_error("begun")[0]
        states = [self._driver(log, made, now) for log in (newest, events) if log]
        driver = Driver.unknown if unread else min(states, key=_BEST.index, default=Driver.none)
        self._rate.look(now, made)
        rate = (rate_of(events) if driver is Driver.working else None) or self._rate.per_s
        left = sum(max(0, one.planned - one.made) for one in populations if _asked_for(one, events))
        left -= len(self._given_up(events)) + _left_out(events) if driver is Driver.working else 0
        left_s = max(0, left) / rate if rate else None
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

    def _driver(self, events: list[Event], made: int, now: float) -> Driver:
        """Return the state of a log's driver."""
        log = str(events[0]["at"])
        *before, news_at = self._news.get(log, (-1, 0, now))
        news_at = news_at if before == [made, len(events)] else now
        self._news[log] = made, len(events), news_at
        host, pid = str(events[0].get("host")), str(events[0].get("pid"))
        if events[-1]["event"] in _OVER:
            return Driver.none if now - news_at < PATIENCE_S else Driver.ended
        if now - news_at > SILENT_S or has_ended(host, pid):
            return Driver.silent
        if events[0]["event"] == SCORING:
            return Driver.scoring
        return Driver.working if _begun(events) else Driver.preparing

    def _given_up(self, events: list[Event]) -> set[str]:
        """Return the runs that this driver has given up; it tries those again that earlier commands gave up."""
        given_up = {str(event.get("run")) for event in events if event["event"] == "given up"}
        made = {f"{name}/{index:05d}" for name, (_, indexes) in self._made.items() for index in indexes}
        return given_up - made


def _begun(events: list[Event]) -> Event | None:
    """Return the event with which the driver began its runs; None while it prepares."""
    return next((event for event in events if event["event"] == "begun"), None)


def _asked_for(one: Made, events: list[Event]) -> bool:
    """Return whether the driver makes this population; `generate --only` leaves others out."""
    pending = (_begun(events) or {}).get("pending")
    return one.population in pending if isinstance(pending, Mapping) else True


def _left_out(events: list[Event]) -> int:
    """Return the number of runs that this driver will not try, because their populations ended early."""
    return sum(int(event["runs"]) for event in events if event["event"] == "ended early")


def rate_of(events: Iterable[Event]) -> float | None:
    """Return the runs per second from the first ready worker on, or within the window, to the last run's end.

    Workers that work in step finish in rounds: whole rounds are counted from the start of the first round, not from the
    end of an earlier run.
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
    """Rate without a log: from the looks that saw more made runs than the previous look."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, int]] = deque(maxlen=_CHANGES)
        """Time of a look in s, and the number of runs made then."""
        self._made: int | None = None

    def look(self, now_s: float, made: int) -> None:
        """Note the number of made runs at a time."""
        if self._made is not None and made > self._made:
            self._changes.append((now_s, made))
        elif self._made is not None and made < self._made:  # runs were removed: earlier looks do not count any more
            self._changes.clear()
        self._made = made

    @property
    def per_s(self) -> float | None:
        """Return the runs per second between the first and the last change."""
        if len(self._changes) < 2:
            return None
        (start_s, before), (end_s, made) = self._changes[0], self._changes[-1]
        return (made - before) / (end_s - start_s) if end_s > start_s else None

"""Events of `generate`, one JSON object per line, for `--watch` and to show how workers spent their time.

    with event_log(store) as log:                # <study>/events/20261124T150312.123456Z-host-4711-000.jsonl
        log.write("ready", worker=1, host="node-3")
    for events in EventReader(store).logs().values():
        events[0]["event"], events[0]["at"], events[0]["s"]

`at` is UTC, `s` seconds since the log was opened, by a clock that never jumps. A log's first event holds the format. A
thread writes waiting events once a second: on a disk it appends whole lines, unflushed; object stores cannot append, so
there it publishes the newest part again every ten seconds, and begins another part once it is large. Nothing depends on
events: a store that refuses them fails no run, and a reader skips lines that it cannot read, such as the last line of a
killed driver.

Does not cover: the kinds of events (`monitor.event_log`), nor their analysis (`monitor`).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray_unlearn import __version__
from ray_unlearn.errors import StoreError
from ray_unlearn.store.disk import append_file
from ray_unlearn.store.filesystem import Stamp
from ray_unlearn.store.formats import FORMATS, check_format
from ray_unlearn.store.layout import event_log_of
from ray_unlearn.store.study_store import StudyStore

Event = dict[str, Any]
"""Event as read: the keys event, at, s, and those of its kind."""

ALIVE_EVERY_S = 30.0
"""Seconds without an event after which a driver writes the event `alive`."""
_EVERY_S = 1.0
_EVERY_REMOTE_S = 10.0  # on an object store, where each write uploads the whole part again
_PART_BYTES = 2**20
_WAITING = 50_000  # events kept while the store refuses writes; the oldest are dropped
_LONGEST_S = 1e10  # three centuries; more, NaN and infinity are no valid times
_CLOSING_S = 3.0  # a storage that hangs does not hold up the command


@contextmanager
def event_log(store: StudyStore, *, announce: bool = False) -> Iterator[EventLog]:
    """Yield a log; an exception that ends the block becomes its last event, unless the log is empty.

    Args:
        store: the study's store.
        announce: write the event `preparing` at once where logs of earlier drivers exist, because `--watch` sees those
            end. The first driver writes nothing yet: its study may still be refused, and must leave no file behind.

    """
    log = EventLog(store)
    try:
        if announce and _has_logs(store):
            log.write("preparing", host=socket.gethostname(), pid=os.getpid())
        yield log
    except BaseException as error:
        if log.begun:
            log.write("broken off", why=type(error).__name__)
        raise
    finally:
        log.close()


def _has_logs(store: StudyStore) -> bool:
    with suppress(OSError, StoreError):  # the next access reports the error
        return bool(store.storage.stamps(store.layout.events_folder))
    return False


class EventLog:
    """The events of one `generate`."""

    def __init__(self, store: StudyStore) -> None:
        self._store, self._start = store, time.monotonic()
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
        self._stem, self._part, self._bytes = f"{started}Z-{host}-{os.getpid()}", 0, 0
        self._published = b""
        """Bytes of the newest part, on an object store."""
        self._waiting: deque[Event] = deque(maxlen=_WAITING)
        self.begun = False
        """Whether an event was written."""
        self._last_at, self._torn = self._start, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    def write(self, event: str, **more: Any) -> None:
        """Queue an event; takes microseconds, and never fails."""
        first = {} if self.begun else {"format": FORMATS["events"], "made_by": __version__}
        self.begun, self._last_at = True, time.monotonic()
        at = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        self._waiting.append({"event": event, "at": at, "s": round(self._last_at - self._start, 3), **first, **more})

    def close(self) -> None:
        """Write the waiting events, as far as the store accepts them, and end the thread."""
        self._over.set()
        self._thread.join(_CLOSING_S)

    def _work(self) -> None:
        every_s = wait_s = _EVERY_S  # the first event soon, because `--watch` waits for it
        if self._store.storage.local is None:
            every_s = _EVERY_REMOTE_S
        while not self._over.wait(wait_s):
            if self.begun and time.monotonic() - self._last_at > ALIVE_EVERY_S:
                self.write("alive")
            wait_s = every_s if self._flush() else wait_s
        self._flush()

    def _flush(self) -> bool:
        """Write the waiting events; those that the store refuses keep waiting. Return whether there were any."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not taken:
            return False
        written = 0
        with suppress(OSError, StoreError):
            written = self._append([_line(event) for event in taken])
        left = taken[written:]
        free = _WAITING - len(self._waiting)
        self._waiting.extendleft(reversed(left[max(0, len(left) - free) :]))
        return True

    def _append(self, lines: list[bytes]) -> int:
        """Write lines; return how many of them, from the first, the store holds."""
        if self._bytes > _PART_BYTES:
            self._part, self._bytes, self._published, self._torn = self._part + 1, 0, b"", False
        name, data = self._store.layout.events(self._stem, self._part), b"".join(lines)
        local = self._store.storage.local
        if local is not None:
            return self._append_to(local / name, lines)
        self._store.storage.publish_file(name, self._published + data)
        self._published += data
        self._bytes += len(data)
        return len(lines)

    def _append_to(self, path: Path, lines: list[bytes]) -> int:
        """Append lines; a line that a full disk cut off is ended before the next one."""
        head = b"\n" * self._torn
        data = head + b"".join(lines)
        reached = append_file(path, data)
        self._torn = not data[:reached].endswith(b"\n")
        self._bytes += reached
        ends = itertools.accumulate(map(len, lines), initial=len(head))
        return sum(
            end - 1 <= reached for end in itertools.islice(ends, 1, None)
        )  # a line can be read without its line end, too


def _line(event: Event) -> bytes:
    """Return an event as JSON; an event with a value that JSON cannot hold keeps event, at and s only."""
    try:
        return _encoded(event)
    except (TypeError, ValueError, RuntimeError) as error:  # a path, a NaN, a cycle, or another thread changes a value
        return _encoded({name: event[name] for name in ("event", "at", "s")} | {"unwritten": type(error).__name__})


def _encoded(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class EventReader:
    """Reads a study's events, each part again only when it has changed."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._parts: dict[str, tuple[Stamp, list[Event]]] = {}

    def logs(self) -> dict[str, list[Event]]:
        """Return every log's events, oldest log first; empty where there are none."""
        return {log: self._events(parts) for log, parts in self._listed().items()}

    def newest(self, kind: str = "") -> list[Event]:
        """Return the events of the newest log, or the newest that has an event of a kind; empty where there is none.

        Raises:
            StoreError: they cannot be read.

        """
        for parts in reversed(self._listed().values()):
            events = self._events(parts)
            if not kind or any(event["event"] == kind for event in events):
                return events
        return []

    def newest_or_error(self, kind: str = "") -> tuple[list[Event], str]:
        """Return the events of `newest` and an empty text, or no events and the error's text."""
        try:
            return self.newest(kind), ""
        except StoreError as error:
            return [], str(error)

    def _listed(self) -> dict[str, dict[str, Stamp]]:
        """Return the stamps of each log's parts by name, oldest log first."""
        logs: dict[str, dict[str, Stamp]] = {}
        for name, stamp in sorted(self._store.storage.stamps(self._store.layout.events_folder).items()):
            if (log := event_log_of(name)) is not None:
                logs.setdefault(log, {})[name] = stamp
        return logs

    def _events(self, parts: Mapping[str, Stamp]) -> list[Event]:
        return [event for name, stamp in parts.items() for event in self._read(name, stamp)]

    def _read(self, name: str, stamp: Stamp) -> list[Event]:
        folder = self._store.layout.events_folder
        held = self._parts.get(name)
        if held is None or held[0] != stamp:
            data = b""
            with suppress(FileNotFoundError):
                data = self._store.storage.read(f"{folder}/{name}")
            events = decode_events(data)
            if events:
                check_format("events", events[0], f"{self._store.storage.uri}/{folder}/{name}")
            held = self._parts[name] = (stamp, events)
        return held[1]


def decode_events(data: bytes) -> list[Event]:
    """Return the lines that are events: objects with `event`, `at` and a valid number of seconds `s`."""
    found = []
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("event"), str) and isinstance(value.get("at"), str):
            number = value.get("s")
            if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < _LONGEST_S:
                found.append(value)
    return found

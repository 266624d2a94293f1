"""What happens while runs are made, one JSON object per line: for people who watch, and to see where time went.

    with event_log(store) as log:                # <study>/events/20261124T150312.123456Z-host-4711-000.jsonl
        log.write("ready", worker=1, host="node-3")
    for events in EventReader(store).logs().values():
        events[0]["event"], events[0]["at"], events[0]["s"]

`at` is UTC, `s` seconds since the log was opened, by a clock that never jumps. A log's first event says the format. A
thread writes what there is once a second: on a disk it appends whole lines, unflushed; an object store knows no
appending, so there the newest part is published again, and another part begun once it is large. Nothing depends on
events: a store that does not take them fails no run, and a reader skips what it cannot read, such as the last line of a
driver that was killed.

Does not cover: which events there are (`monitor.event_log`), nor what they add up to (`monitor`).
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
from collections.abc import Iterator
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
"""event, at, s, and what else there is to say."""

ALIVE_EVERY_S = 30.0
"""A driver that has nothing to say says that it is there."""
_EVERY_S = 1.0
_EVERY_REMOTE_S = 10.0  # of an object store, where a line costs a request and what was written before it
_PART_BYTES = 2**20
_WAITING = 50_000  # events that a store may refuse before the oldest are dropped
_LONGEST_S = 1e10  # three centuries: NaN, infinity and what no float holds are nobody's seconds
_CLOSING_S = 3.0  # a hung storage does not keep the command


@contextmanager
def event_log(store: StudyStore, *, announce: bool = False) -> Iterator[EventLog]:
    """Yield a log; what breaks the block off is its last event, where it has any.

    Args:
        store: whose.
        announce: say at once that a driver prepares, where there are logs of earlier ones: whoever watches the study
            sees those end. The first one's study may still be refused, and is to leave nothing behind.

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
    with suppress(OSError, StoreError):  # it will be said where it matters
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
        """The newest part so far, of an object store."""
        self._waiting: deque[Event] = deque(maxlen=_WAITING)
        self.begun = False
        """Whether it has an event."""
        self._said_at, self._torn = self._start, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    def write(self, event: str, **more: Any) -> None:
        """Note an event; costs microseconds, and never fails."""
        first = {} if self.begun else {"format": FORMATS["events"], "made_by": __version__}
        self.begun, self._said_at = True, time.monotonic()
        at = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        self._waiting.append({"event": event, "at": at, "s": round(self._said_at - self._start, 3), **first, **more})

    def close(self) -> None:
        """Write what is left, as far as the store takes it, and end."""
        self._over.set()
        self._thread.join(_CLOSING_S)

    def _work(self) -> None:
        every_s = wait_s = _EVERY_S  # the first event at once: whoever watches waits for it
        if self._store.storage.local is None:
            every_s = _EVERY_REMOTE_S
        while not self._over.wait(wait_s):
            if self.begun and time.monotonic() - self._said_at > ALIVE_EVERY_S:
                self.write("alive")
            wait_s = every_s if self._flush() else wait_s
        self._flush()

    def _flush(self) -> bool:
        """Write what waits; where the store refuses, it waits on. Return whether there was something."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not taken:
            return False
        written = 0
        with suppress(OSError, StoreError):
            written = self._append([_line(event) for event in taken])
        left = taken[written:]
        room = _WAITING - len(self._waiting)
        self._waiting.extendleft(reversed(left[max(0, len(left) - room) :]))
        return True

    def _append(self, lines: list[bytes]) -> int:
        """Return how many of the lines, from the first, the store has now."""
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
        """Append; what a full disk tears in the middle is ended before the next line."""
        head = b"\n" * self._torn
        data = head + b"".join(lines)
        reached = append_file(path, data)
        self._torn = not data[:reached].endswith(b"\n")
        self._bytes += reached
        ends = itertools.accumulate(map(len, lines), initial=len(head))
        return sum(end - 1 <= reached for end in itertools.islice(ends, 1, None))  # a line is read without its end, too


def _line(event: Event) -> bytes:
    """Return an event as JSON; what JSON cannot hold costs the event its fields, and no other event anything."""
    try:
        return _encoded(event)
    except (TypeError, ValueError, RuntimeError) as error:  # a path, a NaN, a ring; a value that a thread changes
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
        folder, logs = self._store.layout.events_folder, dict[str, list[Event]]()
        for name, stamp in sorted(self._store.storage.stamps(folder).items()):
            log = event_log_of(name)
            if log is not None:
                logs.setdefault(log, []).extend(self._read(folder, name, stamp))
        return logs

    def newest(self, kind: str = "") -> list[Event]:
        """Return the events of the newest log, or the newest that has an event of a kind; empty where there is none.

        Raises:
            StoreError: they cannot be read.

        """
        folder, stamps = self._store.layout.events_folder, self._store.storage.stamps(self._store.layout.events_folder)
        parts: dict[str, list[str]] = {}
        for name in sorted(stamps):
            if (log := event_log_of(name)) is not None:
                parts.setdefault(log, []).append(name)
        for log in sorted(parts, reverse=True):
            events = [event for name in parts[log] for event in self._read(folder, name, stamps[name])]
            if not kind or any(event["event"] == kind for event in events):
                return events
        return []

    def newest_or_error(self, kind: str = "") -> tuple[list[Event], str]:
        """Return what `newest` does, and why it cannot be read: for those who want to know, and do without."""
        try:
            return self.newest(kind), ""
        except StoreError as error:
            return [], str(error)

    def _read(self, folder: str, name: str, stamp: Stamp) -> list[Event]:
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
    """Return the lines that are events: objects with `event`, `at` and a number `s` that a clock can show."""
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

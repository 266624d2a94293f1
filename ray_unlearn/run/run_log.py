"""Output of a run's code (prints, warnings, logging), kept in memory of a bounded size.

    log = RunLog()
    with recorded(log):
        method.run(model, data, options, rng)    # print, sys.stderr, warnings.warn, logging
    log.content()                                # bytes; 1 MiB at most, with the middle cut out; may be empty

A log holds the output of the thread that entered `recorded` and of threads that were started inside it; every other
thread (a progress bar, the publisher) writes to the previous streams. Both streams go into one log, in the order of the
writes. A warning is `file.py:12: UserWarning: text`, without its folder, so that a run has the same log on every
machine. Logging starts as in a new process (warnings and errors, unless the run's code configures it), and changes of
its configuration are undone afterwards.

Does not cover: bytes that libraries write to the process's file descriptors, and output of processes that the run's
code starts: both go to the process's own streams. A script's run has a process of its own, and all its output is in its
log (`apart`).
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ray_unlearn.usercode.imports import SCRIPT_PREFIX

LIMIT_BYTES = 2**20
_MARK_BYTES = 64  # longer than the line that counts missing bytes


class RunLog(io.BufferedIOBase):
    """Binary stream that keeps the first and the last bytes written to it."""

    name = "<log>"

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._half = (limit_bytes - _MARK_BYTES) // 2
        self._head, self._tail, self._written = bytearray(), bytearray(), 0
        self._lock = threading.Lock()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Append bytes; the log never holds more than twice its limit."""
        view = memoryview(data).cast("B")
        with self._lock:
            room = self._half - len(self._head)
            self._head += view[:room]
            rest = view[room:]
            self._tail += rest[max(0, len(rest) - self._half) :]
            if len(self._tail) > 2 * self._half:
                del self._tail[: -self._half]
            self._written += len(view)
        return len(view)

    def content(self) -> bytes:
        """Return the bytes written; above the limit, a line in the middle counts the missing bytes."""
        with self._lock:
            head, tail, written = bytes(self._head), bytes(self._tail), self._written
        if written <= 2 * self._half:
            return head + tail
        head, tail = _without_torn_end(head), _without_torn_start(tail[-self._half :])
        return head + b"\n[... %d bytes are missing here ...]\n" % (written - len(head) - len(tail)) + tail


def _without_torn_end(data: bytes) -> bytes:
    """Return UTF-8 without the beginning of a character whose rest is missing."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return data.removesuffix(decoder.getstate()[0])


def _without_torn_start(data: bytes) -> bytes:
    """Return UTF-8 without the end of a character whose beginning is missing."""
    torn = next((i for i, byte in enumerate(data[:4]) if not 0x80 <= byte < 0xC0), 0)
    return data[torn:]


class _Recording:
    """A log, and the threads whose output goes into it."""

    def __init__(self, log: RunLog) -> None:
        self._process, here = os.getpid(), threading.current_thread()
        # Threads that Python did not start (autograd's, on a GPU) have stand-ins, which may be left from earlier runs.
        known = (one for one in threading.enumerate() if type(one).__name__ != "_DummyThread")
        self._others = {one for one in known if one is not here}
        self.text = io.TextIOWrapper(log, "utf-8", errors="backslashreplace", newline="\n", line_buffering=True)

    def takes_this_thread(self) -> bool:
        """Return whether this thread is the run's; False in a forked child, whose memory is lost."""
        return threading.current_thread() not in self._others and os.getpid() == self._process


_recording: _Recording | None = None


def _is_recorded() -> bool:
    return _recording is not None and _recording.takes_this_thread()


class _Stream:
    """Replaces sys.stdout or sys.stderr while a run executes; one object for all runs, because code may keep it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.before: TextIO | None = None

    def _rest(self) -> Any:
        """Return the stream of the threads that are not the run's."""
        if self.before is not None:
            return self.before
        now = getattr(sys, self._name)
        return getattr(sys, f"__{self._name}__") if now is self else now

    def fileno(self) -> int:
        """Return the file descriptor of the previous stream, which a child process gets as its output."""
        return int(self._rest().fileno())

    def __getattr__(self, name: str) -> Any:
        recording = _recording
        recorded_here = recording is not None and recording.takes_this_thread()
        return getattr(recording.text if recording and recorded_here else self._rest(), name)


_STREAMS = {name: _Stream(name) for name in ("stdout", "stderr")}


@contextlib.contextmanager
def recorded(log: RunLog) -> Iterator[None]:
    """Record prints, warnings and logging of this thread, and of threads started in the block, in a log."""
    global _recording  # noqa: PLW0603 - sys.stdout is global, too
    with _logging_restored(), warnings.catch_warnings():  # shows warnings again that were shown once already
        _show_in(warnings.showwarning)
        for name, stream in _STREAMS.items():
            stream.before = getattr(sys, name)
            setattr(sys, name, stream)
        _recording = _Recording(log)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # the code closed it
                _recording.text.flush()
            _recording = None
            for name, stream in _STREAMS.items():
                setattr(sys, name, stream.before)
                stream.before = None
            logging.captureWarnings(False)


def _show_in(before: Callable[..., None]) -> None:
    """Show warnings of the run without the folder and the source line."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
        if _is_recorded() and not any(more):
            _write(message, category, filename, lineno)
        else:
            before(message, category, filename, lineno, *more)

    warnings.showwarning = show  # type: ignore[assignment]


def show_warnings_briefly() -> None:
    """Show all warnings without the folder and the source line; in the process of one run."""
    warnings.showwarning = lambda *about: _write(*about[:4])


def _write(message: Warning | str, category: type[Warning], filename: str, lineno: int) -> None:
    sys.stderr.write(f"{Path(filename).name}:{lineno}: {category.__name__}: {message}\n")


class _ToStderr(logging.Handler):
    """Handler that prints warnings and errors as Python does without any handler."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, if it is of the run's thread."""
        if _is_recorded():
            sys.stderr.write(f"{self.format(record)}\n")


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """Undo changes of loggers by a run's code; loggers of libraries that it imports stay, as the libraries do."""
    root = logging.getLogger()
    before = {one: _state(one) for one in _loggers()}
    disabled = root.manager.disable
    if root.handlers:
        root.addHandler(_ToStderr())
    try:
        yield
    finally:
        root.manager.disable = disabled
        for logger in _loggers():
            wanted = before.get(logger) or (_state(logger) if _is_of_library(logger.name) else _NEW)
            if wanted != _state(logger):  # setting a level is the slowest step here
                level, logger.handlers[:], logger.propagate, logger.disabled = wanted
                logger.setLevel(level)


_LoggerState = tuple[int, list[logging.Handler], bool, bool]
_NEW: _LoggerState = (logging.NOTSET, [], True, False)


def _state(logger: logging.Logger) -> _LoggerState:
    return logger.level, list(logger.handlers), logger.propagate, logger.disabled


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]


def _is_of_library(name: str) -> bool:
    package = name.partition(".")[0]
    return package in sys.modules and not package.startswith(SCRIPT_PREFIX)

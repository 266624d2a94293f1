"""A block of a user's code that cannot end this process, replace it by another program, or double it.

    with stays("model nets:tiny"):
        factory(num_classes=9)                   # ModelError where it calls os._exit, os.exec*, os.fork or sys.exit

A net whose code calls `os._exit(0)` while the driver tries it would end the command with exit code 0 and nothing made;
one that calls `os.fork()` would leave two drivers, and two more at the next call. Inside the block, and in its thread,
such a call raises `Exit` where it is made. `multiprocessing` and `os.spawn*` may fork, because their processes end by
themselves. Threads that would keep the finished command alive are noted.

Does not cover: compiled extensions that exit or crash, and signals that the code sends to its own process.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import thread as executors
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ray_unlearn.errors import ModelError, first_line

_EXIT = os._exit
_FORKS_WELL = ".popen_fork"
"""End of the module's name by which `multiprocessing`, and packages of its kind, fork."""
_SPAWNS = "_spawnvef"
"""Function of `os` by which its `spawn*` fork: the copy becomes another program, or ends."""
_MOST_WRAPPERS = 3
"""Functions between these and the fork: debuggers and gevent put their own in the place of `os.fork`."""
_OF_C = ("exit", "_exit", "_Exit", "quick_exit", "fork", "vfork")
"""Functions that Python code reaches through `ctypes`, which reports each that it looks up."""
_MANAGER = "_ExecutorManagerThread"
"""Class of the thread of a pool of processes: of `concurrent.futures`, and of joblib's loky."""
_inside = threading.local()
"""`process`: the process that is in a block with this thread; 0 or none outside."""
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads that began during a block, and for which Python waits before it ends."""


class Exit(SystemExit):
    """A user's code called a function that ends, replaces or doubles its process: `call`, as text."""

    def __init__(self, call: str) -> None:
        """Take the call."""
        super().__init__(call)
        self.call = call


@contextmanager
def stays(where: str = "") -> Iterator[None]:
    """Keep this process, one and the same, while a user's code is executed in this thread.

    Args:
        where: opens the message of the `ModelError` that an exit becomes; empty: the exit is raised as it is.

    """
    _guard()
    process, before, threads = os.getpid(), getattr(_inside, "process", 0), {*threading.enumerate()}
    _inside.process = process
    try:
        yield
    except SystemExit as error:
        if not where:
            raise
        raise ModelError(f"{where}: {first_line(error)}, and it is executed in this command's process") from error
    finally:
        _inside.process = before
        if os.getpid() != process:  # C code forked: there is one driver, and one worker
            _EXIT(1)
        _threads.update(one for one in {*threading.enumerate()} - threads if not one.daemon)


def threads_left() -> list[str]:
    """Return the names of the threads that began during a block, and that keep this process alive.

    Those of executors, of threads and of processes, do not: Python ends them when it ends.
    """
    running = (one for one in {*_threads} - {*executors._threads_queues} if one.is_alive())
    return sorted(one.name for one in running if type(one).__name__ != _MANAGER)


@functools.cache
def _guard() -> None:
    """Put a function in the place of `os._exit`, and listen to what Python reports; once per process."""
    os._exit = _exit
    sys.addaudithook(_listen)


def _is_inside() -> bool:
    return getattr(_inside, "process", 0) == os.getpid()


def _exit(status: int) -> NoReturn:
    """End the process as `os._exit` does, except inside a block: a child that was forked there may end."""
    if _is_inside():
        raise Exit(f"os._exit({status!r})")
    _EXIT(status)


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("os.exec", "os.fork", "os.forkpty", "ctypes.dlsym") or not _is_inside():
        return
    if event == "os.exec":
        raise Exit(f"os.exec*({arguments[0]!r})")
    if event == "ctypes.dlsym":
        if arguments[1] in _OF_C:
            raise Exit(f"{arguments[1]} of the C library")
    elif not _ends_by_itself(sys._getframe(1)):
        raise Exit(f"{event}()")


def _ends_by_itself(frame: FrameType | None) -> bool:
    """Return whether the frame that forks is of `multiprocessing` or `os.spawn*`, whose copies never return to it."""
    for _ in range(1 + _MOST_WRAPPERS):
        if frame is None:
            return False
        if frame.f_code.co_name == _SPAWNS or str(frame.f_globals.get("__name__")).endswith(_FORKS_WELL):
            return True
        frame = frame.f_back
    return False

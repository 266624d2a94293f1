"""Start of Ray, or connection to it, in a thread, so that the caller can do other work meanwhile; it can be cancelled.

    start = Start(lambda: ray.init(...))
    ...                                          # other work, while Ray takes seconds
    start.wait()                                 # raises what `ray.init` raised
    start.cancel()                               # at any time: ends every process that the start began
    start.release()                              # after ray.shutdown()

The thread lives until it is released: the kernel ends each process of a local cluster with the thread that started it.

Does not cover: the arguments of the start (`backend`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path


class _Cancelled(BaseException):
    """Raised asynchronously in the thread; not an `Exception`, so that Ray does not swallow it."""


class Start:
    """One start or connection, in a thread of its own."""

    def __init__(self, connect: Callable[[], None]) -> None:
        self._connect = connect
        self._error: BaseException | None = None
        self._done, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="start-ray", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until Ray is connected.

        Raises:
            Exception: the exception of `connect`.

        """
        self._done.wait()
        if self._error is not None:
            raise self._error

    @property
    def is_done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        return self._done.is_set()

    def cancel(self) -> None:
        """End the processes that were started; return when the thread is done with that.

        Ray waits in Python until its last step, about a second in compiled code, which cannot be interrupted.
        """
        if not self._done.is_set():
            raised = ctypes.py_object(_Cancelled)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident or 0), raised)
            self._done.wait()

    def release(self) -> None:
        """Let the thread end; call it after Ray is shut down."""
        self._released.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            try:
                self._connect()
            except BaseException as error:  # raised in the thread that waits
                self._error = error
                _end_children()
            self._done.set()
            self._released.wait()
        except _Cancelled:  # raised just after Ray was connected
            self._done.set()


def _end_children() -> None:
    """End the running processes that this thread has started; the kernel does so only when the thread ends."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="ascii")
        for pid in children.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

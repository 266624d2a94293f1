"""Ray started, or joined, in a thread of its own, so that something else is done meanwhile; and given up on request.

    start = Start(lambda: ray.init(...))
    ...                                          # seconds, most of which Ray waits
    start.wait()                                 # raises what `ray.init` raised
    start.cancel()                               # at any time: no process is left that it started
    start.release()                              # after ray.shutdown()

The thread stays until it is released: the kernel ends each process of a local cluster with the thread that started it.

Does not cover: how Ray is started (`backend`).
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
    """Raised in the thread, wherever it is; not an `Exception`, so that Ray does not swallow it."""


class Start:
    """One attempt to connect."""

    def __init__(self, connect: Callable[[], None]) -> None:
        self._connect = connect
        self._error: BaseException | None = None
        self._done, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="start-ray", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until Ray is there.

        Raises:
            Exception: what `connect` raised.

        """
        self._done.wait()
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Give up: end what was started, and return when the thread is over.

        Ray waits in Python until its last step, a second or so in compiled code, which is waited for.
        """
        if not self._done.is_set():
            raised = ctypes.py_object(_Cancelled)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident or 0), raised)
            self._done.wait()

    def release(self) -> None:
        """Let the thread end; Ray is shut down."""
        self._released.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            try:
                self._connect()
            except BaseException as error:  # the thread that waits raises it
                self._error = error
                _end_children()
            self._done.set()
            self._released.wait()
        except _Cancelled:  # it came in the moment after Ray was there
            self._done.set()


def _end_children() -> None:
    """End the processes that this thread has started and that still run; the kernel would, when the thread ends."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="ascii")
        for pid in children.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

"""SIGINT and SIGTERM -> `Interrupted`, raised in the main thread, with a deadline for the whole command.

    with ends_within(GRACE_S), interrupts():
        ...

Runs in flight are dropped: a run is published whole or not at all, so none needs to be finished first. A second signal
ends the clean-up too, also where code swallowed the first; an `Interrupted` that Python swallows in a finaliser is
raised again. The process ends `GRACE_S` after the first signal in any case, also during a call into C or a request to
a storage that does not answer.

Does not cover: SIGKILL; the next driver removes the temporary files that it leaves.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from ray_unlearn.errors import Interrupted

GRACE_S = 10.0
"""Seconds from a signal to the end of a command, at most."""
RESUMABLE = "nothing is lost: the same command makes what is missing"
_AGAIN_S = 0.01
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OVER = b"\0"
"""Byte that reports the end of the block; no signal has this number."""
_PIPES: set[tuple[int, int]] = set()
"""Pipes of the `ends_within` blocks that this process is in: (read end, write end)."""


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Turn signals into `Interrupted` inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = {number: signal.getsignal(number) for number in _SIGNALS}, sys.unraisablehook

    def again(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, Interrupted):  # raised in a finaliser, where Python drops it
            main = threading.main_thread().ident
            threading.Timer(_AGAIN_S, signal.pthread_kill, (main, lost.exc_value.signum)).start()
        else:
            hook(lost)

    def handle(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    for number in _SIGNALS:
        signal.signal(number, handle)
    sys.unraisablehook = again
    try:
        yield
    except SystemError as error:  # compiled code, such as ray.wait, wraps what a handler raises inside it
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """End the process with exit code 128 + signal where the block has not ended `seconds` after the first signal.

    A thread measures the time: signal handlers wait until the main thread returns from compiled code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _keep_children_out()
    read_end, write_end = pipe = os.pipe()
    os.set_blocking(write_end, False)
    over = threading.Event()
    _PIPES.add(pipe)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_end, over, seconds), name="grace", daemon=True).start()
    try:
        yield
    finally:
        if pipe in _PIPES:  # else this is a forked child that leaves its parent's block
            over.set()
            signal.set_wakeup_fd(before)
            _PIPES.discard(pipe)
            with contextlib.suppress(BlockingIOError):
                os.write(write_end, _OVER)  # closing alone is not enough: a child process may hold the pipe open
            os.close(write_end)


@functools.cache
def _keep_children_out() -> None:
    os.register_at_fork(after_in_child=_close_inherited)


def _close_inherited() -> None:
    """Close the parent's pipes in a forked child, which must neither report signals there nor keep them open."""
    if _PIPES:
        signal.set_wakeup_fd(-1)
    for pipe in _PIPES:
        for end in pipe:
            os.close(end)
    _PIPES.clear()


def _watch(read_end: int, over: threading.Event, seconds: float) -> None:
    signum, deadline = 0, None
    while select.select([read_end], [], [], None if deadline is None else max(0.0, deadline - time.monotonic()))[0]:
        numbers = os.read(read_end, 16)
        if not numbers or _OVER in numbers:
            os.close(read_end)
            return
        first = next((number for number in numbers if number in _SIGNALS), 0)
        if first and deadline is None:
            signum, deadline = first, time.monotonic() + seconds
    if over.is_set():  # the block is just ending and may still write to the pipe, so it stays open
        return
    os.write(
        2,
        f"{Interrupted(signum)}; the command had not ended after {seconds:g} s and was stopped; {RESUMABLE}\n".encode(),
    )
    os._exit(128 + signum)

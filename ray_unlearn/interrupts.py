"""SIGINT and SIGTERM -> `Interrupted`, raised in the main thread; and an end to whatever does not heed it.

    with ends_within(GRACE_S), interrupts():
        ...

Whatever is in flight is dropped: a run is published whole or not at all, so nothing needs to be finished first. A
second signal ends the clean-up too, and code that swallows the first does not escape the second; where Python itself
swallows it, in a finaliser, it is raised again. A command is over
`GRACE_S` after the first signal in any case: what holds it then, a call into C or a storage that does not answer, ends
with the process.

Does not cover: SIGKILL; what it leaves is swept up by the next driver.
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
"""No signal's number: the block was left."""
_PIPES: set[tuple[int, int]] = set()
"""Of the blocks that this process is in: where signals are read, and where they are told."""


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Turn signals into `Interrupted` inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = {number: signal.getsignal(number) for number in _SIGNALS}, sys.unraisablehook

    def again(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, Interrupted):  # it struck in a finaliser, where nothing can be raised
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
    """End the process, as 128 + the signal, where the block is not left `seconds` after the first signal.

    A thread counts, not a handler: those wait until the main thread comes back from compiled code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _keep_children_out()
    told, tell = pipe = os.pipe()
    os.set_blocking(tell, False)
    over = threading.Event()
    _PIPES.add(pipe)
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(told, over, seconds), name="grace", daemon=True).start()
    try:
        yield
    finally:
        if pipe in _PIPES:  # else this is a forked child that leaves its parent's block
            over.set()
            signal.set_wakeup_fd(before)
            _PIPES.discard(pipe)
            with contextlib.suppress(BlockingIOError):
                os.write(tell, _OVER)  # its end alone would not do: somebody's child may hold the pipe open
            os.close(tell)


@functools.cache
def _keep_children_out() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """Close a forked child's ends of its parent's pipes: its signals are its own, and it keeps none of them open."""
    if _PIPES:
        signal.set_wakeup_fd(-1)
    for pipe in _PIPES:
        for end in pipe:
            os.close(end)
    _PIPES.clear()


def _watch(told: int, over: threading.Event, seconds: float) -> None:
    signum, deadline = 0, None
    while select.select([told], [], [], None if deadline is None else max(0.0, deadline - time.monotonic()))[0]:
        numbers = os.read(told, 16)
        if not numbers or _OVER in numbers:
            os.close(told)
            return
        first = next((number for number in numbers if number in _SIGNALS), 0)
        if first and deadline is None:
            signum, deadline = first, time.monotonic() + seconds
    if over.is_set():  # in this very moment: who left the block may still write to the pipe, so it stays
        return
    os.write(2, f"{Interrupted(signum)}; not over after {seconds:g} s, so it was cut short; {RESUMABLE}\n".encode())
    os._exit(128 + signum)

"""SIGINT and SIGTERM -> `Interrupted`, raised in the main thread.

    with interrupts() as arm:
        ray.init(...)                            # installs a SIGTERM handler of its own
        arm()                                    # so ours goes in again
        ...

Whatever is in flight is dropped: a run is published whole or not at all, so nothing needs to be finished first. A
second signal ends the clean-up too, and code that swallows the first does not escape the second.

Does not cover: SIGKILL; what it leaves is swept up by the next driver.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ray_unlearn.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Turn signals into `Interrupted` inside the block; yields a function that installs the handlers again."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    def arm() -> None:
        for number in _SIGNALS:
            signal.signal(number, handle)

    arm()
    try:
        yield arm
    except SystemError as error:  # compiled code, such as ray.wait, wraps what a handler raises inside it
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

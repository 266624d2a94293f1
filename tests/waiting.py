"""What tests of processes wait for: a condition; and a free port, and the programs of this machine.

    until(lambda: records_in(folder) >= 3, limit_s=120)

Does not cover: waiting for a process, whose end `wait` returns.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable


def until(condition: Callable[[], object], limit_s: float = 120.0, said: Callable[[], object] = str) -> None:
    """Wait until something is so; fail after a time, with what `said` returns."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:g} s\n{said()}"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether a process listens on a port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def which(name: str) -> str:
    """Return the path of a program, also of one for administrators; empty without it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""

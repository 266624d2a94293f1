"""Processes of a stranger's code: what they started is found, measured and ended. In the process that forks them.

    adopt_orphans()                              # once: what a child leaves behind becomes this process's child
    end_children()                               # kill and reap every child, and theirs, until none is left
    memory_of([pid, *descendants(pid)])          # bytes

Linux does all of it. Elsewhere there is no adoption: a child's process group is ended with it, and a process that left
the group stays.

Does not cover: forking and its protocol (`serving`), the memory of the package's own process (`memory`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from ray_unlearn.usercode.memory import madvise

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_MADV_COLLAPSE = 25  # linux/mman.h
_LARGE_PAGE = 2 * 2**20
_PROC = Path("/proc")
_AGAIN_S = 0.002


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent, a descendant of this process, has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, also where that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def first_to_go() -> None:
    """Let the kernel choose this process, and those that it starts, before all others where memory runs out."""
    with contextlib.suppress(OSError):
        (_PROC / "self/oom_score_adj").write_text("1000", encoding="ascii")


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, of their children, and so on; empty without Linux's /proc."""
    found, pending = [], [pid]
    while pending:
        children = _children(pending.pop())
        found += children
        pending += children
    return found


def _children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for task in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(one) for one in (task / "children").read_text(encoding="ascii").split()]
    return found


def end_children(kept: Collection[int] = (), within_s: float = 5.0) -> None:
    """Kill this process's children and theirs, and reap them; give up after a time, because one may be in the kernel.

    Of a process that is killed, this process inherits the children; so the last one is found after a few rounds.

    Args:
        kept: children that live on, with theirs.
        within_s: seconds after which it gives up.

    """
    ends_at = time.monotonic() + within_s
    while time.monotonic() < ends_at:
        children = [child for child in _children(os.getpid()) if child not in kept]
        for pid in [*children, *(below for child in children for below in descendants(child))]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if kept and not children:
            return
        time.sleep(_AGAIN_S)


def memory_of(pids: Iterable[int], beyond: int = 0) -> int:
    """Return the bytes of memory that processes hold, without files that they map; 0 without Linux's /proc.

    Args:
        pids: the processes.
        beyond: bytes that each was forked with, and shares with the process that forked it: not counted.

    """
    found = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            _, resident, shared, *_ = (_PROC / str(pid) / "statm").read_text(encoding="ascii").split()
            found += max(0, (int(resident) - int(shared)) * resource.getpagesize() - beyond)
    return found


def gather_pages() -> None:
    """Put this process's own memory into pages of 2 MiB, so that to fork it, and to end the fork, is quick.

    Of 420 MiB, a fork copies one entry per page: it took 25 ms from its start to its end with pages of 4 KiB, 6 ms with
    large ones (one core of a virtual machine, Linux 6.18). Does nothing before Linux 6.1, and elsewhere.
    """
    maps, advise = _PROC / "self/maps", madvise()
    if advise is None or not maps.exists():
        return
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, rights, _, _, inode, *name = line.split()
        if rights == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in addresses.split("-"))
            for place in range(-(-start // _LARGE_PAGE) * _LARGE_PAGE, end - _LARGE_PAGE + 1, _LARGE_PAGE):
                advise(place, _LARGE_PAGE, _MADV_COLLAPSE)  # a part that is empty, or in use, stays as it is


def how_it_ended(status: int) -> str:
    """Return how a process ended, in words, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name, text = signal.Signals(-code).name, signal.strsignal(-code)
    except ValueError:  # a real-time signal
        name, text = f"number {-code}", None
    return f"was ended by signal {name}{f' ({text})' if text else ''}"

"""A limit on the memory of some processes, and what they hold over time; on Linux, as root.

    with limited(1.5e9) as group, Memory(lambda: anonymous_mb([child.pid])) as memory:
        ...                                      # a child that writes its pid to group / "cgroup.procs" is limited
    memory.at(time.monotonic()), most_mb(group)

The limit is a memory control group below this process's own (version 1, which was run; version 2 was not).

Does not cover: memory of a GPU; the peak of a whole tree of processes (`measured_process`).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sampler import Sampler

from ray_unlearn.errors import RayUnlearnError

_GROUPS = Path("/sys/fs/cgroup")


class Memory(Sampler[tuple[float, float]]):
    """Samples what processes hold, every 0.2 s: (time.monotonic(), MB of 10^6 bytes)."""

    def __init__(self, look: Callable[[], float]) -> None:
        super().__init__(lambda: (time.monotonic(), look()), every_s=0.2)

    def at(self, moment: float) -> float:
        """Return the last sample up to a moment."""
        return [held for when, held in self.samples if when <= moment][-1]


def anonymous_mb(pids: list[int]) -> float:
    """Return what processes hold next to mapped files."""
    return sum(_anonymous(Path("/proc") / str(pid) / "status") for pid in pids)


def _anonymous(status: Path) -> float:
    try:
        lines = status.read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon:"))


@contextmanager
def limited(limit_bytes: float | None) -> Iterator[Path | None]:
    """Make a memory control group of this process's own for the children that enter it; None without a limit."""
    if limit_bytes is None:
        yield None
        return
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((path for _, names, path in lines if names == "memory"), None)
    parent = _GROUPS if own is None else _GROUPS / "memory" / own.lstrip("/")
    group = parent / f"ray_unlearn_streaming_{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if own is None else "memory.limit_in_bytes")).write_text(str(int(limit_bytes)))
    except OSError as error:
        raise RayUnlearnError(f"{group}: no limit can be put on memory here ({error.strerror}); be root") from error
    try:
        yield group
    finally:
        group.rmdir()


def most_mb(group: Path | None) -> float | None:
    """Return the most that a control group held: its processes' memory and the page cache that they filled."""
    if group is None:
        return None
    file = next(path for name in ("memory.peak", "memory.max_usage_in_bytes") if (path := group / name).exists())
    return int(file.read_text()) / 1e6

"""CPU cores of this machine that runs may use.

    cores()                                      # 2 in a container of two cores on a machine of 64

Does not cover: what Ray counts on the nodes of a cluster.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use: those that it may run on, or its container's quota, at least 1.

    Ray counts the CPUs of a local cluster by the same quota, rounded down.

    Args:
        groups: folder of the control groups; inside a container, the root is the container's own group.

    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # version 2: `max 100000`, or microseconds of a period
        quota, period = (groups / "cpu.max").read_text(encoding="ascii").split()
        return max(1, min(found, int(quota) // int(period)))
    with suppress(OSError, ValueError):  # version 1: -1, or microseconds
        quota, period = (
            (groups / f"cpu/cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
        )
        return max(1, min(found, int(quota) // int(period))) if int(quota) > 0 else found
    return found

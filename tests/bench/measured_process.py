"""Run a command as a process of its own; how long it took, and the most memory that it and its children held.

    measured = run_measured([sys.executable, "work.py"], log=Path("work.log"))
    measured.wall_s, measured.peak_mb

Memory: VmHWM (the peak resident set) of every process of the tree that is alive, summed, and the largest of these sums
over samples. Pages that processes share count once for each. Only where there is a /proc (Linux); elsewhere None.

Does not cover: memory of a GPU.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.errors import RayUnlearnError

_SAMPLE_S = 0.2
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a finished process took."""

    wall_s: float
    """From its start to its end."""
    peak_mb: float | None
    """MB, 10^6 bytes."""
    load: float
    """The machine's load average of one minute when it began: what others were doing."""


def run_measured(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end; what it prints goes to `log`.

    Raises:
        RayUnlearnError: it failed; the message has its last lines.

    """
    load, peak = os.getloadavg()[0], 0
    with log.open("wb") as sink:
        begin = time.monotonic()
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            while process.poll() is None:
                peak = max(peak, tree_bytes(process.pid))
                _wait(process)
            wall_s = time.monotonic() - begin
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise RayUnlearnError(f"{' '.join(command)}: ended with {process.returncode}: {tail}")
    return Measured(wall_s=wall_s, peak_mb=peak / 1e6 if peak else None, load=load)


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=_SAMPLE_S)
    except subprocess.TimeoutExpired:
        return


def tree_bytes(root: int) -> int:
    """Return the summed peak resident sets of a process and its descendants that are alive; 0 without /proc."""
    parents = {int(entry.name): _parent(entry) for entry in _PROC.glob("[0-9]*")}
    family = {root}
    while fresh := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= fresh
    return sum(_high_water(_PROC / str(pid)) for pid in family)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return -1


def _high_water(process: Path) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

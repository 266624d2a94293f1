"""Processes of jobs/sweep_device.py that share a device: started together, timed together, ended whatever happens.

    reports = run_members(setting, "alone", [[0], [1], [2]], Path("weights"))     # three processes of one run each

Every process imports, opens and captures by itself; a barrier lets all of them begin the timed epochs at once. Where
one fails, the others are ended and its reason is the error.

Does not cover: what a process does (`sweep_runs`).
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sweep_runs import Report, Setting, measure

from ray_unlearn.errors import RayUnlearnError

_PATIENCE_S = 300.0
"""For the slowest process to come to the barrier."""
_GOODBYE_S = 10.0


def run_members(setting: Setting, way: str, parts: Sequence[Sequence[int]], folder: Path) -> list[Report]:
    """Run one process per part and return their reports.

    Args:
        setting: what to train.
        way: of `sweep_runs`, in each process.
        parts: the runs of each process.
        folder: where each run's weights are saved.

    Raises:
        RayUnlearnError: a process failed or was killed.

    """
    context = multiprocessing.get_context("spawn")
    barrier, pipes = context.Barrier(len(parts)), [context.Pipe(duplex=False) for _ in parts]
    processes = [
        context.Process(target=_member, args=(setting, way, part, barrier, sink, folder), daemon=True)
        for part, (_, sink) in zip(parts, pipes, strict=True)
    ]
    patience_s = 0.0
    try:
        for process, (_, sink) in zip(processes, pipes, strict=True):
            process.start()
            sink.close()  # only the process holds it now: its end can be seen
        reports = _heard([source for source, _ in pipes])
        patience_s = _GOODBYE_S
    finally:
        for process in (each for each in processes if each.pid is not None):
            process.join(patience_s)
            process.kill()
            process.join()
    return reports


def _member(
    setting: Setting, way: str, runs: Sequence[int], barrier: Barrier, sink: Connection, folder: Path
) -> None:
    """Measure, and send a report, or why there is none; an empty reason where another process was the first to fail."""
    try:
        sink.send(measure(setting, way, runs, partial(barrier.wait, _PATIENCE_S), folder))
    except threading.BrokenBarrierError:
        sink.send("")
    except BaseException as error:
        sink.send(f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}")  # before others give up
        barrier.abort()


def _heard(sources: Sequence[Connection]) -> list[Report]:
    """Return all reports; raise the first reason that comes instead of one."""
    found: dict[int, Report] = {}
    while len(found) < len(sources):
        ready = wait([source for number, source in enumerate(sources) if number not in found])
        said = {number: _said(source) for number, source in enumerate(sources) if source in ready}
        found |= {number: report for number, report in said.items() if isinstance(report, Report)}
        reasons = [reason for reason in said.values() if isinstance(reason, str)]
        if reasons:
            raise RayUnlearnError(next(filter(None, reasons), "a process waited for the others in vain"))
    return [found[number] for number in range(len(sources))]


def _said(source: Connection) -> Report | str:
    try:
        said: Report | str = source.recv()
    except EOFError:
        return "a process was killed (out of memory?)"
    return said

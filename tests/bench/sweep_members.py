"""Processes of sweep_device.py that share a device: started together, timed together, ended in any case.

    reports = run_members(setting, "alone", [[0], [1], [2]], Path("weights"))     # three processes of one run each

Every process imports, opens and captures by itself, in a first epoch that is not timed; a barrier lets all of them
begin the others at once. Where one fails, the rest are ended and its reason is the error.

Does not cover: how a process trains its runs (`sweep_runs`).
"""

from __future__ import annotations

import multiprocessing
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from profile_step import finish, settle
from safetensors.torch import save_file
from sweep_runs import WAYS, Setting

from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.training.precision import check_supported

_PATIENCE_S = 300.0
"""For the slowest process to come to the barrier."""
_GOODBYE_S = 10.0
_LONGEST_S = 3600.0
"""From one report to the next: a device that hangs reports nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one process measured."""

    begin: float
    """Seconds of the machine's monotonic clock; all processes waited for each other before."""
    end: float
    mb: float
    """On a GPU: in use on the whole device when all had trained, contexts included. On a CPU: this process's peak."""
    device: str


def measure(setting: Setting, way: str, runs: Sequence[int], together: Callable[[], object], folder: Path) -> Report:
    """Train the runs, time all epochs but the first, and save each run's weights as `folder/<run>.safetensors`.

    Args:
        setting: what to train.
        way: `alone`, `streams` or `packed`.
        runs: their indexes, which are their seeds.
        together: called before the timed epochs and after them; returns when all processes have called it.
        folder: where to save.

    Raises:
        RayUnlearnError: the device lacks the precision, a loss is not finite, or there are too many runs for streams.

    """
    device = torch.device(setting.device)
    settle(device, deterministic=setting.deterministic)
    torch.set_num_threads(1)
    check_supported(setting.recipe.precision, device)
    group = WAYS[way](setting, runs)
    group.epoch()
    finish(device)
    together()
    begin = time.monotonic()
    for _ in range(setting.epochs):
        group.epoch()
    finish(device)
    end, used = time.monotonic(), _used_mb(device)
    together()
    for run, state in group.states().items():
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, folder / f"{run}.safetensors")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Report(begin=begin, end=end, mb=used, device=name)


def _used_mb(device: torch.device) -> float:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


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
        reports = _reports([source for source, _ in pipes])
        patience_s = _GOODBYE_S
    finally:
        for process in (each for each in processes if each.pid is not None):
            process.join(patience_s)
            process.kill()
            process.join()
    return reports


def _member(setting: Setting, way: str, runs: Sequence[int], barrier: Barrier, sink: Connection, folder: Path) -> None:
    """Measure, and send a report, or why there is none; an empty reason where another process was the first to fail."""
    try:
        sink.send(measure(setting, way, runs, partial(barrier.wait, _PATIENCE_S), folder))
    except threading.BrokenBarrierError:
        sink.send("")
    except BaseException as error:
        sink.send(f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}")  # before others give up
        barrier.abort()


def _reports(sources: Sequence[Connection]) -> list[Report]:
    """Return all reports; raise the first reason that comes instead of one."""
    found: dict[int, Report] = {}
    while len(found) < len(sources):
        ready = wait([source for number, source in enumerate(sources) if number not in found], _LONGEST_S)
        if not ready:
            raise RayUnlearnError(f"nothing was heard from the processes for {_LONGEST_S:g} s")
        received = {number: _received(source) for number, source in enumerate(sources) if source in ready}
        found |= {number: report for number, report in received.items() if isinstance(report, Report)}
        reasons = [reason for reason in received.values() if isinstance(reason, str)]
        if reasons:
            raise RayUnlearnError(next(filter(None, reasons), "a process waited for the others in vain"))
    return [found[number] for number in range(len(sources))]


def _received(source: Connection) -> Report | str:
    try:
        received: Report | str = source.recv()
    except EOFError:
        return "a process was killed (out of memory?)"
    return received

"""Runs of one pack, trained together before each is predicted and published by itself.

    found = train_pack(runs, size, begin)        # {run: PackedRun}; begin(run, slot) returns what the run needs
    model = found[run].trained()                 # or the error that ended this run, or its pack

A run's slot is its index modulo the size of a pack, and runs share a pack whose indices are equal without that
remainder, so that a run has the same slot whichever runs of its pack are still to be made.

Does not cover: the step itself (`training.packed`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from ray_unlearn.run.artefacts import RunWriter
from ray_unlearn.run.run_log import RunLog, recorded
from ray_unlearn.study.plan import Run
from ray_unlearn.training.packed import Pack, Slot
from ray_unlearn.usercode.exits import stays


@dataclass(kw_only=True)
class PackedRun:
    """A run that was trained in a pack."""

    writer: RunWriter
    model: nn.Module | None = None
    error: Exception | SystemExit | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    """Its share of the pack's seconds and CPU seconds."""

    def trained(self) -> nn.Module:
        """Return the trained model; raise the error that ended the run."""
        if self.error is not None or self.model is None:
            raise self.error or RuntimeError("a pack ended without this run")
        return self.model


Begin = Callable[[RunWriter, Run, Slot], nn.Module]
"""Function that executes a run's method up to its training, which joins the slot's pack; returns the run's model."""


def train_pack(
    runs: Sequence[Run], size: int, writer_of: Callable[[Run], RunWriter], begin: Begin
) -> dict[Run, PackedRun]:
    """Train runs of one pack; a run that fails by itself does not end the others.

    What the net prints in a pack is of no single run, and is dropped.
    """
    start, start_cpu = time.monotonic(), time.process_time()
    pack = Pack(size)
    found = {run: PackedRun(writer=writer_of(run)) for run in runs}
    with recorded(RunLog()), stays():
        for run, one in found.items():
            try:
                one.model = begin(one.writer, run, Slot(pack, run.index % size))
            except (Exception, SystemExit) as error:  # as of any run
                one.error = error
        try:
            failed = pack.train()
        except (Exception, SystemExit) as error:
            for one in found.values():
                one.error = one.error or error
            failed = {}
    share = (time.monotonic() - start) / len(runs), (time.process_time() - start_cpu) / len(runs)
    for run, one in found.items():
        one.error = one.error or failed.get(run.index % size)
        one.seconds = share
    return found

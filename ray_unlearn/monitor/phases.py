"""Time of one `generate` by phase; the phases add up to the whole.

    phases = Phases()
    phases.enter("prepare")                      # from here on, until the next phase is entered
    phases.enter("runs")
    phases.end()                                 # {"prepare": 1.2, "runs": 34.5}

Work in parallel (Ray starts while the data are opened, a run is published while the next one trains) is not counted
twice: a phase is time that the command waited for.

Does not cover: the time of a single run, which is in its record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ray_unlearn.schedule.events import Event
from ray_unlearn.schedule.pool import Ready

PHASES = {"prepare": "data", "connect": "Ray", "workers": "workers", "runs": "runs", "finish": "finish"}
"""Phase -> its name for people. prepare: plan and data. connect: Ray started or joined. workers: until the first worker
is ready. runs: from then until the last run is published. finish: metrics, and everything closed."""

_STARTING = ("prepare", "connect", "workers")


class Phases:
    """A stopwatch that always runs for exactly one phase."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase, self._since = "prepare", clock()
        self._seconds: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """Switch to a phase; its time adds to that of earlier visits. Entering the current phase changes nothing."""
        now = self._clock()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def __call__(self, event: Event) -> None:
        """Enter `runs` with the first ready worker; a sink of the schedule's events."""
        if isinstance(event, Ready):
            self.enter("runs")

    def end(self) -> dict[str, float]:
        """Return seconds by phase, in the order of `PHASES`, without phases that were never entered."""
        self.enter(self._phase)
        return {phase: self._seconds[phase] for phase in PHASES if phase in self._seconds}


def phases_line(seconds: Mapping[str, float]) -> str:
    """Return the phases as one line: `start: 1.2 s data, 3.1 s Ray, 6.0 s workers; runs: 40.2 s; finish: 0.3 s`."""
    start = ", ".join(f"{seconds[phase]:.1f} s {PHASES[phase]}" for phase in _STARTING if phase in seconds)
    rest = [f"{PHASES[phase]}: {value:.1f} s" for phase, value in seconds.items() if phase not in _STARTING]
    return "; ".join([f"start: {start}", *rest])

"""Time left of a `generate`, from the seconds per run of each population; it also moves while runs are at work.

    left = TimeLeft(Counter(run.population for run in pending), {"finetune": 2.5})
    for event in schedule(...):
        left(event)
    left.seconds(now)

A population whose runs cost a hundred times those of another counts a hundred times as much. Seconds per run are the
mean of the runs made now, at first of the given ones; a population without either counts with the mean of the others.

Does not cover: showing it (`console`), starting workers, another process's view (`watch`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from ray_unlearn.schedule.events import Ended, Event, Failed, Made, Retried, Started, Stopped
from ray_unlearn.schedule.pool import Lost, Ready
from ray_unlearn.study.plan import Run


class TimeLeft:
    """A sink that knows which runs are left, which are at work, and how long their kind takes."""

    def __init__(self, pending: Mapping[str, int], seconds: Mapping[str, float] | None = None) -> None:
        self._pending = Counter(pending)
        """Population -> number of runs neither made nor given up."""
        self._known = dict(seconds or {})
        """Population -> seconds per run, before a run was made now."""
        self._made = Counter[str]()
        self._seconds: dict[str, float] = {}
        self._at_work: dict[int, deque[Run]] = {}
        """Ready worker -> the runs that it was given, oldest first."""
        self._since: dict[int, float] = {}
        """Worker -> time when it began its oldest run."""

    def note(self, event: Event, now: float) -> None:
        """Update with an event that happened `now`, in seconds of any steady clock."""
        if isinstance(event, Ready):
            self._at_work[event.worker] = deque()
        elif isinstance(event, Lost | Stopped):
            self._at_work.pop(event.worker, None)
        elif isinstance(event, Started):
            runs = self._at_work.setdefault(event.worker, deque())
            if not runs:
                self._since[event.worker] = now
            runs.extend(run for run, _ in event.attempts)
        elif isinstance(event, Made | Retried | Failed):
            self._ended(event, now)
        elif isinstance(event, Ended):
            self._pending[event.population] -= len(event.runs)

    def _ended(self, event: Made | Retried | Failed, now: float) -> None:
        run, worker = event.outcome.run, event.worker
        if worker is not None and run in self._at_work.get(worker, ()):
            self._at_work[worker].remove(run)
            self._since[worker] = now
        if isinstance(event, Made):
            self._made[run.population] += 1
            self._seconds[run.population] = self._seconds.get(run.population, 0.0) + event.outcome.seconds
        if not isinstance(event, Retried):
            self._pending[run.population] -= 1

    def seconds(self, now: float) -> float | None:
        """Return the seconds until every run is made or given up; None while no run of any population is known."""
        each = {name: self._seconds[name] / count for name, count in list(self._made.items())}
        each = {**self._known, **each}
        if not each:
            return None
        other = sum(each.values()) / len(each)
        work = sum(max(0, count) * each.get(name, other) for name, count in list(self._pending.items()))
        for worker, runs in list(self._at_work.items()):
            if runs:
                work -= min(now - self._since.get(worker, now), each.get(runs[0].population, other))
        return max(0.0, work) / max(1, len(self._at_work))

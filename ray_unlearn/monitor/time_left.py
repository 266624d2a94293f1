"""Time left of a `generate`, from the seconds per run of each population; it also moves while runs are at work.

    left = TimeLeft(Counter(run.population for run in pending), {"finetune": 2.5})
    for event in schedule(...):
        left(event)
    left.seconds(now)

A population whose runs cost a hundred times those of another counts a hundred times as much. Seconds per run are the
mean of the runs made now, at first of the given ones; a population without either counts with the mean of the others.
No worker's own runs are divided among others, and runs of a pack are at work together.

Does not cover: showing it (`console`), starting workers, another process's view (`watch`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from ray_unlearn.schedule.events import Ended, Event, Failed, Made, Retried, Started, Stopped
from ray_unlearn.schedule.pool import Lost, Ready
from ray_unlearn.study.plan import Run


class TimeLeft:
    """A sink that knows which runs are left, which are at work, and how long their kind takes."""

    def __init__(
        self,
        pending: Mapping[str, int],
        seconds: Mapping[str, float] | None = None,
        pack_of: Callable[[Run], object] = lambda run: None,
    ) -> None:
        """Begin with numbers of runs to make, seconds of a run that was made, and the function of `Plan.pack_of`."""
        self._pack_of = pack_of
        self._pending = Counter(pending)
        """Population -> number of runs neither made nor given up."""
        self._known = dict(seconds or {})
        """Population -> seconds per run, before a run was made now."""
        self._made = Counter[str]()
        self._seconds: dict[str, float] = {}
        self._at_work: dict[int, deque[Run]] = {}
        """Ready worker -> the runs that it was given, oldest first."""
        self._since: dict[int, float] = {}
        """Worker -> time when it began its oldest run, or the pack of that run."""
        self._trained: dict[int, object] = {}
        """Worker -> the pack of which it has reported a run, so that all of its runs are trained."""

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
                self._trained.pop(event.worker, None)
            runs.extend(run for run, _ in event.attempts)
        elif isinstance(event, Made | Retried | Failed):
            self._ended(event, now)
        elif isinstance(event, Ended):
            self._pending[event.population] -= len(event.runs)

    def _ended(self, event: Made | Retried | Failed, now: float) -> None:
        run, worker = event.outcome.run, event.worker
        if worker is not None and run in self._at_work.get(worker, ()):
            self._at_work[worker].remove(run)
            self._since[worker], self._trained[worker] = now, self._pack_of(run)
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
        work, longest = sum(max(0, count) * each.get(name, other) for name, count in list(self._pending.items())), 0.0
        for worker, held in list(self._at_work.items()):
            runs = list(held)
            done = self._done_s(worker, runs, [each.get(run.population, other) for run in runs], now)
            longest = max(longest, sum(each.get(run.population, other) for run in runs) - done)
            work -= done
        return max(work / max(1, len(self._at_work)), longest)

    def _done_s(self, worker: int, runs: Sequence[Run], seconds: Sequence[float], now: float) -> float:
        """Return how many seconds of its runs' a worker has spent since it reported one."""
        if not runs:
            return 0.0
        pack = self._pack_of(runs[0])
        together = 1 if pack is None else sum(1 for _ in takewhile(lambda run: self._pack_of(run) == pack, runs))
        total, is_trained = sum(seconds[:together]), pack is not None and self._trained.get(worker) == pack
        return total if is_trained else min(now - self._since[worker], total)

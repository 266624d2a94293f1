"""Counters and gauges on Ray's own Prometheus endpoint, which every node of a cluster has.

    meters = RayMeters(study)                    # in the driver, once connected
    for event in schedule(...):
        meters(event)

On the endpoint: `ray_unlearn_runs_made_total`, `_runs_failed_total`, `_bytes_written_total`, `_run_seconds` (histogram)
by study and population, `_workers`, `_images_per_second` by study. The number of series depends on the number of
populations, not on N: no tag is a run, a worker or a seed. Numbers appear about ten seconds later.

Does not cover: Ray's own metrics, a server that collects metrics (`ray metrics launch-prometheus`).
"""

from __future__ import annotations

import time
from collections import Counter, deque

from ray.util import metrics

from ray_unlearn.run.outcome import Spent
from ray_unlearn.schedule.events import Event, Failed, Made, Stopped
from ray_unlearn.schedule.pool import Lost, Ready
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study

_BOUNDS_S = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0]
_TAGS = ("study", "population")
_WINDOW_S = 60.0
_REPORT_EVERY_S = 0.5  # Ray takes some twenty microseconds for each number


class RayMeters:
    """A sink that updates counters and gauges for a monitoring system."""

    def __init__(self, study: Study) -> None:
        self._study = {"study": study.name}
        self._made = metrics.Counter("unlearn_runs_made", "Runs published.", _TAGS)
        self._failed = metrics.Counter("unlearn_runs_failed", "Runs given up.", _TAGS)
        self._bytes = metrics.Counter("unlearn_bytes_written", "Bytes of payloads published.", _TAGS)
        self._seconds = metrics.Histogram("unlearn_run_seconds", "Seconds of a worker per run.", _BOUNDS_S, _TAGS)
        self._workers = metrics.Gauge("unlearn_workers", "Workers that are ready.", ("study",))
        self._rate = metrics.Gauge("unlearn_images_per_second", "Trained on, in the last minute.", ("study",))
        self._new: Counter[str] = Counter()
        self._new_bytes: Counter[str] = Counter()
        self._recent: deque[tuple[float, int]] = deque()
        """Time of a run's end in s, and its images; the first one is the first event's time, without images."""
        self._reported_at = float("-inf")
        self._ready: set[int] = set()

    def __call__(self, event: Event) -> None:
        """Count an event that happens now."""
        self.note(event, time.monotonic())

    def note(self, event: Event, at_s: float) -> None:
        """Count an event that happened at a time, in seconds of `time.monotonic`."""
        if not self._recent:
            self._recent.append((at_s, 0))
        if isinstance(event, Made):
            self._made_run(event.outcome.run, event.outcome.spent or Spent(), at_s)
        elif isinstance(event, Failed):
            self._failed.inc(1, self._tags(event.outcome.run.population))
        elif isinstance(event, Ready):
            self._ready.add(event.worker)
            self._workers_are()
        elif isinstance(event, Lost | Stopped):
            self._ready.discard(event.worker)
            self._workers_are()

    def _made_run(self, run: Run, spent: Spent, at_s: float) -> None:
        """Count a run, its bytes, its seconds and its images; report to Ray now and then."""
        self._seconds.observe(sum(spent.seconds.values()), self._tags(run.population))
        self._new[run.population] += 1
        self._new_bytes[run.population] += spent.size_bytes
        self._recent.append((at_s, spent.images))
        if time.monotonic() - self._reported_at > _REPORT_EVERY_S:
            self._report()

    def _workers_are(self) -> None:
        """Report the number of ready workers, and all counts: the last workers stop after the last run."""
        self._report()
        self._workers.set(len(self._ready), self._study)

    def _tags(self, population: str) -> dict[str, str]:
        return self._study | {"population": population}

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        for counter, new in ((self._made, self._new), (self._bytes, self._new_bytes)):
            for population, count in new.items():
                if count:
                    counter.inc(count, self._tags(population))
            new.clear()
        while len(self._recent) > 1 and self._reported_at - self._recent[0][0] > _WINDOW_S:
            self._recent.popleft()
        elapsed = self._reported_at - self._recent[0][0]
        images = sum(images for _, images in list(self._recent)[1:])  # the first one marks the start
        if elapsed > 1.0:  # a shorter time gives no rate
            self._rate.set(images / elapsed, self._study)

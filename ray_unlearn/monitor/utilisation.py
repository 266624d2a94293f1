"""Utilisation of the workers of one `generate`: the share of their time in which they were busy, from its events.

    events = EventReader(store).newest()
    use = utilisation(events)
    use.share                                    # 0.97; None where no run was made

A worker is busy while it trains, predicts or publishes, by its own clock; the driver's time from dispatch to report
does not count. The window is from the first run's start to the last run's end. Within it, a worker is present from when
it was ready until the window's end or its loss, also after the scheduler stopped it for lack of runs. A worker that had
to stop, because its memory had grown, its GPU had failed or its node is drained, is present until it has finished its
runs. Time that a killed worker spent on runs that it never reported counts as idle.

Does not cover: how well a busy worker uses its device (a run's images per second).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ray_unlearn.store.events import Event

Span = tuple[float, float]
_GONE = ("lost", "recycled", "poisoned")


@dataclass(frozen=True, kw_only=True, slots=True)
class Utilisation:
    """Worker seconds between the first run's start and the last run's end."""

    runs: int
    """Number of runs that were made or tried."""
    workers: int
    """Number of workers that were present in the window."""
    window_s: float
    busy_s: float
    """Busy seconds of all workers together."""
    there_s: float
    """Seconds of presence of all workers together."""

    @property
    def share(self) -> float | None:
        """Busy seconds over seconds of presence; None if no worker was present."""
        return self.busy_s / self.there_s if self.there_s else None


def utilisation(events: Iterable[Event]) -> Utilisation:
    """Add up one log's events; damaged events are skipped."""
    busy: dict[int, list[Span]] = {}
    ready, gone, leaving, runs = dict[int, float](), dict[int, float](), set[int](), 0
    for event in events:
        worker, at = event.get("worker"), _since_epoch(event)
        if not isinstance(worker, int) or at is None:
            continue
        if event["event"] == "ready":
            ready[worker] = at
        elif event["event"] == "leaving":
            leaving.add(worker)
        elif event["event"] in _GONE or (event["event"] == "stopped" and worker in leaving):
            gone.setdefault(worker, at)
        elif event["event"] in ("made", "failed"):
            runs += 1
            busy.setdefault(worker, []).extend(_spans(event.get("busy")))
    spans = [span for each in busy.values() for span in each]
    if not spans:
        return Utilisation(runs=runs, workers=0, window_s=0.0, busy_s=0.0, there_s=0.0)
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    present = {}
    for worker in {*ready, *busy}:
        begin = min([max(first, ready.get(worker, first)), *(start for start, _ in busy.get(worker, ()))])
        end = min(last, max([gone.get(worker, last), *(end for _, end in busy.get(worker, ()))]))
        if end > begin:
            present[worker] = end - begin
    return Utilisation(
        runs=runs,
        workers=len(present),
        window_s=last - first,
        busy_s=sum(_length(busy.get(worker, ())) for worker in present),
        there_s=sum(present.values()),
    )


def utilisation_line(use: Utilisation) -> str:
    """Return one line: `2 workers busy 96.8 % of 71.2 s between the first and the last of 40 runs`."""
    if use.share is None:
        return "no run was made"
    workers = f"{use.workers} worker" + "s" * (use.workers != 1)
    time = f"{100 * use.share:.1f} % of {use.window_s:.1f} s"
    if use.runs == 1:
        return f"{workers} busy {time} with 1 run"
    return f"{workers} busy {time} between the first and the last of {use.runs} runs"


def _length(spans: Sequence[Span]) -> float:
    """Return the seconds covered by at least one span: a run is published while the next one trains."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _spans(value: Any) -> list[Span]:
    try:
        return [(float(start), float(end)) for start, end in value if -math.inf < float(start) <= float(end) < math.inf]
    except (TypeError, ValueError, OverflowError):
        return []


def _since_epoch(event: Event) -> float | None:
    try:
        return datetime.fromisoformat(event["at"]).timestamp()
    except (ValueError, OverflowError):
        return None

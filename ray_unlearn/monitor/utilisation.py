"""How busy workers were: from the events of one `generate` to one number.

    events = EventReader(store).newest()
    use = utilisation(events)
    use.share                                    # 0.97; None where no run was made

Busy is what workers say of themselves: training, predicting and publishing, by their own clocks, not the time from the
driver's dispatch to its hearing the outcome. The time that counts is from the first run's start to the last run's end:
for every worker from when it was ready, also after the scheduler let it go for want of work, until then or its loss.
One that had to go, because its memory had grown, its GPU had failed or its node is drained, is there until it has
finished what it had. Time that a killed worker spent on runs that it never told of counts as idle.

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
    """Made, or tried."""
    workers: int
    """That worked or waited then."""
    window_s: float
    busy_s: float
    """Of all workers together."""
    there_s: float
    """How long workers were there, all together."""

    @property
    def share(self) -> float | None:
        """Busy over there; None where nobody was."""
        return self.busy_s / self.there_s if self.there_s else None


def utilisation(events: Iterable[Event]) -> Utilisation:
    """Add up one log's events; those that are damaged count for nothing."""
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
    """Return it as a line: `2 workers busy 96.8 % of 71.2 s between first and last run`."""
    if use.share is None:
        return "no run was made"
    workers = f"{use.workers} worker" + "s" * (use.workers != 1)
    time = f"{100 * use.share:.1f} % of {use.window_s:.1f} s"
    return f"{workers} busy {time} between the first and the last of {use.runs} runs"


def _length(spans: Sequence[Span]) -> float:
    """Return the length of the union of spans: a run is published while the next one trains."""
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

"""What the driver sees, told to the log of events and to meters; the scheduler knows nothing of it.

    recorder = Recorder(log, meters)
    recorder.begun(job, planned=64, pending=runs, workers="up to 2 workers on cpu")
    Scheduler(plan, recorder.observed(pool), ...).run()
    recorder.ended(tally, phases)

Events: begun; ready, given, made, failed, given up, recycled, poisoned, leaving, lost, stopped; preparing and alive
(`store.events`); ended, or broken off. None holds a path or a URI: what an error says of one is left out here, and
stands in the run's file under failed/.

Does not cover: how events are kept (`store.events`), nor what they add up to (`report.utilisation`).
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from ray_unlearn.driver.pool import Finished, Leaving, Lost, Pool, Ready
from ray_unlearn.driver.tally import Tally
from ray_unlearn.outcome import Attempt, Outcome, Spent
from ray_unlearn.store.events import EventLog
from ray_unlearn.study.plan import Run

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.worker import Job

_TOLD = 300
_WORD = re.compile(r"[^\s'\",;()\[\]]*[/\\][^\s'\",;()\[\]]*")
_RUN_OR_FRACTION = re.compile(r"([A-Za-z0-9_-]+/\d{5}|\d+/\d+):?")


class Meters:
    """Counts for a monitoring system; these count nothing (`ray_metrics` has those that do)."""

    def made(self, run: Run, spent: Spent) -> None:
        """Count a run that was published."""

    def failed(self, run: Run) -> None:
        """Count a run that was given up."""

    def workers(self, count: int) -> None:
        """Take how many workers are ready."""


class Recorder:
    """Tells a log and meters what happens."""

    def __init__(self, log: EventLog, meters: Meters) -> None:
        self._log, self._meters = log, meters
        self._attempts: dict[Run, int] = {}
        """Of the runs that are out."""
        self._given: set[Run] = set()
        self._ready: set[int] = set()

    def begun(self, job: Job, *, planned: int, pending: Sequence[Run], workers: str) -> None:
        """Note what there is to do, and what does it."""
        from ray_unlearn.artefacts import versions

        self._log.write(
            "begun",
            study=job.plan.study.name,
            planned=planned,
            pending=Counter(run.population for run in pending),
            workers=workers,
            host=socket.gethostname(),
            pid=os.getpid(),
            versions=dict(versions()),
        )

    def ended(self, tally: Tally, phases: Mapping[str, float]) -> None:
        """Note what became of it."""
        seconds = {name: round(value, 3) for name, value in phases.items()}
        counts = {"made": len(tally.made), "failed": len(tally.failed), "blocked": len(tally.blocked)}
        self._log.write("ended", **counts, phases=seconds)

    def made(self, outcome: Outcome) -> None:
        """Note a run that the scheduler counts as made, unless its worker told so: it may have died before it could."""
        if outcome.run in self._attempts:
            self._told(None, outcome)

    def given_up(self, outcome: Outcome, attempts: int) -> None:
        """Note that a run failed for good."""
        self._meters.failed(outcome.run)
        self._log.write("given up", run=str(outcome.run), attempts=attempts, error=without_places(outcome.error))

    def observed(self, pool: Pool, ended: Callable[[Outcome], None] = lambda _: None) -> Pool:
        """Return the pool, watched; `ended` is called with the outcome of every attempt that a worker reports."""
        return cast(Pool, _Observed(pool, self, ended))

    def given(self, worker: int, attempts: Sequence[Attempt]) -> None:
        """Note the runs of a call; those that were given before are given again."""
        again = [str(run) for run, _ in attempts if run in self._given]
        self._given.update(run for run, _ in attempts)
        self._attempts.update(attempts)
        if attempts:
            runs = [[str(run), attempt] for run, attempt in attempts]
            self._log.write("given", worker=worker, runs=runs, **({"again": again} if again else {}))

    def heard(self, event: object) -> None:
        """Note what a pool reports; kinds that are not known here are somebody else's."""
        if isinstance(event, Ready):
            self._ready.add(event.worker)
            self._log.write("ready", worker=event.worker, **asdict(event.info))
            self._meters.workers(len(self._ready))
        elif isinstance(event, Lost):
            self._log.write("lost", worker=event.worker, cause=without_places(event.cause))
            self._gone(event.worker)
        elif isinstance(event, Leaving):
            self._log.write("leaving", worker=event.worker)
        elif isinstance(event, Finished):
            for outcome in event.outcomes:
                self._told(event.worker, outcome)

    def stopped(self, worker: int) -> None:
        """Note that a worker was let go."""
        self._log.write("stopped", worker=worker)
        self._gone(worker)

    def _gone(self, worker: int) -> None:
        self._ready.discard(worker)
        self._meters.workers(len(self._ready))

    def _told(self, worker: int | None, outcome: Outcome) -> None:
        spent, attempt = outcome.spent or Spent(), self._attempts.pop(outcome.run, 1)
        who = {"worker": worker, "run": str(outcome.run), "attempt": attempt}
        if outcome.error:
            self._log.write("failed", **who, busy=spent.busy, error=without_places(outcome.error), final=outcome.final)
        else:
            self._meters.made(outcome.run, spent)
            self._log.write("made", **who, **_figures(spent))
        if outcome.recycle:
            self._log.write("recycled", worker=worker)
        if outcome.poisoned:
            self._log.write("poisoned", worker=worker)


class _Observed:
    """A pool whose traffic is told; everything else is the pool's."""

    def __init__(self, pool: Pool, recorder: Recorder, ended: Callable[[Outcome], None]) -> None:
        self._pool, self._recorder, self._ended = pool, recorder, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def submit(self, worker: int, attempts: Sequence[Attempt], **how: Any) -> None:
        self._recorder.given(worker, attempts)
        self._pool.submit(worker, attempts, **how)

    def wait(self) -> Sequence[object]:
        events = self._pool.wait()
        for event in events:
            self._recorder.heard(event)
            for outcome in event.outcomes if isinstance(event, Finished) else ():
                self._ended(outcome)
        return events

    def stop(self, worker: int) -> None:
        self._recorder.stopped(worker)
        self._pool.stop(worker)


def _figures(spent: Spent) -> dict[str, Any]:
    """Return what a made run took: seconds by part, spans, bytes, images and their rate where somebody counted."""
    seconds = dict(spent.seconds)
    if len(spent.busy) > 1:
        start, end = spent.busy[1]
        seconds["publish"] = round(end - start, 3)
    figures = {"seconds": seconds, "busy": spent.busy, "bytes": spent.size_bytes}
    if spent.images and seconds.get("train"):
        figures |= {"images": spent.images, "images_per_s": round(spent.images / seconds["train"], 1)}
    return figures


def without_places(text: str) -> str:
    """Return one line of at most 300 characters without paths and URIs: those may hold names, and credentials.

    >>> without_places("finetune/00007: s3://key:secret@bucket/x: cannot write '/home/ada/y': full")
    "finetune/00007: ... cannot write '...': full"
    """

    def shown(word: re.Match[str]) -> str:
        return word[0] if _RUN_OR_FRACTION.fullmatch(word[0]) else "..."

    return _WORD.sub(shown, " ".join(text.split()))[:_TOLD]

"""Events of the schedule -> lines in the study's log of events.

    recorder = Recorder(log)
    recorder.begun(job, planned=64, pending=runs, workers="up to 2 workers on cpu")
    for event in schedule(...):
        recorder(event)
    recorder.ended(tally, phases)

Lines: begun; ready, given, made, equal, failed, given up, ended early, recycled, poisoned, leaving, lost, stopped;
preparing and alive (`store.events`); ended, or broken off. A log that begins with scoring is of a look at an adaptive
study's scores, between the logs of its runs. No line holds a path or a URI: they are cut out of errors
here, and the run's file under failed/ has the whole text.

Does not cover: the log's files (`store.events`), statistics of a log (`monitor.utilisation`).
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray_unlearn.run.outcome import Outcome, Spent
from ray_unlearn.schedule.events import Ended, Equal, Event, Failed, Made, Retried, Started, Stopped, Tally
from ray_unlearn.schedule.pool import Leaving, Lost, Ready
from ray_unlearn.store import StudyStore
from ray_unlearn.store.events import EventLog, event_log
from ray_unlearn.study.plan import Run

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.run.job import Job

SCORING = "scoring"
"""First event of a log of a look at scores."""
_MOST_CHARACTERS = 300
_WORD = re.compile(r"[^\s'\",;()\[\]]*[/\\][^\s'\",;()\[\]]*")
_RUN_OR_FRACTION = re.compile(r"([A-Za-z0-9_-]+/\d{5}|\d+/\d+):?")


@contextmanager
def scoring(store: StudyStore) -> Iterator[None]:
    """Write a log while a block computes an adaptive study's scores: `--watch` sees that its command goes on."""
    with event_log(store) as log:
        log.write(SCORING, host=socket.gethostname(), pid=os.getpid())
        yield
        log.write("ended")


class Recorder:
    """A sink that writes events into a study's log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._given: set[Run] = set()

    def begun(self, job: Job, *, planned: int, pending: Sequence[Run], workers: str) -> None:
        """Write the number of runs to make, the workers, and the driver's host, process and versions."""
        from ray_unlearn.models import package_of
        from ray_unlearn.run.artefacts import versions

        self._log.write(
            "begun",
            study=job.plan.study.name,
            planned=planned,
            pending=Counter(run.population for run in pending),
            workers=workers,
            host=socket.gethostname(),
            pid=os.getpid(),
            versions=dict(versions(package_of(job.plan.study.model))),
        )

    def ended(self, tally: Tally, phases: Mapping[str, float]) -> None:
        """Write the number of runs by outcome, and the seconds by phase."""
        seconds = {name: round(value, 3) for name, value in phases.items()}
        counts = {"made": len(tally.made), "failed": len(tally.failed), "blocked": len(tally.blocked)}
        self._log.write("ended", **counts, phases=seconds)

    def __call__(self, event: Event) -> None:
        """Write an event as one line, or two if its outcome also replaces the worker or gives the run up."""
        if isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Made | Retried | Failed):
            self._attempted(event)
        elif isinstance(event, Ready):
            self._log.write("ready", worker=event.worker, **asdict(event.info))
        elif isinstance(event, Lost):
            self._log.write("lost", worker=event.worker, cause=without_places(event.cause))
        elif isinstance(event, Leaving):
            self._log.write("leaving", worker=event.worker)
        elif isinstance(event, Stopped):
            self._log.write("stopped", worker=event.worker)
        elif isinstance(event, Equal):
            others = [str(run) for run in event.same.others]
            self._log.write("equal", run=str(event.same.run), others=others, sha256=event.same.sha256)
        elif isinstance(event, Ended):
            why = without_places(event.why)
            self._log.write("ended early", population=event.population, runs=len(event.runs), why=why)

    def _started(self, event: Started) -> None:
        """Write the runs of a call; `again` lists those that were given out before."""
        again = [str(run) for run, _ in event.attempts if run in self._given]
        self._given.update(run for run, _ in event.attempts)
        runs = [[str(run), attempt] for run, attempt in event.attempts]
        self._log.write("given", worker=event.worker, runs=runs, **({"again": again} if again else {}))

    def _attempted(self, event: Made | Retried | Failed) -> None:
        """Write an attempt that a worker reported, and a run that is given up; a death has its own line, `lost`."""
        outcome = event.outcome
        who = {"worker": event.worker, "run": str(outcome.run), "attempt": event.attempt}
        if isinstance(event, Made):
            note = {"note": without_places(outcome.note)} if outcome.note else {}
            self._log.write("made", **who, **_figures(outcome.spent or Spent()), **note)
        elif event.worker is not None:
            self._log.write("failed", **who, **_failure(outcome))
        if event.worker is not None and outcome.recycle:
            self._log.write("recycled", worker=event.worker)
        if event.worker is not None and outcome.poisoned:
            self._log.write("poisoned", worker=event.worker)
        if isinstance(event, Failed):
            error = without_places(outcome.error)
            self._log.write("given up", run=str(outcome.run), attempts=event.attempt, error=error)


def _failure(outcome: Outcome) -> dict[str, Any]:
    busy = (outcome.spent or Spent()).busy
    return {"busy": busy, "error": without_places(outcome.error), "final": outcome.final}


def _figures(spent: Spent) -> dict[str, Any]:
    """Return the figures of a made run: seconds by part, spans, bytes, and images with their rate if counted."""
    seconds = dict(spent.seconds)
    if len(spent.busy) > 1:
        start, end = spent.busy[1]
        seconds["publish"] = round(end - start, 3)
    figures = {"seconds": seconds, "busy": spent.busy, "bytes": spent.size_bytes}
    if spent.images and seconds.get("train"):
        figures |= {"images": spent.images, "images_per_s": round(spent.images / seconds["train"], 1)}
    return figures


def without_places(text: str) -> str:
    """Return one line of at most 300 characters without paths and URIs, which may hold names and credentials.

    >>> without_places("finetune/00007: s3://key:secret@bucket/x: cannot write '/home/ada/y': full")
    "finetune/00007: ... cannot write '...': full"
    """

    def shown(word: re.Match[str]) -> str:
        return word[0] if _RUN_OR_FRACTION.fullmatch(word[0]) else "..."

    return _WORD.sub(shown, " ".join(text.split()))[:_MOST_CHARACTERS]

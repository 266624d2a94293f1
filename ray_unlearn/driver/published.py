"""Whether a run whose worker died is made all the same: published, but not told.

    outcome = published_run(job, run)            # None where it must be made again

A worker tells of a publication with its next answer, and may die in between.

Does not cover: what becomes of the run (`loop`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_unlearn.errors import StoreError
from ray_unlearn.outcome import Outcome
from ray_unlearn.study.plan import Run

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.worker import Job


def published_run(job: Job, run: Run) -> Outcome | None:
    """Return the outcome that a run's record tells of; None where it has none, or one of another experiment."""
    try:
        record = job.store.record(run)
    except StoreError:  # a storage in a bad moment: the run is made again, to the same bytes
        return None
    if record is None or not record.is_of(run, job.plan.populations[run.population].digest):
        return None
    return Outcome(run=run, seconds=sum(record.seconds.values()), metrics=record.metrics)

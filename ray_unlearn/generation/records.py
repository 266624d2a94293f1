"""What a study's folder says of its runs, as a driver needs it: admit, look, record failures, bring tables up to date.

    work = admit(job, only)
    work.planned, work.pending, work.held
    published_run(job, run)                      # the outcome of a run whose worker died before it could report it
    unwritten = finish(job, tally, work.held)

Does not cover: how records are kept (`store`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_unlearn.errors import DamagedFile, RayUnlearnError, StoreError
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.schedule.events import Event, Failed, Tally
from ray_unlearn.schedule.pool import Ready
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.store.arithmetic import mixing
from ray_unlearn.store.metrics import publish_metrics
from ray_unlearn.store.records import CHECKPOINT, Record
from ray_unlearn.study.plan import Run

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.run.worker import Job

Held = Mapping[str, Mapping[int, Record]]
"""Population -> run -> its record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What there is to do."""

    planned: Sequence[Run]
    """Runs that were asked for, originals that they start from included."""
    pending: Sequence[Run]
    """Runs of these that are not made yet."""
    made: frozenset[Run]
    """Runs of the whole plan that are made."""
    held: Held
    """Their records: population -> run -> record."""


def admit(job: Job, only: Sequence[str]) -> Work:
    """Take the plan into the study's folder; return what there is to do.

    Args:
        job: whose plan it is.
        only: populations to make; their originals are made too.

    Raises:
        PopulationChanged: the folder holds one of the populations, made from something else.
        StoreError: the folder cannot be read or written.

    """
    job.store.admit(job.plan, _disagreements(job))
    job.store.storage.publish_file(job.store.layout.splits(job.data.splits.digest), job.data.splits_arrow)
    planned, held = job.plan.only(only).runs, _held(job)
    return Work(
        planned=planned,
        pending=[run for run in planned if run.index not in held[run.population]],
        made=frozenset(run for run in job.plan.runs if run.index in held[run.population]),
        held=held,
    )


def _disagreements(job: Job) -> list[str]:
    """Return where the study differs from the one that was generated before; none where study.json is damaged.

    Raises:
        NewerFormat: a later version wrote study.json.

    """
    try:
        return disagreements(job.plan.study, job.store)
    except DamagedFile:  # it is written again in a moment, and says nothing that population.json does not say
        return []


def _held(job: Job) -> Held:
    """Return every record of the plan's populations, each read once.

    Raises:
        StoreError: one of them is damaged, or of a later version's format; or they were made without the checkpoints
            that the study now asks for.

    """
    held = {name: job.store.compact(name, p.digest) for name, p in job.plan.populations.items()}
    for name, population in job.plan.populations.items():
        without = sum(CHECKPOINT not in record.payloads for record in held[name].values())
        if population.keep_checkpoints and without:
            raise StoreError(
                f"population {name}: {without} of its runs were made with keep_checkpoints: false, and the study now "
                f"asks for checkpoints; set it back, or remove {job.store.uri}/{name} to make them again"
            )
    return held


def published_run(job: Job, run: Run) -> Outcome | None:
    """Return the outcome that a run's record tells of; None where it has none, or one of another experiment.

    A worker reports a publication with its next answer, and may die in between.
    """
    try:
        record = job.store.record(run)
    except StoreError:  # a storage in a bad moment: the run is made again, to the same bytes
        return None
    if record is None or not record.is_of(run, job.plan.populations[run.population].digest):
        return None
    return Outcome(run=run, seconds=sum(record.seconds.values()), metrics=record.metrics)


class FailureRecords:
    """A sink that records why a run was given up, in the run's file under failed/."""

    def __init__(self, job: Job, log: Callable[[str], None]) -> None:
        self._job, self._log = job, log

    def __call__(self, event: Event) -> None:
        """Record a failure; where the storage takes none, say so: the run stays pending either way."""
        from ray_unlearn.run.worker import record_failure

        if isinstance(event, Failed):
            try:
                record_failure(self._job, event.outcome, event.attempt)
            except StoreError as error:
                self._log(f"the failure itself could not be recorded: {error}")


class ArithmeticWarnings:
    """A sink that warns, once, where a worker's arithmetic differs from that of runs which are made."""

    def __init__(self, job: Job, work: Work, log: Callable[[str], None]) -> None:
        self._held, self._pending = work.held, {run.population for run in work.pending}
        self._reference = job.plan.study.evaluation.reference if job.plan.study.evaluation else ""
        self._log, self._logged = log, set[str]()

    def __call__(self, event: Event) -> None:
        """Compare a worker that is ready."""
        if isinstance(event, Ready):
            for line in mixing(self._held, self._pending, event.info.arithmetic, self._reference):
                if line not in self._logged:
                    self._log(f"warning: {line}")
                self._logged.add(line)


def finish(job: Job, tally: Tally, held: Held) -> str:
    """Bring what is derived from records up to date; return why that could not be, where runs failed already.

    Always: the last command may have been killed before it came to this.

    Raises:
        StoreError: it cannot be written, though every run was.
        RayUnlearnError: the code of a run, inline, used up this process's threads.

    """
    try:
        return _finish(job, tally, held)
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise RayUnlearnError(
            "metrics.parquet is not up to date: this process can start no thread any more, perhaps because of what a "
            "method's code left behind; what was made is kept, and the same command, run again, brings it up to date"
        ) from error


def _finish(job: Job, tally: Tally, held: Held) -> str:
    job.store.sweep(job.plan)  # what workers left that died
    known = {name: job.store.compact(name, p.digest, held[name]) for name, p in job.plan.populations.items()}
    try:
        publish_metrics(job.store, known)
    except StoreError as error:
        if not tally.failed:
            raise
        return str(error)
    return ""

"""A study's folder as the driver uses it: admit the plan, find the pending runs, record failures, update tables.

    work = admit(job, only)
    work.planned, work.pending, work.held
    published_run(job, run)                      # the outcome of a run whose worker died before it could report it
    unwritten = finish(job, tally, work.held)

Does not cover: the format of records (`store`).
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ray_unlearn.errors import DamagedFile, StoreError
from ray_unlearn.run.outcome import Outcome, outputs_sha256
from ray_unlearn.schedule.events import Event, Failed, Tally
from ray_unlearn.schedule.pool import Ready
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.store.arithmetic import mixing
from ray_unlearn.store.metrics import publish_metrics
from ray_unlearn.store.records import CHECKPOINT, IMPORTED, FailedRecord, Record
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.store.unfinished import remove_made
from ray_unlearn.study.plan import ORIGINAL, Plan, Run, Shard
from ray_unlearn.study.schema import Study

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.run.job import Job

Held = Mapping[str, Mapping[int, Record]]
"""Population -> run -> its record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Runs to make, and runs that are made already."""

    planned: Sequence[Run]
    """Runs that were requested, including the originals that they start from."""
    pending: Sequence[Run]
    """Runs of `planned` that are not made yet."""
    made: frozenset[Run]
    """Runs of the whole plan that are made."""
    held: Held
    """Records of `made`: population -> run -> record."""

    @property
    def sha256(self) -> Mapping[Run, str]:
        """sha256 of the outputs of every run of `made`."""
        return {run: outputs_sha256(self.held[run.population][run.index]) for run in self.made}

    def seconds(self) -> dict[str, float]:
        """Return the mean seconds of a made run by population."""
        times = {name: [sum(one.seconds.values()) for one in records.values()] for name, records in self.held.items()}
        return {name: sum(each) / len(each) for name, each in times.items() if each}


def admit(job: Job, only: Sequence[str], shard: Shard | None = None, first: int | None = None) -> Work:
    """Write the plan into the study's folder; return the runs to make.

    Args:
        job: the job with the plan.
        only: populations to make; their originals are made too.
        shard: the part of their runs to make; default all.
        first: number of runs of each population, from 0 on; default all.

    Raises:
        PopulationChanged: the folder holds runs of one of the populations that were made from another definition of it.
        StoreError: the folder cannot be read or written.

    """
    job.store.admit(job.plan, differences(job.plan.study, job.store))
    for digest, content in job.data.arrows.items():
        job.store.storage.publish_file(job.store.layout.splits(digest), content)
    chosen, held = job.plan.only(only), _held(job)
    planned = shard.of(chosen) if shard else chosen.runs
    planned = [run for run in planned if first is None or run.index < first or run.population == ORIGINAL]
    return Work(
        planned=planned,
        pending=[run for run in planned if run.index not in held[run.population]],
        made=frozenset(run for run in job.plan.runs if run.index in held[run.population]),
        held=held,
    )


def differences(study: Study, store: StudyStore) -> list[str]:
    """Return the differences from the study that was generated before; none if study.json is damaged.

    Raises:
        NewerFormat: a later version wrote study.json.

    """
    try:
        return disagreements(study, store)
    except DamagedFile:  # it is rewritten next, and population.json holds the same facts
        return []


def _held(job: Job) -> Held:
    """Return every record of the plan's populations, each read once.

    Raises:
        StoreError: a record is damaged, or of a later version's format; or runs were made without the checkpoints that
            the study now asks for.

    """
    held = {name: job.store.compact(name, p.digest) for name, p in job.plan.populations.items()}
    check_kept(job.plan, job.store, held)
    check_packs(job.plan, job.store, held)
    return held


def check_kept(plan: Plan, store: StudyStore, held: Held) -> None:
    """Refuse runs that were made without the checkpoints that the study now asks for."""
    for name, population in plan.populations.items():
        without = sum(CHECKPOINT not in record.payloads for record in held[name].values())
        if population.keep_checkpoints and without:
            raise StoreError(
                f"population {name}: {without} of its runs were made with keep_checkpoints: false, and the study now "
                f"asks for checkpoints; set it back to false, or remove {store.uri}/{name} to make them again"
            )


def check_packs(plan: Plan, store: StudyStore, held: Held) -> None:
    """Refuse runs that were trained in packs of another size than the study's: their last bits are others."""
    size = plan.study.execution.pack
    for name, population in plan.populations.items():
        now = "1" if population.method.no_pack else str(size)
        others = Counter(
            record.arithmetic.get("pack", "1") for record in held[name].values() if record.method != IMPORTED
        )
        del others[now]
        if others:
            then, count = others.most_common(1)[0]
            raise StoreError(
                f"population {name}: {count} of its runs were trained with execution.pack: {then}, and now it would be "
                f"{now}, which gives other last bits; set execution.pack to {then}, or remove {store.uri}/{name} to "
                "make them again"
            )


def published_run(job: Job, run: Run) -> Outcome | None:
    """Return the outcome of a run from its record; None if it has no record, or one of another experiment.

    A worker reports a publication with its next answer, and may die in between.
    """
    try:
        record = job.store.record(run)
    except StoreError:  # the storage failed for a moment: the run is made again, to the same bytes
        return None
    if record is None or not record.is_of(run, job.plan.populations[run.population].digest):
        return None
    seconds = sum(record.seconds.values())
    return Outcome(run=run, seconds=seconds, metrics=record.metrics, sha256=outputs_sha256(record))


class FailureRecords:
    """A sink that records why a run was given up, in the run's file under failed/."""

    def __init__(self, job: Job, log: Callable[[str], None]) -> None:
        self._job, self._log = job, log

    def __call__(self, event: Event) -> None:
        """Record a failure; log it if the storage does not accept the record. The run stays pending either way."""
        if not isinstance(event, Failed):
            return
        outcome, name = event.outcome, event.outcome.run.population
        failure = FailedRecord(
            population=name,
            index=outcome.run.index,
            digest=self._job.plan.populations[name].digest,
            error=outcome.error,
            traceback=outcome.traceback,
            attempts=event.attempt,
            host=socket.gethostname(),
            failed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            self._job.store.publish_failure(outcome.run, failure, outcome.log)
        except StoreError as error:
            self._log(f"the failure itself could not be recorded: {error}")


class ArithmeticWarnings:
    """A sink that warns once if a worker's arithmetic differs from that of runs which are made."""

    def __init__(self, job: Job, work: Work, log: Callable[[str], None]) -> None:
        self._held, self._pending = work.held, {run.population for run in work.pending}
        self._reference = job.plan.study.evaluation.reference if job.plan.study.evaluation else ""
        self._scripts = {name for name, population in job.plan.populations.items() if population.method.source}
        self._log, self._logged = log, set[str]()

    def __call__(self, event: Event) -> None:
        """Compare the arithmetic of a worker that is ready."""
        if isinstance(event, Ready):
            for line in mixing(self._held, self._pending, event.info.arithmetic, self._reference, self._scripts):
                if line not in self._logged:
                    self._log(f"warning: {line}")
                self._logged.add(line)


def _check_there(job: Job, populations: Collection[str]) -> None:
    """Check that the folder into which runs were published is still the one that this command admitted."""
    for name in sorted(populations):
        if (job.store.held(name) or {}).get("digest") != job.plan.populations[name].digest:
            raise StoreError(
                f"{job.store.uri}: {name}/population.json is gone, or another's: the folder was removed or replaced "
                "while runs were made, so what is there is not whole; remove the rest of it, and `ray-unlearn "
                "generate` makes it again"
            )


def finish(job: Job, tally: Tally, held: Held) -> str:
    """Update the files that are derived from records; return why that failed, if runs failed, too, else "".

    Done even if no run was made: the previous command may have been killed before this step.

    Raises:
        StoreError: the files cannot be written, and no run failed; or the folder was removed while runs were made.

    """
    _check_there(job, {run.population for run in tally.made})
    job.store.sweep(job.plan)  # files that dead workers left
    known = {name: job.store.compact(name, p.digest, held[name]) for name, p in job.plan.populations.items()}
    for name, records in known.items():
        remove_made(job.store, name, records)
    try:
        publish_metrics(job.store, known)
    except StoreError as error:
        if not tally.failed:
            raise
        return str(error)
    return ""

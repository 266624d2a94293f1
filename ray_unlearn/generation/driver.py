"""generate(): make every run of a study that is not made yet.

    summary = generate(study, workers=2, only=["finetune"])
    summary.exit_code                            # 0 all done, 3 finished with failed runs

The study is opened while Ray starts; then the schedule's events go to the sinks, one after another.

Does not cover: reading what was made (`ray_unlearn.report`, evaluation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ray_unlearn.generation.backends import BackendName, Place, forks, open_backend
from ray_unlearn.generation.job import open_job
from ray_unlearn.generation.preflight import check_device, check_files, check_precision, probably_pending, start_early
from ray_unlearn.generation.records import ArithmeticWarnings, FailureRecords, Work, admit, finish, published_run
from ray_unlearn.generation.summary import Summary
from ray_unlearn.interrupts import interrupts
from ray_unlearn.monitor import Phases, Recorder, TimeLeft, announce, show_progress, tracked
from ray_unlearn.schedule import Sink, Tally, in_order, schedule
from ray_unlearn.store.events import event_log
from ray_unlearn.store.sharing import marked
from ray_unlearn.study import Shard, Study

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.run.job import Job


def generate(
    study: Study,
    *,
    backend: BackendName = "auto",
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    only: Sequence[str] = (),
    shard: Shard | None = None,
    first: int | None = None,
    verbose: bool = False,
    said: set[str] | None = None,
) -> Summary:
    """Make the missing runs of a study.

    Args:
        study: the study to make.
        backend: `ray`; `inline`: this process, or with `workers` processes that are forked on this machine; `auto`:
            such processes where they are enough, else Ray.
        address: address of a Ray cluster; default RAY_ADDRESS, else a local cluster is started and stopped.
        workers: overrides `execution.workers`.
        gpus_per_worker: overrides `execution.gpus_per_worker`.
        only: populations to make; their originals are made too.
        shard: the part of the runs to make, where several drivers share the work; default all.
        first: number of runs of each population to make, the first ones; default all.
        verbose: print each run's output on standard error when the run ends, each line with the run's name.
        said: warnings that were printed already and are not again; those that are printed now are added.

    Raises:
        RayUnlearnError: the study is refused, or the cluster cannot be reached or started.
        StoreUnwritable: the storage accepts no more runs; the store is resumable.
        Interrupted: a signal arrived; the store is resumable.

    """
    phases = Phases()
    announce(study.name)
    with ExitStack() as stack:
        stack.enter_context(interrupts())
        check_files(study)
        store = probably_pending(study, only)
        start_early(study, forks=store is not None and forks(backend, address, workers, gpus_per_worker))
        opened = stack.enter_context(
            open_backend(backend, address=address, workers=workers, gpus_per_worker=gpus_per_worker)
        )
        log = stack.enter_context(event_log(store, announce=True)) if store else None
        with opened.starting() if store else nullcontext():
            job = replace(open_job(study, opened.decode_all), verbose=verbose)
        work, tally = admit(job, only, shard, first), Tally(())
        recorder = None
        if work.pending:
            place = opened.chosen(job, work)
            if place.connects:
                phases.enter("connect")
            log = log or stack.enter_context(event_log(job.store))
            recorder = Recorder(log)
            tally = _make(job, work, place, phases, recorder, set() if said is None else said)
        phases.enter("finish")
        unwritten = finish(job, tally, work.held)
        if recorder:
            recorder.ended(tally, phases.end())
        elif log and log.begun:  # the log was begun ahead of time, and there was no run to make
            log.write("ended")
    seconds = phases.end()
    return Summary(
        planned=len(work.planned),
        already=len(work.planned) - len(work.pending),
        made=len(tally.made),
        failed=tally.failed,
        blocked=tuple(tally.blocked),
        ended=tuple(tally.ended),
        skipped_images=len(job.data.skipped),
        seconds=sum(seconds.values()),
        phases=seconds,
        uri=job.store.uri,
        unwritten=unwritten,
    )


def _make(job: Job, work: Work, place: Place, phases: Phases, recorder: Recorder, said: set[str]) -> Tally:
    """Execute the pending runs; return the tally of their outcomes."""
    study, planned, pending = job.plan.study, len(work.planned), work.pending
    with ExitStack() as stack:
        job = replace(job, marker=stack.enter_context(marked(job.store)))
        pool = place.pool(job)
        phases.enter("workers")
        check_precision(job.plan, pool.device, {run.population for run in pending})
        check_device(job.plan, pool.device, work.held)
        left = TimeLeft(Counter(run.population for run in pending), work.seconds(), job.plan.pack_of)
        file = study.places.file
        progress = show_progress(planned, planned - len(pending), study.execution, left, job.verbose, file)
        console = stack.enter_context(progress)
        why = f" (auto: {place.why})" if place.why else ""
        console.log(f"{len(pending)} of {planned} runs to make, {pool.describe()}{why}")
        recorder.begun(job, planned=planned, pending=pending, workers=pool.describe())
        warnings = (*job.data.warnings, *job.plan.warnings, *job.remarks)
        for warning in (one for one in dict.fromkeys(warnings) if one not in said):
            console.log(f"warning: {warning}")
        said.update(warnings)
        tally = Tally(pending)
        stored: list[Sink] = [FailureRecords(job, console.log), ArithmeticWarnings(job, work, console.log)]
        trackers = stack.enter_context(tracked(study, job.store, console.log))
        sinks: list[Sink] = [phases, recorder, console, *place.sinks(study), *trackers, *stored, tally]
        events = schedule(
            job.plan,
            pool,
            pending=in_order(job.plan, pending, interleave=study.execution.interleave),
            made=work.made,
            max_attempts=study.execution.max_attempts,
            published=partial(published_run, job),
            held=work.sha256,
            fail_fast=study.execution.fail_fast,
        )
        for event in events:
            for sink in sinks:
                sink(event)
    return tally

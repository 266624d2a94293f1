"""generate(): make every run of a study that is not made yet.

    summary = generate(study, backend="ray", workers=2, only=["finetune"])
    summary.exit_code                            # 0 all done, 3 finished with failed runs

Does not cover: reading what was made (`ray_unlearn.report`, evaluation).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ray_unlearn.driver.early import begin_to_import, import_what_follows, refuse_early, refuse_precision
from ray_unlearn.driver.hooks import Hooks
from ray_unlearn.driver.loop import Scheduler
from ray_unlearn.driver.order import in_order
from ray_unlearn.driver.phases import Phases
from ray_unlearn.driver.pool import Backend, Pool
from ray_unlearn.driver.progress import Tracker, show_progress
from ray_unlearn.driver.published import published_run
from ray_unlearn.driver.recorder import Meters, Recorder
from ray_unlearn.driver.room import refuse_share
from ray_unlearn.driver.summary import Summary
from ray_unlearn.driver.tally import Tally
from ray_unlearn.errors import ClusterError, DamagedFile, RayUnlearnError, StoreError, StudyError
from ray_unlearn.interrupts import interrupts
from ray_unlearn.outcome import Outcome, WorkerInfo
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.store.arithmetic import mixing
from ray_unlearn.store.events import EventLog, event_log
from ray_unlearn.store.records import CHECKPOINT, Record
from ray_unlearn.store.sharing import marked
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study
from ray_unlearn.wording import printable

if TYPE_CHECKING:  # they bring torch and pandas, which are imported while Ray starts
    from ray_unlearn.data.study_data import StudyData
    from ray_unlearn.worker import Job

BackendName = Literal["ray", "inline"]
Held = Mapping[str, Mapping[int, Record]]
"""Population -> run -> its record."""


def generate(
    study: Study,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    only: Sequence[str] = (),
    verbose: bool = False,
) -> Summary:
    """Make the missing runs of a study.

    Args:
        study: what to make.
        backend: `ray`, or `inline` for this process.
        address: a Ray cluster's; default RAY_ADDRESS, else a local one is started and stopped.
        workers: overrides `execution.workers`.
        gpus_per_worker: overrides `execution.gpus_per_worker`.
        only: populations to make; their originals are made too.
        verbose: show on standard error what each run printed, when it ends, each line with the run's name.

    Raises:
        RayUnlearnError: the study is refused, or the cluster cannot be had.
        Interrupted: a signal came; the store is resumable.

    """
    phases = Phases()
    with ExitStack() as stack:
        arm = stack.enter_context(interrupts())
        place = _backend(backend, address, arm, workers, gpus_per_worker)
        stack.callback(place.close)
        store = _probably_pending(study, only)
        early = backend == "ray" and store is not None
        if early:
            refuse_early(study)
        log = stack.enter_context(event_log(store, announce=True)) if store else None
        if early:
            phases.enter("connect")
            imports = begin_to_import()
            place.begin()
            phases.enter("prepare")
            imports.result()
        from ray_unlearn.driver.opening import open_job

        job = open_job(study, place.decode_all)
        job.store.admit(job.plan, _disagreements(job))
        job.store.storage.publish_file(job.store.layout.splits(job.data.splits.digest), job.data.splits_arrow)
        planned = job.plan.only(only).runs
        held = _held(job)
        pending = [run for run in planned if run.index not in held[run.population]]
        if pending and backend == "ray":
            phases.enter("connect")
        log = log or (stack.enter_context(event_log(job.store)) if pending else None)
        recorder = _recorder(log, job, backend) if log and pending else None
        job = replace(job, verbose=verbose)
        tally = _make(job, place, pending, held, len(planned), phases, recorder) if recorder else Tally()
        phases.enter("finish")
        try:
            unwritten = _finish(job, tally, held)
        except RuntimeError as error:
            raise _without_threads(error) from error
        if recorder:
            recorder.ended(tally, phases.end())
        elif log and log.begun:  # announced, and there was nothing to do
            log.write("ended")
    seconds = phases.end()
    return Summary(
        planned=len(planned),
        already=len(planned) - len(pending),
        made=len(tally.made),
        failed=tally.failed,
        blocked=tuple(tally.blocked),
        skipped_images=len(job.data.skipped),
        seconds=sum(seconds.values()),
        phases=seconds,
        uri=job.store.uri,
        unwritten=unwritten,
    )


def prepare(study: Study, *, backend: BackendName = "ray", address: str | None = None) -> StudyData:
    """Decode a study's images and draw its splits; make nothing else.

    Raises:
        RayUnlearnError: the data are refused, or the cluster cannot be had.

    """
    from ray_unlearn.data.study_data import prepare_study
    from ray_unlearn.evaluation.memorisation import hardest_of

    with ExitStack() as stack:
        place = _backend(backend, address, stack.enter_context(interrupts()))
        stack.callback(place.close)
        storage = open_storage(study.storage)
        return prepare_study(study, storage, place.decode_all, hardest_of(study, storage))


def _probably_pending(study: Study, only: Sequence[str]) -> StudyStore | None:
    """Return the study's store where a population has fewer folders than runs: a guess, for a head start."""
    try:
        store = StudyStore(open_storage(study.storage), study.name)
        wanted = {name: spec.planned for name, spec in study.populations.items() if name in (only or study.populations)}
        return store if any(len(store.indexes(name)) < planned for name, planned in wanted.items()) else None
    except RayUnlearnError:
        return None  # it will be said where it can be explained


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


def _refuse_other_device(job: Job, pool: Pool, held: Held) -> None:
    """Refuse to mix CPU and GPU runs in a population because a cluster happens to have, or lack, GPUs today."""
    if job.plan.study.execution.device != "auto":
        return
    for name, records in held.items():
        others = {record.device for record in records.values()}
        if any((device == "cpu") != (pool.device == "cpu") for device in others):
            raise ClusterError(
                f"population {name} was begun on {', '.join(sorted(others))}, and execution.device: auto now means "
                f"{pool.device}; set execution.device to say which"
            )


def _finish(job: Job, tally: Tally, held: Held) -> str:
    """Bring what is derived from records up to date; return why that could not be, where runs failed already.

    Always: the last command may have been killed before it came to this.

    Raises:
        StoreError: it cannot be written, though every run was.

    """
    from ray_unlearn.store.metrics import publish_metrics

    job.store.sweep(job.plan)  # what workers left that died
    known = {name: job.store.compact(name, p.digest, held[name]) for name, p in job.plan.populations.items()}
    try:
        publish_metrics(job.store, known)
    except StoreError as error:
        if not tally.failed:
            raise
        return str(error)
    return ""


def _without_threads(error: RuntimeError) -> Exception:
    """Return what to say where a run's code, inline, used up this process's threads or its memory; else the error."""
    if "can't start new thread" not in str(error):
        return error
    return RayUnlearnError(
        "metrics.parquet is not up to date: this process can start no thread any more, perhaps because of what a "
        "method's code left behind; what was made is kept, and the same command, run again, brings it up to date"
    )


def _recorder(log: EventLog, job: Job, backend: BackendName) -> Recorder:
    if backend == "inline":
        return Recorder(log, Meters())
    from ray_unlearn.driver.ray_metrics import RayMeters

    return Recorder(log, RayMeters(job.plan.study))


def _make(
    job: Job, place: Backend, pending: list[Run], held: Held, planned: int, phases: Phases, recorder: Recorder
) -> Tally:
    with ExitStack() as stack:
        marker = stack.enter_context(marked(job.store))
        pool = place.pool(replace(job, marker=marker))
        refuse_precision(job.plan, pool.device, {run.population for run in pending})
        phases.enter("workers")
        _refuse_other_device(job, pool, held)
        progress = stack.enter_context(show_progress(total=planned, already=planned - len(pending)))

        reference = job.plan.study.evaluation.reference if job.plan.study.evaluation else ""
        warn = functools.cache(progress.say)  # once, however many workers are alike

        def made(outcome: Outcome) -> None:
            recorder.made(outcome)
            progress.made()

        def ready(info: WorkerInfo) -> None:
            phases.enter("runs")
            progress.begin()
            progress.say(f"worker ready: {info.host}, pid {info.pid}, {info.device}")
            for line in mixing(held, {run.population for run in pending}, info.arithmetic, reference):
                warn(f"warning: {line}")

        def ended(outcome: Outcome) -> None:
            for line in printable(outcome.log).splitlines() if job.verbose else ():
                progress.say(f"{outcome.run}: {line}")

        progress.say(f"{len(pending)} of {planned} runs to make, {pool.describe()}")
        recorder.begun(job, planned=planned, pending=pending, workers=pool.describe())
        for warning in (*job.data.warnings, *job.plan.warnings):
            progress.say(f"warning: {warning}")
        scheduler = Scheduler(
            job.plan,
            recorder.observed(pool, ended),
            pending=in_order(job.plan, pending, interleave=job.plan.study.execution.interleave),
            made={run for run in job.plan.runs if run.index in held[run.population]},
            max_attempts=job.plan.study.execution.max_attempts,
            hooks=Hooks(
                made=made,
                failed=lambda outcome, attempts: _failed(job, progress, recorder, outcome, attempts),
                retried=lambda run, why: progress.say(f"again: {run}: {why}"),
                unready=functools.cache(lambda cause: progress.say(f"a worker could not start: {cause}")),
                ready=ready,
            ),
            published=lambda run: published_run(job, run),
        )
        return scheduler.run()


def _failed(job: Job, progress: Tracker, recorder: Recorder, outcome: Outcome, attempts: int) -> None:
    from ray_unlearn.worker import record_failure

    recorder.given_up(outcome, attempts)
    progress.given_up(f"{outcome.run} after {attempts} attempt{'s' if attempts > 1 else ''}: {outcome.error}")
    try:
        record_failure(job, outcome, attempts)
    except StoreError as error:  # a full disk fails the run and its failure alike; the run stays pending either way
        progress.say(f"the failure itself could not be recorded: {error}")


def _backend(
    name: BackendName,
    address: str | None,
    arm: Callable[[], None],
    workers: int | None = None,
    gpus_per_worker: float | None = None,
) -> Backend:
    if gpus_per_worker is not None:
        refuse_share(gpus_per_worker, "--gpus-per-worker")
    if name == "inline":
        import_what_follows()
        if address or workers or gpus_per_worker is not None:
            raise StudyError(
                "--address, --workers and --gpus-per-worker are for --backend ray; inline is one worker in this process"
            )
        from ray_unlearn.driver.inline import InlineBackend

        return InlineBackend()
    try:
        from ray_unlearn.driver.ray_backend import RayBackend
    except ImportError as error:
        raise ClusterError("the ray backend needs Ray: pip install 'ray[default]', or use --backend inline") from error
    return RayBackend(address=address, workers=workers, gpus_per_worker=gpus_per_worker, arm=arm)

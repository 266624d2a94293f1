"""generate(): make every run of a study that is not made yet.

    summary = generate(study, backend="ray", workers=2, only=["finetune"])
    summary.exit_code                            # 0 all done, 3 finished with failed runs

Does not cover: reading what was made (`ray_unlearn.report`, evaluation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

from ray_unlearn.data.study_data import StudyData, prepare_study
from ray_unlearn.driver.loop import Hooks, Scheduler, Tally
from ray_unlearn.driver.opening import cache_folder, open_job
from ray_unlearn.driver.phases import Phases, phases_line
from ray_unlearn.driver.pool import Backend, Pool
from ray_unlearn.driver.progress import Tracker, show_progress
from ray_unlearn.errors import ClusterError, StoreError, StudyError
from ray_unlearn.interrupts import interrupts
from ray_unlearn.outcome import Outcome, WorkerInfo
from ray_unlearn.report.tables import publish_metrics
from ray_unlearn.report.text import plural
from ray_unlearn.store import open_storage
from ray_unlearn.store.records import CHECKPOINT
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study
from ray_unlearn.worker import Job, record_failure

BackendName = Literal["ray", "inline"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a `generate` did."""

    planned: int
    """Runs that were asked for, originals that they start from included."""
    already: int
    """Of those, made before."""
    made: int
    failed: dict[Run, str] = field(default_factory=dict)
    blocked: tuple[Run, ...] = ()
    """Runs whose original failed."""
    skipped_images: int = 0
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase (`ray_unlearn.driver.phases`); they add up to `seconds`."""
    uri: str = ""

    @property
    def exit_code(self) -> int:
        """0 where everything asked for is made, else 3."""
        return 3 if self.failed or self.blocked else 0

    def lines(self) -> list[str]:
        """Return what there is to say about it, most important last."""
        lines = [f"not made: {run}: {error}" for run, error in self.failed.items()]
        if self.blocked:
            lines.append(f"not made: {plural(len(self.blocked), 'run')} whose original failed")
        if self.skipped_images:
            lines.append(f"{plural(self.skipped_images, 'image')} skipped; data-cache/*/manifest.json lists each")
        if self.already == self.planned:
            return [*lines, f"nothing to do: all {plural(self.planned, 'run')} in {self.uri} are made"]
        done = f"{self.already + self.made} of {self.planned} done, {len(self.failed)} failed"
        lines.append(phases_line(self.phases))
        return [*lines, f"made {plural(self.made, 'run')} in {self.seconds:.0f} s; {done}; store {self.uri}"]


def generate(
    study: Study,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
) -> Summary:
    """Make the missing runs of a study.

    Args:
        study: what to make.
        backend: `ray`, or `inline` for this process.
        address: a Ray cluster's; default RAY_ADDRESS, else a local one is started and stopped.
        workers: overrides `execution.workers`.
        only: populations to make; their originals are made too.

    Raises:
        RayUnlearnError: the study is refused, or the cluster cannot be had.
        Interrupted: a signal came; the store is resumable.

    """
    phases = Phases()
    with ExitStack() as stack:
        arm = stack.enter_context(interrupts())
        if backend == "ray":
            phases.enter("connect")
        place = _backend(backend, address, workers, arm)
        stack.callback(place.close)
        phases.enter("prepare")
        job = open_job(study, place.decode_all)
        job.store.admit(job.plan)
        job.store.storage.publish_file(job.store.layout.splits(job.data.splits.digest), job.data.splits_arrow)
        planned = job.plan.only(only).runs
        made = _made(job)
        pending = [run for run in planned if run not in made]
        if pending and backend == "ray":
            phases.enter("connect")
        tally = _make(job, place, pending, made, len(planned), phases) if pending else Tally()
        phases.enter("finish")
        publish_metrics(job.store)  # always: the last command may have been killed before it came to this
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
    )


def prepare(study: Study, *, backend: BackendName = "ray", address: str | None = None) -> StudyData:
    """Decode a study's images and draw its splits; make nothing else.

    Raises:
        RayUnlearnError: the data are refused, or the cluster cannot be had.

    """
    with ExitStack() as stack:
        place = _backend(backend, address, None, stack.enter_context(interrupts()))
        stack.callback(place.close)
        return prepare_study(study, open_storage(study.storage), cache_folder(study.storage), place.decode_all)


def _made(job: Job) -> set[Run]:
    """Return the runs of the plan that have a record.

    Raises:
        StoreError: they were made without the checkpoints that the study now asks for.

    """
    held = {name: job.store.records(name, p.digest) for name, p in job.plan.populations.items()}
    for name, population in job.plan.populations.items():
        without = sum(CHECKPOINT not in record.payloads for record in held[name].values())
        if population.keep_checkpoints and without:
            raise StoreError(
                f"population {name}: {without} of its runs were made with keep_checkpoints: false, and the study now "
                f"asks for checkpoints; set it back, or remove {job.store.uri}/{name} to make them again"
            )
    return {run for run in job.plan.runs if run.index in held[run.population]}


def _refuse_other_device(job: Job, pool: Pool) -> None:
    """Refuse to mix CPU and GPU runs in a population because a cluster happens to have, or lack, GPUs today."""
    if job.plan.study.execution.device != "auto":
        return
    for name, population in job.plan.populations.items():
        others = {r.device for r in job.store.records(name, population.digest).values()}
        if any((device == "cpu") != (pool.device == "cpu") for device in others):
            raise ClusterError(
                f"population {name} was begun on {', '.join(sorted(others))}, and execution.device: auto now means "
                f"{pool.device}; set execution.device to say which"
            )


def _make(job: Job, place: Backend, pending: list[Run], made: set[Run], planned: int, phases: Phases) -> Tally:
    pool = place.pool(job)
    phases.enter("workers")
    _refuse_other_device(job, pool)

    def ready(info: WorkerInfo) -> None:
        phases.enter("runs")
        progress.begin()
        progress.say(f"worker ready: {info.host}, pid {info.pid}, {info.device}")

    with show_progress(total=planned, already=planned - len(pending)) as progress:
        progress.say(f"{len(pending)} of {planned} runs to make, {pool.describe()}")
        for warning in job.plan.warnings:
            progress.say(f"warning: {warning}")
        scheduler = Scheduler(
            job.plan,
            pool,
            pending=pending,
            made=made,
            max_attempts=job.plan.study.execution.max_attempts,
            hooks=Hooks(
                made=lambda outcome: progress.made(),
                failed=lambda outcome, attempts: _failed(job, progress, outcome, attempts),
                retried=lambda run, why: progress.say(f"again: {run}: {why}"),
                ready=ready,
            ),
        )
        return scheduler.run()


def _failed(job: Job, progress: Tracker, outcome: Outcome, attempts: int) -> None:
    progress.given_up(f"{outcome.run} after {attempts} attempt{'s' if attempts > 1 else ''}: {outcome.error}")
    try:
        record_failure(job, outcome, attempts)
    except StoreError as error:  # a full disk fails the run and its failure alike; the run stays pending either way
        progress.say(f"the failure itself could not be recorded: {error}")


def _backend(name: BackendName, address: str | None, workers: int | None, arm: Callable[[], None]) -> Backend:
    if name == "inline":
        if address or workers:
            raise StudyError("--address and --workers are for --backend ray; inline is one worker in this process")
        from ray_unlearn.driver.inline import InlineBackend

        return InlineBackend()
    try:
        from ray_unlearn.driver.ray_backend import RayBackend
    except ImportError as error:
        raise ClusterError("the ray backend needs Ray: pip install 'ray[default]', or use --backend inline") from error
    return RayBackend(address=address, workers=workers, arm=arm)

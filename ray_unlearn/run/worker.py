"""A worker: opens data and architecture once, and executes one run after another. Without Ray.

    worker = Worker(job, device="cpu")
    worker.open()
    known = worker.work([(run, 1), (other, 1)])  # outcomes known so far; never raises for a bad run
    known += worker.flush()                      # waits for the rest

A run is published while the next one trains: all training happens in the caller's thread, one publication at most is
in flight in another. A run's bytes depend on the run and the thread count alone, not on the worker or its earlier runs.
A script runs in a process of its own (`apart`), a run that the study isolates in a worker of its own (`made_alone`);
what a run's code prints is kept as the run's log.

Does not cover: the order of runs (`ray_unlearn.schedule`).
"""

from __future__ import annotations

import functools
import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet, RunData, Scaling
from ray_unlearn.errors import MethodError, RayUnlearnError, TrainingDiverged
from ray_unlearn.methods.resolve import method_of
from ray_unlearn.models import Template
from ray_unlearn.run.apart import RunsApart
from ray_unlearn.run.artefacts import RunWriter, output_sets, versions
from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import Attempt, FailedApart, Outcome, WorkerInfo, failure_of, success_of
from ray_unlearn.run.probe import clues, probe_images, probe_logits, tensors_of
from ray_unlearn.run.publisher import Publisher
from ray_unlearn.run.run_log import RunLog, recorded
from ray_unlearn.run.settings import arithmetic, configure, device_name, warm_up
from ray_unlearn.run.taken_back import compare, load
from ray_unlearn.run.worker_process import made_alone
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import FailedRecord
from ray_unlearn.store.arithmetic import SCRIPT, arithmetic_of
from ray_unlearn.store.membership import Members, fingerprint, half_of_train
from ray_unlearn.store.records import CHECKPOINT, payload_of
from ray_unlearn.store.sharing import check_shared
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.training.fast.cuda_graph import Engines, cuda_graph
from ray_unlearn.usercode.fork_server import start as start_fork_server
from ray_unlearn.usercode.memory import keep_freed_memory, resident_bytes

# A run as short as this is published in the worker's own thread: two threads of one interpreter slow each other down.
_QUICK_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unpublished:
    """A run that is trained and predicted, and the only reference to its model."""

    run: Run
    attempt: int
    writer: RunWriter
    model: nn.Module
    rng: Seeds
    started_at: str
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    original_sha256: str
    threads: int
    log: bytes = b""


class Worker:
    """Opens a job once and executes its runs."""

    def __init__(self, job: Job, device: str) -> None:
        self._job = job
        self._device = torch.device(device)
        self._originals: dict[Run, tuple[str, Template]] = {}
        """Originals read so far, and the last shadow: sha256 and model."""
        self._by_forget_set: dict[int, tuple[dict[str, ImageSet], dict[str, ImageSet]]] = {}
        threads = job.plan.study.execution.cpus_per_worker
        self._publisher: Publisher[Outcome] = Publisher(functools.partial(torch.set_num_threads, threads))
        self._poisoned = False
        self._grown = False
        self._apart: RunsApart | None = None
        self._resident: int | None = None
        """Bytes held after the first run, from which growth is measured."""

    def open(self) -> WorkerInfo:
        """Map the images and build the architecture.

        Raises:
            RayUnlearnError: the storage, the device, the shards or the architecture cannot be used on this machine.

        """
        job, execution = self._job, self._job.plan.study.execution
        if job.isolates_any or any(population.method.source for population in job.plan.populations.values()):
            start_fork_server()  # its imports take as long as all that follows
        check_shared(job.store, job.marker)
        keep_freed_memory()
        configure(self._device, execution)
        pixels = job.data.open(self._device, execution.device_budget_gib * 2**30, Path(job.cache))
        self._pixels = pixels
        self._sets, self._outputs = self._sets_of(0)
        self._train = ImageSet(pixels, job.data.splits.train, Scaling.of(job.plan.study.data.normalize))
        captures = self._device.type == "cuda" and execution.cuda_graph
        self._engines = Engines(cuda_graph) if captures else None
        planned = next(iter(job.plan.populations.values())).identity["model"]  # all populations' is the same
        models.check_source(job.plan.study.model, planned)
        self._template = Template(self._fresh(Seeds(study=0)))
        warm_up()
        return WorkerInfo(
            host=socket.gethostname(),
            pid=os.getpid(),
            device=str(self._device),
            arithmetic=arithmetic_of(
                device_name(self._device),
                torch.get_num_threads(),
                versions(models.package_of(job.plan.study.model)),
                arithmetic(self._device, execution),
            ),
        )

    def _sets_of(self, forget_set: int) -> tuple[dict[str, ImageSet], dict[str, ImageSet]]:
        """Return all sets of images with one of the study's forget sets, and those whose logits are saved."""
        if forget_set not in self._by_forget_set:
            study, splits = self._job.plan.study, self._job.data.splits_of(forget_set)
            scaling = Scaling.of(study.data.normalize)
            sets = {name: ImageSet(self._pixels, indexes, scaling) for name, indexes in splits.sets.items()}
            self._by_forget_set[forget_set] = sets, output_sets(study, sets)
        return self._by_forget_set[forget_set]

    def work(self, attempts: Sequence[Attempt], flush: bool = False) -> list[Outcome]:
        """Execute runs one after another; return the outcomes known so far, with `flush` those of all runs."""
        known: list[Outcome] = []
        for run, attempt in attempts:
            if self._poisoned or self._grown or any(outcome.unwritable for outcome in known):
                break  # the scheduler replaces this worker, or ends
            known += self.execute(run, attempt)
            known = self._leaving(known) if self._has_grown() else known
        return known + (self.flush() if flush else [])

    def _has_grown(self) -> bool:
        resident = resident_bytes()
        if self._resident is None:
            self._resident = resident
        return resident - self._resident > self._job.plan.study.execution.recycle_growth_gib * 2**30

    def _leaving(self, known: list[Outcome]) -> list[Outcome]:
        """Return all outcomes, the last of which asks for another worker."""
        self._grown = True
        *others, last = (*known, *self.flush())
        return [*others, replace(last, recycle=True)]

    def execute(self, run: Run, attempt: int) -> list[Outcome]:
        """Make one run and begin to publish it; return the outcomes known so far. Every failure is an outcome."""
        start, log = time.monotonic(), RunLog()
        try:
            if self._job.isolates(run):
                return [*self.flush(), *made_alone(self._job, str(self._device), run, attempt)]
            with recorded(log):
                made = self._make(run, attempt, start, log)
        except (Exception, SystemExit) as error:  # a method that calls sys.exit fails its run, not the worker
            self._poisoned = self._device.type == "cuda" and not isinstance(error, RayUnlearnError | FailedApart)
            known = self.flush() if self._poisoned else self._publisher.known()
            return [*known, failure_of(run, start, error, poisoned=self._poisoned, log=log.content())]
        made = replace(made, log=log.content())
        known, end = self._publisher.flush(), time.monotonic()
        if end - start < _QUICK_S:
            return [*known, replace(self._publish(made, start, end), seconds=time.monotonic() - start)]
        self._publisher.begin(functools.partial(self._publish, made, start, end))
        return known

    def flush(self) -> list[Outcome]:
        """Wait until every run is published; return the outcomes that were not returned yet."""
        return self._publisher.flush()

    def close(self) -> None:
        """Wait for the publication in flight, and end the publisher's thread."""
        self._publisher.close()

    def _make(self, run: Run, attempt: int, start: float, log: RunLog) -> _Unpublished:
        configure(self._device, self._job.plan.study.execution)  # before every run: a method may have changed it
        began_cpu = self._cpu_s()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        study, population = self._job.plan.study, self._job.plan.populations[run.population]
        rng, half = self._seeds(run), self._half(run)
        writer = self._writer(run, half)
        data = self._run_data(writer, half)
        if population.method.source:
            model = self._trained_apart(run, rng, log, data if half or self._job.plan.forget_set_of(run) else None)
        else:
            model = self._trained(run, rng, data)
        models.round_parameters(model, study.checkpoint_dtype)  # outputs are those of the published weights
        _check_weights(model)
        trained, trained_cpu = time.monotonic(), self._cpu_s()
        writer.predict(model)
        _check_metrics(writer)
        return _Unpublished(
            run=run,
            attempt=attempt,
            writer=writer,
            model=model if self._device.type == "cpu" else model.to("cpu"),  # frees GPU memory for the next run
            rng=rng,
            started_at=started_at,
            seconds={"train": trained - start, "predict": time.monotonic() - trained},
            cpu_seconds={"train": trained_cpu - began_cpu, "predict": self._cpu_s() - trained_cpu},
            original_sha256=self._sha256_of_start(run),
            threads=torch.get_num_threads(),
        )

    def trained_here(self, run: Run) -> nn.Module:
        """Return a run's model, trained in this process also where a script trains it; nothing is published.

        What a process of its own is compared with; the code of a script can change this process.
        """
        configure(self._device, self._job.plan.study.execution)
        half = self._half(run)
        return self._trained(run, self._seeds(run), self._run_data(self._writer(run, half), half))

    def _seeds(self, run: Run) -> Seeds:
        return Seeds(study=self._job.plan.study.seed, population=run.population, original=run.original, run=run.index)

    def _writer(self, run: Run, half: Members | None) -> RunWriter:
        forget_set = self._job.plan.forget_set_of(run)
        sets, outputs = self._sets_of(forget_set)
        return RunWriter(
            run=run,
            population=self._job.plan.populations[run.population],
            study=self._job.plan.study,
            sets=outputs,
            all_sets=sets,
            forget_set=forget_set,
            membership=fingerprint(half) if half else "",
        )

    def _trained(self, run: Run, rng: Seeds, data: RunData) -> nn.Module:
        """Return the model that one of the package's methods, or of an installed distribution's, trained here."""
        use, arch = self._job.plan.populations[run.population].method, self._job.plan.study.model.arch
        method, model = method_of(use), self._starting_model(run, rng)
        model = model if self._device.type == "cpu" else model.to(self._device)
        with rng.global_state("method"):  # dropout draws from the global generators
            method.apply(model, data, use.options, rng)
        if method.distribution:
            self._check_fresh(model, f"method {use.name}")
        elif ":" in arch:
            self._check_fresh(model, f"model.arch {arch}")
        return model

    def _trained_apart(self, run: Run, rng: Seeds, log: RunLog, data: RunData | None) -> nn.Module:
        """Return the model that a script trained, in a process of its own; on all images where `data` is None."""
        start = self._job.plan.start_of(run)
        if start is None:  # `methods.script` says that scripts start from an original
            raise MethodError(f"run {run}: a script needs an original to start from")
        if self._apart is None:
            self._apart = RunsApart(self._job, self._device, self._sets, self._train)
        return self._apart.made(run, rng, self._original(start)[1], log, data)

    def _check_fresh(self, model: nn.Module, where: str) -> None:
        """Check that a net, of another's code or trained by it, has all that its outputs depend on in its state.

        Raises:
            MethodError: a fresh net with the same state gives other outputs.

        """
        images_BCHW, fresh = probe_images(self._sets), self._template.copy()
        load(fresh, tensors_of(model), where)
        found = clues(model, fresh)
        logits_BC = probe_logits(model, images_BCHW, self._device)
        compare(fresh.to(self._device), logits_BC, images_BCHW, self._device, where=where, clues=found)

    def _cpu_s(self) -> float:
        """Return the CPU seconds of this process, without those of publishing the previous run; and of its scripts'."""
        apart = self._apart.cpu_s if self._apart is not None else 0.0
        return time.process_time() - self._publisher.cpu_s() + apart

    def _publish(self, made: _Unpublished, start: float, end: float) -> Outcome:
        """Serialise, hash and write; in the publisher's thread, except for quick runs."""
        began = time.monotonic()
        try:
            payloads = made.writer.finish(made.model, made.log)
            record = made.writer.record(
                payloads,
                made.rng,
                attempt=made.attempt,
                started_at=made.started_at,
                original_sha256=made.original_sha256,
                seconds=made.seconds,
                cpu_seconds=made.cpu_seconds,
                device=device_name(self._device),
                threads=made.threads,
                arithmetic=self._arithmetic(made.run),
                shards=self._job.data.shards,
            )
            self._job.store.publish(made.run, payloads, record)
        except Exception as error:  # a full disk, or anything else that may happen to one run
            return failure_of(made.run, start, error, log=made.log)
        log = made.log if self._job.verbose else b""
        return success_of(made.run, record, (start, end), (began, time.monotonic()), images=made.writer.images, log=log)

    def _arithmetic(self, run: Run) -> dict[str, str]:
        """Return what a run's record says of the conditions that no digest covers."""
        found = arithmetic(self._device, self._job.plan.study.execution)
        return found | SCRIPT if self._job.plan.populations[run.population].method.source else found

    def _sha256_of_start(self, run: Run) -> str:
        start = self._job.plan.start_of(run)
        return self._originals[start][0] if start else ""

    def _half(self, run: Run) -> Members | None:
        """Return the half of the train split that the run is limited to; None for all of it."""
        plan, sizes = self._job.plan, self._job.data.splits.sizes()
        owner = plan.half_of(run)
        return half_of_train(plan.study.seed, owner.population, owner.index, sizes) if owner else None

    def _run_data(self, writer: RunWriter, half: Members | None) -> RunData:
        sets, train = writer.all_sets, self._train
        if half:
            sets = {**sets} | {name: sets[name].subset(np.flatnonzero(mine_N)) for name, mine_N in half.items()}
            indices = np.concatenate([sets[name].indices for name in half])
            train = ImageSet(train.pixels, np.sort(indices), train.scaling)
        return RunData(
            train=train,
            retain=sets["retain"],
            forget=sets["forget"],
            validation=sets["validation"] if len(sets["validation"]) else None,
            num_classes=self._job.data.num_classes,
            device=self._device,
            on_epoch=writer.on_epoch,
            on_images=writer.on_images,
            engines=self._engines,
        )

    def _fresh(self, rng: Seeds) -> nn.Module:
        study = self._job.plan.study
        return models.build(study.model, self._job.data.num_classes, rng, study.data.image_size)

    def _starting_model(self, run: Run, rng: Seeds) -> nn.Module:
        start = self._job.plan.start_of(run)
        if start is None:
            return self._fresh(rng)
        return self._original(start)[1].copy()

    def _original(self, start: Run) -> tuple[str, Template]:
        """Return an original's sha256 and net, read once."""
        if start not in self._originals:
            if start.population != ORIGINAL:  # a shadow starts one run of a population: hundreds would fill memory
                self._originals = {one: kept for one, kept in self._originals.items() if one.population == ORIGINAL}
            data = self._job.store.payload(start, CHECKPOINT)
            model = self._template.copy()
            weights = models.parse_weights(data, CHECKPOINT)
            models.load_weights(model, weights, where=f"{self._job.store.uri}/{start}")
            self._originals[start] = payload_of(data).sha256, Template(model)
        return self._originals[start]


def record_failure(job: Job, outcome: Outcome, attempts: int) -> None:
    """Record why a run failed, and its output, in the folder of its population."""
    failure = FailedRecord(
        population=outcome.run.population,
        index=outcome.run.index,
        digest=job.plan.populations[outcome.run.population].digest,
        error=outcome.error,
        traceback=outcome.traceback,
        attempts=attempts,
        host=socket.gethostname(),
        failed_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    job.store.publish_failure(outcome.run, failure, outcome.log)


def _check_metrics(writer: RunWriter) -> None:
    """Check that no loss overflowed, which can happen with finite weights: no record could be read back with it."""
    for where, metrics in (("", writer.metrics), *((f" of epoch {s['epoch']:.0f}", s) for s in writer.stages)):
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name}{where} is {value} after training; a lower lr may help")


def _check_weights(model: nn.Module) -> None:
    state = {
        name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point() and tensor.numel()
    }
    largest = torch._foreach_norm(list(state.values()), math.inf)  # one call for all; NaN stays NaN
    for name, norm in zip(state, torch.stack([each.float() for each in largest]).tolist(), strict=True):
        if not math.isfinite(norm):
            raise TrainingDiverged(f"tensor {name!r} holds NaN or infinity after training")

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
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet, RunData, Scaling, read_only
from ray_unlearn.errors import MethodError, RayUnlearnError
from ray_unlearn.methods.resolve import method_of, why_no_resume
from ray_unlearn.run.apart import RunsApart
from ray_unlearn.run.artefacts import RunWriter, output_sets, versions
from ray_unlearn.run.finite import check_metrics, check_weights
from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import Attempt, FailedApart, Outcome, WorkerInfo, failure_of, success_of
from ray_unlearn.run.packing import PackedRun, train_pack
from ray_unlearn.run.probe import clues, probe_images, probe_logits, tensors_of
from ray_unlearn.run.publisher import Publisher
from ray_unlearn.run.run_log import RunLog, recorded
from ray_unlearn.run.settings import arithmetic, configure, device_name, warm_up
from ray_unlearn.run.starts import Starts
from ray_unlearn.run.taken_back import compare, load
from ray_unlearn.run.unfinished import Keeper, conditions_of
from ray_unlearn.run.worker_process import made_alone
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.arithmetic import SCRIPT, arithmetic_of
from ray_unlearn.store.membership import Members, fingerprint, half_of_train
from ray_unlearn.store.records import Record
from ray_unlearn.store.sharing import check_shared
from ray_unlearn.study.plan import Run
from ray_unlearn.training.fast.cuda_graph import Engines, cuda_graph
from ray_unlearn.training.packed import Slot
from ray_unlearn.usercode.exits import stays
from ray_unlearn.usercode.fork_server import start as start_fork_server
from ray_unlearn.usercode.memory import keep_freed_memory, resident_bytes

# A run as short as this is published in the worker's own thread: two threads of one interpreter slow each other down.
_QUICK_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unpublished:
    """A run that is trained and predicted, and the only reference to its model."""

    writer: RunWriter
    model: nn.Module
    record: Record
    """The run's record, which names no payloads yet."""
    keeper: Keeper | None
    log: bytes = b""


class Worker:
    """Opens a job once and executes its runs."""

    def __init__(self, job: Job, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a job; `clock` measures the minutes between two states of a run."""
        self._job, self._clock = job, clock
        self._device = torch.device(device)
        self._by_forget_set: dict[int, tuple[dict[str, ImageSet], dict[str, ImageSet]]] = {}
        threads = job.plan.study.execution.cpus_per_worker
        self._publisher: Publisher[Outcome] = Publisher(functools.partial(torch.set_num_threads, threads))
        self._packed: dict[Run, PackedRun] = {}
        """Runs of the last pack that are trained and not yet predicted."""
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
        self._starts = Starts(job)
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
            read_only(self._pixels.labels_N, *splits.sets.values())  # a method that writes on them would change others
            self._by_forget_set[forget_set] = sets, output_sets(study, sets)
        return self._by_forget_set[forget_set]

    def work(self, attempts: Sequence[Attempt], flush: bool = False) -> list[Outcome]:
        """Execute runs one after another; return the outcomes known so far, with `flush` those of all runs."""
        known: list[Outcome] = []
        packs: dict[object, list[Run]] = {}
        for run, _ in attempts:
            packs.setdefault(self._job.plan.pack_of(run) or run, []).append(run)
        for run, attempt in attempts:
            if self._poisoned or self._grown or any(outcome.unwritable for outcome in known):
                break  # the scheduler replaces this worker, or ends
            if self._job.plan.pack_of(run) and run not in self._packed and not self._job.isolates(run):
                self._packed = self._trained_pack(packs[self._job.plan.pack_of(run)])
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
        share_s = self._packed[run].seconds[0] if run in self._packed else 0.0
        start, log = time.monotonic() - share_s, RunLog()
        try:
            if self._job.isolates(run):
                return [*self.flush(), *made_alone(self._job, str(self._device), run, attempt)]
            with recorded(log), stays():
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
        packed, keeper = self._packed.pop(run, None), None
        writer = packed.writer if packed else self._writer(run, half)
        data = self._run_data(writer, half)
        if packed:
            model = packed.trained()
            self._check_foreign(model, run)
        elif population.method.source:
            model = self._trained_apart(run, rng, log, data if half or self._job.plan.forget_set_of(run) else None)
        elif study.execution.resume_every_minutes is None or why_no_resume(population.method):
            model = self._trained(run, data, rng)
        else:
            spent = lambda: (time.monotonic() - start, self._cpu_s() - began_cpu)  # noqa: E731
            keeper = self._keeper(run, writer, spent)
            model = keeper.trained(functools.partial(self._trained, run), data, rng)
        earlier = keeper.before if keeper else (0.0, packed.seconds[1] if packed else 0.0)
        models.round_parameters(model, study.checkpoint_dtype)  # outputs are those of the published weights
        check_weights(model)
        trained, trained_cpu = time.monotonic(), self._cpu_s()
        writer.predict(model)
        check_metrics(writer)
        record = writer.record(
            rng,
            attempt=attempt,
            started_at=started_at,
            original_sha256=self._starts.sha256(run),
            seconds={"train": earlier[0] + trained - start, "predict": time.monotonic() - trained},
            cpu_seconds={"train": earlier[1] + trained_cpu - began_cpu, "predict": self._cpu_s() - trained_cpu},
            device=device_name(self._device),
            threads=torch.get_num_threads(),
            arithmetic=self._arithmetic(run),
            shards=self._job.data.shards,
        )
        model = model if self._device.type == "cpu" else model.to("cpu")  # frees GPU memory for the next run
        return _Unpublished(writer=writer, model=model, record=record, keeper=keeper)

    def _trained_pack(self, runs: Sequence[Run]) -> dict[Run, PackedRun]:
        """Train runs of one pack; a failure is the outcome of the runs that it ends."""
        configure(self._device, self._job.plan.study.execution)

        def begin(writer: RunWriter, run: Run, slot: Slot) -> nn.Module:
            return self._trained(run, replace(self._run_data(writer, None), slot=slot), self._seeds(run))

        return train_pack(runs, self._job.plan.study.execution.pack, lambda run: self._writer(run, None), begin)

    def _keeper(self, run: Run, writer: RunWriter, spent: Callable[[], tuple[float, float]]) -> Keeper:
        """Return what saves and restores the run's state."""
        study, device, threads = self._job.plan.study, device_name(self._device), torch.get_num_threads()
        packages = versions(models.package_of(study.model))
        here = arithmetic_of(device, threads, packages, self._arithmetic(run))
        return Keeper(
            store=self._job.store,
            run=run,
            conditions=conditions_of(
                writer.population.digest, study.stages.model_dump_json(), self._starts.sha256(run), packages, here
            ),
            writer=writer,
            every_s=60 * (study.execution.resume_every_minutes or 0.0),
            spent=spent,
            clock=self._clock,
        )

    def trained_here(self, run: Run) -> nn.Module:
        """Return a run's model, trained in this process also where a script trains it; nothing is published.

        What a process of its own is compared with; the code of a script can change this process.
        """
        configure(self._device, self._job.plan.study.execution)
        half = self._half(run)
        return self._trained(run, self._run_data(self._writer(run, half), half), self._seeds(run))

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

    def _trained(self, run: Run, data: RunData, rng: Seeds) -> nn.Module:
        """Return the model that one of the package's methods, or of an installed distribution's, trained here."""
        use, model = self._job.plan.populations[run.population].method, self._starts.model(run, rng)
        model = model if self._device.type == "cpu" else model.to(self._device)
        with rng.global_state("method"):  # dropout draws from the global generators
            method_of(use).apply(model, data, use.options, rng)
        if data.slot is None:  # else it is trained later
            self._check_foreign(model, run)
        return model

    def _check_foreign(self, model: nn.Module, run: Run) -> None:
        """Check a trained net where it, or the method, is another's code (`_check_fresh`)."""
        use, arch = self._job.plan.populations[run.population].method, self._job.plan.study.model.arch
        if method_of(use).distribution:
            self._check_fresh(model, f"method {use.name}")
        elif ":" in arch:
            self._check_fresh(model, f"model.arch {arch}")

    def _trained_apart(self, run: Run, rng: Seeds, log: RunLog, data: RunData | None) -> nn.Module:
        """Return the model that a script trained, in a process of its own; on all images where `data` is None."""
        start = self._job.plan.start_of(run)
        if start is None:  # `methods.script` says that scripts start from an original
            raise MethodError(f"run {run}: a script needs an original to start from")
        if self._apart is None:
            self._apart = RunsApart(self._job, self._device, self._sets, self._train)
        return self._apart.made(run, rng, start, self._starts.original(start)[1], log, data)

    def _check_fresh(self, model: nn.Module, where: str) -> None:
        """Check that a net, of another's code or trained by it, has all that its outputs depend on in its state.

        Raises:
            MethodError: a fresh net with the same state gives other outputs.

        """
        images_BCHW, fresh = probe_images(self._sets), self._starts.template.copy()
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
        began, run = time.monotonic(), made.writer.run
        try:
            payloads = made.writer.finish(made.model, made.log)
            record = made.record.naming(payloads)
            self._job.store.publish(run, payloads, record)
            if made.keeper:
                made.keeper.made()
        except Exception as error:  # a full disk, or anything else that may happen to one run
            return failure_of(run, start, error, log=made.log)
        log = made.log if self._job.verbose else b""
        spans, note = ((start, end), (began, time.monotonic())), made.keeper.note if made.keeper else ""
        return success_of(run, record, *spans, images=made.writer.images, log=log, note=note)

    def _arithmetic(self, run: Run) -> dict[str, str]:
        """Return what a run's record says of the conditions that no digest covers."""
        found = arithmetic(self._device, self._job.plan.study.execution)
        pack = {"pack": str(self._job.plan.study.execution.pack)} if self._job.plan.pack_of(run) else {}
        return found | pack | (SCRIPT if self._job.plan.populations[run.population].method.source else {})

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

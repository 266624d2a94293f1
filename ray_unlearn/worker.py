"""Executes one run after another: data and architecture opened once, no Ray in sight.

    worker = Worker(job, device="cpu")
    worker.open()
    outcome = worker.execute(run, attempt=1)     # publishes the run, or says why it failed; never raises for a bad run

A run's bytes depend on the run and the thread count alone: not on the worker, nor on what it executed before: what a
run's code does to its process (folder, environment, default dtype, ...) is put back.

Does not cover: which run comes next (`ray_unlearn.driver`).
"""

from __future__ import annotations

import copy
import math
import os
import socket
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from ray_unlearn import models
from ray_unlearn.artefacts import RunWriter, output_sets
from ray_unlearn.data.images import ImageSet, Pixels, RunData, Scaling
from ray_unlearn.data.study_data import StudyData
from ray_unlearn.errors import DataError, MethodError, ModelError, RayUnlearnError, TrainingDiverged
from ray_unlearn.methods.resolve import method_of
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import FailedRecord, StudyStore
from ray_unlearn.store.records import CHECKPOINT, payload_of
from ray_unlearn.study.plan import Plan, Population, Run
from ray_unlearn.surroundings import resident_bytes, undisturbed

# The same run would fail the same way again, so these are not retried.
_FINAL = (DataError, MethodError, ModelError, TrainingDiverged)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that a worker needs; picklable, without a pixel in it."""

    plan: Plan
    data: StudyData
    store: StudyStore
    cache: str
    """Local folder for shards of a remote storage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """Where a worker lives."""

    host: str
    pid: int
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one attempt; plain values, so that nobody unpickles a stranger's exception."""

    run: Run
    seconds: float
    error: str = ""
    """One line; empty where the run was published."""
    traceback: str = ""
    final: bool = False
    """Whether another attempt would fail the same way."""
    poisoned: bool = False
    """Whether the worker must go: a fault on a GPU stays with its process."""
    recycle: bool = False
    """Whether the worker has grown by more than `execution.recycle_growth_gib` since its first run, and should go."""
    metrics: dict[str, float] = field(default_factory=dict)


class Worker:
    """Opens a job once and executes its runs."""

    def __init__(self, job: Job, device: str) -> None:
        self._job = job
        self._device = torch.device(device)
        self._originals: dict[Run, tuple[str, dict[str, torch.Tensor]]] = {}
        """sha256 and weights of the originals read so far."""
        self._resident: int | None = None
        """Bytes held after the first run: what every run needs again is no growth."""

    def open(self) -> WorkerInfo:
        """Map the images and build the architecture.

        Raises:
            RayUnlearnError: the device, the shards or the architecture are not to be had here.

        """
        job, execution = self._job, self._job.plan.study.execution
        self._configure()
        pixels = job.data.open(self._device, execution.device_budget_gib * 2**30, Path(job.cache))
        self._pixels: Pixels = pixels
        scaling = Scaling.of(job.plan.study.data.normalize)
        self._sets = {name: ImageSet(pixels, indexes, scaling) for name, indexes in job.data.splits.sets.items()}
        self._train = ImageSet(pixels, job.data.splits.train, scaling)
        self._outputs = output_sets(job.plan.study, self._sets)
        self._template = models.build(job.plan.study.model, job.data.num_classes, Seeds(study=0))
        _import_optimizers()
        return WorkerInfo(host=socket.gethostname(), pid=os.getpid(), device=str(self._device))

    def execute(self, run: Run, attempt: int) -> Outcome:
        """Make one run and publish it; failures of any kind become the outcome."""
        start = time.monotonic()
        try:
            metrics = self._make(run, attempt, start)
        except (Exception, SystemExit) as error:  # a script that calls sys.exit fails its run, not the worker
            return Outcome(
                run=run,
                seconds=time.monotonic() - start,
                error=_one_line(error),
                traceback=traceback.format_exc(),
                final=isinstance(error, _FINAL),
                poisoned=self._device.type == "cuda" and not isinstance(error, RayUnlearnError),
                recycle=self._has_grown(),
            )
        return Outcome(run=run, seconds=time.monotonic() - start, metrics=metrics, recycle=self._has_grown())

    def _has_grown(self) -> bool:
        resident = resident_bytes()
        if self._resident is None:
            self._resident = resident
        return resident - self._resident > self._job.plan.study.execution.recycle_growth_gib * 2**30

    def _make(self, run: Run, attempt: int, start: float) -> dict[str, float]:
        self._configure()  # again for every run: a script may have changed any of it
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        study, population = self._job.plan.study, self._job.plan.populations[run.population]
        rng = Seeds(study=study.seed, population=run.population, original=run.original, run=run.index)
        writer = RunWriter(run=run, population=population, study=study, sets=self._outputs, all_sets=self._sets)
        model = self._starting_model(run, rng).to(self._device)
        with undisturbed():
            method_of(population.method).run(model, self._run_data(writer), population.method.options, rng)
        models.round_parameters(model, study.checkpoint_dtype)  # outputs are those of the published weights
        _refuse_nonfinite(model)
        trained = time.monotonic()
        payloads = writer.finish(model)
        _refuse_nonfinite_metrics(writer)
        predicted = time.monotonic()
        record = writer.record(
            payloads,
            rng,
            attempt=attempt,
            started_at=started_at,
            original_sha256=self._sha256_of_start(run),
            seconds={"train": trained - start, "predict": predicted - trained},
            device=_device_name(self._device),
            threads=torch.get_num_threads(),
        )
        self._job.store.publish(run, payloads, record)
        return record.metrics

    def _configure(self) -> None:
        """Set what the arithmetic of a run depends on."""
        execution = self._job.plan.study.execution
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ModelError("device cuda: this machine has no GPU that torch can use; set execution.device: cpu")
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.set_num_threads(execution.cpus_per_worker)
        if self._device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may not repeat itself
            torch.use_deterministic_algorithms(execution.deterministic)
            torch.backends.cudnn.benchmark = not execution.deterministic
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False

    def _sha256_of_start(self, run: Run) -> str:
        start = self._job.plan.start_of(run)
        return self._originals[start][0] if start else ""

    def _run_data(self, writer: RunWriter) -> RunData:
        sets = self._sets
        return RunData(
            train=self._train,
            retain=sets["retain"],
            forget=sets["forget"],
            validation=sets["validation"] if len(sets["validation"]) else None,
            num_classes=self._job.data.num_classes,
            device=self._device,
            on_epoch=writer.on_epoch,
        )

    def _starting_model(self, run: Run, rng: Seeds) -> nn.Module:
        start = self._job.plan.start_of(run)
        if start is None:
            return models.build(self._job.plan.study.model, self._job.data.num_classes, rng)
        if start not in self._originals:
            data = self._job.store.payload(start, CHECKPOINT)
            self._originals[start] = payload_of(data).sha256, models.parse_weights(data, CHECKPOINT)
        model = copy.deepcopy(self._template)
        models.load_weights(model, self._originals[start][1], where=f"{self._job.store.uri}/{start}")
        return model


def record_failure(job: Job, outcome: Outcome, attempts: int) -> None:
    """Record why a run failed, beside the runs of its population."""
    population: Population = job.plan.populations[outcome.run.population]
    failure = FailedRecord(
        population=outcome.run.population,
        index=outcome.run.index,
        digest=population.digest,
        error=outcome.error,
        traceback=outcome.traceback,
        attempts=attempts,
        host=socket.gethostname(),
        failed_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    job.store.publish_failure(outcome.run, failure)


def _import_optimizers() -> None:
    """Take one optimiser step on nothing: a process's first imports torch._dynamo, which takes seconds.

    No run should pay for that: the seconds in its record are compared with those of retraining.
    """
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.0).step()


def _refuse_nonfinite_metrics(writer: RunWriter) -> None:
    """Refuse a loss that overflowed though every weight is finite: a record could not be read back with it."""
    for where, metrics in (("", writer.metrics), *((f" of epoch {s['epoch']:.0f}", s) for s in writer.stages)):
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name}{where} is {value} after training; a lower lr may help")


def _refuse_nonfinite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingDiverged(f"tensor {name!r} holds NaN or infinity after training")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500]
    known = isinstance(error, RayUnlearnError) and text
    return text if known else f"{type(error).__name__}: {text}{_out_of_memory(error)}"


def _out_of_memory(error: BaseException) -> str:
    """Return what helps where memory ran out; torch says so in three ways."""
    if isinstance(error, torch.OutOfMemoryError):
        return "; out of GPU memory: a smaller batch_size, fewer workers per GPU, or a smaller device_budget_gib helps"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "; out of memory: a smaller batch_size or fewer workers per machine helps"
    return ""


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

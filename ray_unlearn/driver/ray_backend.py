"""The `ray` backend: one long-lived actor per worker, on a cluster that exists or a local one that we start.

    backend = RayBackend(address=None, workers=2)
    pool = backend.pool(job)

An actor call may raise although its run was published (Ray docs, fault_tolerance/actors); then the run is made again,
to the same bytes, and the store keeps the first.

Does not cover: starting clusters of machines (`cluster.yaml`), or stopping any cluster that we did not start.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from ray_unlearn.driver.deadlines import Deadlines
from ray_unlearn.driver.pool import Event, Finished, Lost, Ready
from ray_unlearn.errors import ClusterError, Interrupted, RayUnlearnError, StorageNotShared
from ray_unlearn.outcome import Attempt, Outcome
from ray_unlearn.study.schema import Execution

if TYPE_CHECKING:  # they bring torch, which is imported while Ray starts
    from ray_unlearn.data.decode import DecodedSlice, DecodeJob
    from ray_unlearn.data.rows import Slice
    from ray_unlearn.worker import Job

_LARGE_ROWS = 16_000  # below, starting Ray Data takes longer than decoding
_OBJECT_STORE_BYTES = 512 * 2**20  # of a local cluster: images travel through shards, not through Ray
_POLL_S = 1.0
_CAPACITY_EVERY_S = 5.0
_PATIENCE_S = 60.0


def _tell(line: str) -> None:
    """Say something on standard error."""
    sys.stderr.write(line + "\n")


class RayBackend:
    """A connection to Ray, made when it is first needed."""

    def __init__(
        self,
        *,
        address: str | None,
        workers: int | None,
        arm: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = _tell,
    ) -> None:
        self._address, self._workers, self._arm, self._tell = address, workers, arm, tell
        self._ours = False
        self._pool: RayPool | None = None

    def begin(self) -> None:
        """Connect, or start a cluster: mostly waiting, so that something else can be done beside it."""
        self.connect()

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode a large source as a Ray Data job, a small one in place."""
        from ray_unlearn.data.prepare import in_place

        if len(slices) < 2 or sum(part.num_rows for part in slices) < _LARGE_ROWS:
            return in_place(slices, job)
        from ray_unlearn.driver.ray_data import decode_with_ray

        self.connect()
        return decode_with_ray(slices, job)

    def pool(self, job: Job) -> RayPool:
        """Return a pool of actors for the job."""
        self.connect()
        self._pool = RayPool(job, self._workers, self._tell)
        return self._pool

    def close(self) -> None:
        """Kill our actors; shut Ray down only where we connected."""
        if self._pool is not None:
            self._pool.close()
        if self._ours:
            ray.shutdown()

    def connect(self) -> None:
        """Connect to the cluster, or start one on this machine; nothing where this process is connected already.

        Raises:
            ClusterError: it cannot be reached or started.

        """
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
        )  # workers share this environment; no `uv run` in each
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
        if address == "local":
            # Ray's ports are guarded by a token, on by default for local clusters; its one warning says so.
            options |= {"include_dashboard": False, "logging_level": "error"}
            options["object_store_memory"] = _OBJECT_STORE_BYTES
        try:
            ray.init(address=address, **options)
        except SystemExit as error:  # of Ray's own SIGTERM handler, which is in force until ours is armed again
            raise Interrupted(signal.SIGTERM) if error.code == signal.SIGTERM else error from None
        except Exception as error:  # Ray raises plain exceptions here, too
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ClusterError(
                f"Ray at {address}: cannot connect: {reason}; is the cluster up? --backend inline needs none"
            ) from error
        self._ours = True
        self._arm()


def resources_of(execution: Execution, cluster_gpus: float) -> tuple[str, float, float]:
    """Return (device, CPUs, GPUs) of one worker, `auto` decided by what the cluster has.

    Raises:
        ClusterError: the study asks for cuda and for no GPU.

    """
    device = execution.device if execution.device != "auto" else ("cuda" if cluster_gpus else "cpu")
    gpus = execution.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if device == "cuda" else 0.0
    if device == "cuda" and not gpus:
        raise ClusterError("execution: device cuda with gpus_per_worker 0; give a share of a GPU, for example 0.25")
    return device, float(execution.cpus_per_worker), float(gpus)


class RayPool:
    """Actors that each hold one worker."""

    def __init__(self, job: Job, workers: int | None, tell: Callable[[str], None]) -> None:
        from ray_unlearn.worker import Worker

        execution = job.plan.study.execution
        self._tell = tell
        self._fixed = workers or (execution.workers if isinstance(execution.workers, int) else None)
        self.device, self._cpus, self._gpus = resources_of(execution, ray.cluster_resources().get("GPU", 0))
        self._job = ray.put(job)
        self._actor = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(Worker)
        self._handles: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        """Every call in flight -> its worker."""
        self._timeout_s = execution.run_timeout_s
        self._deadlines = Deadlines(self._timeout_s)
        self._opening: set[int] = set()
        self._started = 0
        self._room, self._room_at = 1, float("-inf")
        self._heard_at = time.monotonic()

    def describe(self) -> str:
        """Return the device, and what each worker takes from the cluster."""
        count = f"up to {self.capacity()} worker" + "s" * (self.capacity() != 1)
        return f"{count} on {self.device}, each with {self._cpus:g} CPU" + (f", {self._gpus:g} GPU" * bool(self._gpus))

    def capacity(self) -> int:
        """Return the number asked for, or how many workers the cluster's nodes have room for now."""
        if self._fixed is not None:
            return self._fixed
        if time.monotonic() - self._room_at > _CAPACITY_EVERY_S:
            self._room_at = time.monotonic()
            self._room = max(1, sum(self._room_on(node["Resources"]) for node in ray.nodes() if node["Alive"]))
        return self._room

    def _room_on(self, resources: dict[str, float]) -> int:
        by_cpu = int(resources.get("CPU", 0) / self._cpus)
        return min(by_cpu, int(resources.get("GPU", 0) / self._gpus)) if self._gpus else by_cpu

    def start(self) -> int:
        """Start an actor; it waits in Ray's queue where there is no room yet."""
        self._started += 1
        worker = self._started
        self._handles[worker] = self._actor.remote(self._job, self.device)
        self._opening.add(worker)
        self._pending[self._handles[worker].open.remote()] = worker
        return worker

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Give an actor runs; it executes its calls in order."""
        self._pending[self._handles[worker].work.remote(attempts, flush)] = worker
        self._deadlines.given(worker, attempts, time.monotonic())

    def wait(self) -> list[Event]:
        """Return what is finished, waiting for about a second at most."""
        if not self._pending:
            time.sleep(_POLL_S)
            return []
        done = self._done(1, _POLL_S)
        if done:
            done = self._done(len(self._pending), 0)
            self._heard_at = time.monotonic()
        elif len(self._opening) == len(self._handles):
            self._complain()
        # In the order of the calls; one that is lost takes its worker's others with it.
        events = [self._event(reference) for reference in done if reference in self._pending]
        return events + [self._too_long(*call) for call in self._deadlines.overdue(time.monotonic())]

    def _too_long(self, worker: int, attempts: Sequence[Attempt]) -> Event:
        """End a worker; a run that was alone in its call has failed, of several nobody knows which it was."""
        why = f"took longer than execution.run_timeout_s: {self._timeout_s:g}"
        self.stop(worker)
        if len(attempts) != 1:
            return Lost(worker, why)
        run, _ = attempts[0]
        return Finished(worker, [Outcome(run=run, seconds=float(self._timeout_s or 0), error=why, poisoned=True)])

    def _done(self, count: int, timeout_s: float) -> list[Any]:
        try:
            return list(ray.wait(list(self._pending), num_returns=count, timeout=timeout_s)[0])
        except RayError as error:
            raise ClusterError(f"Ray is gone: {_reason(error)}; what was made is kept") from error

    def _event(self, reference: Any) -> Event:
        worker = self._pending.pop(reference)
        try:
            value = ray.get(reference)
        except RayActorError as error:
            return self._lost(worker, f"worker process died: {_reason(error)}")
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, RayUnlearnError) else None
            return self._lost(worker, str(cause) if cause else _reason(error), isinstance(cause, StorageNotShared))
        except RayError as error:
            return self._lost(worker, _reason(error))
        if worker in self._opening:
            self._opening.discard(worker)
            return Ready(worker, value)
        self._deadlines.answered(worker, time.monotonic())
        return Finished(worker, value)

    def _lost(self, worker: int, cause: str, unshared: bool = False) -> Lost:
        self.stop(worker)
        return Lost(worker, cause, unshared)

    def stop(self, worker: int) -> None:
        """Kill an actor; a call in flight is forgotten."""
        self._opening.discard(worker)
        self._deadlines.forget(worker)
        self._pending = {reference: owner for reference, owner in self._pending.items() if owner != worker}
        handle = self._handles.pop(worker, None)
        if handle is not None:
            ray.kill(handle, no_restart=True)

    def close(self) -> None:
        """Kill every actor."""
        for worker in list(self._handles):
            self.stop(worker)

    def _complain(self) -> None:
        """Say what no worker can get, instead of waiting in silence."""
        if time.monotonic() - self._heard_at < _PATIENCE_S:
            return
        self._heard_at = time.monotonic()
        needs = {"CPU": self._cpus, "GPU": self._gpus}
        total, free = ray.cluster_resources(), ray.available_resources()
        have = ", ".join(f"{name} {free.get(name, 0):g} free of {total.get(name, 0):g}" for name in ("CPU", "GPU"))
        wanted = ", ".join(f"{name} {amount:g}" for name, amount in needs.items() if amount)
        self._tell(f"waiting: no worker could start yet; each needs {wanted}; the cluster has {have}")


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__

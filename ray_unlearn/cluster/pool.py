"""Ray actors that each hold one worker, on a cluster whose nodes come and go.

    pool = RayPool(job, workers=None, log=print)
    worker = pool.start()                        # waits in Ray's queue if no node fits it: demand for an autoscaler

An actor call may raise although its run was published (Ray docs, fault_tolerance/actors): the scheduler asks the store.
Nodes that drain get no further worker; runs that their workers have not finished shortly before the removal are taken
back.

Does not cover: the order of runs (`schedule`), connecting (`backend`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import NodeDiedError, RayActorError, RayError, RayTaskError

from ray_unlearn.cluster.nodes import Nodes
from ray_unlearn.errors import ClusterError, ClusterLost, RayUnlearnError, StorageNotShared
from ray_unlearn.run.outcome import Attempt
from ray_unlearn.schedule.deadlines import Deadlines
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Ready, Report
from ray_unlearn.schedule.resources import Needs, check_share, waiting_line
from ray_unlearn.study.schema import Execution
from ray_unlearn.study.uris import last_line

if TYPE_CHECKING:  # it brings torch, which is imported while Ray starts
    from ray_unlearn.run.job import Job

_POLL_S = 1.0
_PATIENCE_S = 15.0  # without a place for a worker until the first log line; the time doubles with each line
_MARGIN_S = 5.0  # before a node is removed, its runs are taken back


def resources_of(execution: Execution, cluster_gpus: float) -> tuple[str, Needs]:
    """Return the device and the resources of one worker; `auto` is cuda if the cluster has a GPU, else cpu.

    Raises:
        ClusterError: the study sets device cuda and gpus_per_worker 0.
        StudyError: the study sets a share of GPUs that Ray cannot place.

    """
    device = execution.device if execution.device != "auto" else ("cuda" if cluster_gpus else "cpu")
    gpus = execution.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if device == "cuda" else 0.0
    if device == "cuda" and not gpus:
        raise ClusterError("execution: device cuda with gpus_per_worker 0; give a share of a GPU, for example 0.25")
    share = check_share(float(gpus), "execution.gpus_per_worker")
    return device, Needs(cpus=float(execution.cpus_per_worker), gpus=share)


class RayPool:
    """Actors that each hold one worker."""

    def __init__(
        self,
        job: Job,
        workers: int | None,
        log: Callable[[str], None],
        gpus_per_worker: float | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        from ray_unlearn.cluster.worker import Worker

        execution = job.plan.study.execution
        if gpus_per_worker is not None:
            execution = execution.model_copy(update={"gpus_per_worker": gpus_per_worker})
        self._log, self._check = log, check
        self._fixed = workers or (execution.workers if isinstance(execution.workers, int) else None)
        self.device, self._needs = resources_of(execution, ray.cluster_resources().get("GPU", 0))
        # Only the driver writes the splits' file: for a million images, it would be 62 MB for every worker.
        self._job = ray.put(replace(job, data=replace(job.data, arrows={})))
        self._actor = ray.remote(
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(Worker)
        self._handles: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        """Call in flight -> its worker."""
        scripts = {name for name, population in job.plan.populations.items() if population.method.source}
        self._deadlines = Deadlines(execution.run_timeout_s, apart=scripts, pack_size=job.plan.pack_size)
        self._placing: dict[Any, int] = {}
        """Call in flight that asks a worker for its node -> the worker."""
        self._opening: set[int] = set()
        self._node_of: dict[int, str] = {}
        """Worker that has been placed -> the id of its node."""
        self._warned: set[int] = set()
        """Workers whose node is announced to be removed."""
        self._announced: set[str] = set()
        """Nodes whose removal was logged."""
        self._nodes = Nodes()
        self._started = 0
        self._placed_at, self._patience_s = time.monotonic(), _PATIENCE_S

    def describe(self) -> str:
        """Return the device, and the resources of each worker, as a text for people."""
        count = f"up to {self.capacity()} worker" + "s" * (self.capacity() != 1)
        gpus = f", {self._needs.gpus:g} GPU" * bool(self._needs.gpus)
        return f"{count} on {self.device}, each with {self._needs.cpus:g} CPU{gpus}{self._kinds()}"

    def _kinds(self) -> str:
        """Return a caution if the GPUs are of several kinds: Ray lists the kind as a resource of the node."""
        self._nodes.look()
        names = {name for node in self._nodes.staying if self._needs.fit(node) for name in node}
        kinds = sorted(name.partition(":")[2] for name in names if name.startswith("accelerator_type:"))
        mixed = self.device == "cuda" and len(kinds) > 1
        return (
            f"; GPUs of {len(kinds)} kinds ({', '.join(kinds)}): a run's last bits depend on its own" if mixed else ""
        )

    def missing(self) -> str:
        """Return the resources of a worker that no node of the cluster has; empty if a worker fits on some node."""
        self._nodes.look()
        return self._needs.missing(self._nodes.staying)

    def capacity(self) -> int:
        """Return the number of workers that was set, else the number that fits on the nodes that stay."""
        if self._fixed is not None:
            return self._fixed
        self._nodes.look()
        there = len(self._node_of) - len(self._warned)  # Ray reports a dead node's workers later: they are no surplus
        return max(1, there, sum(map(self._needs.fit, self._nodes.staying)))

    def start(self) -> int:
        """Start an actor; it waits in Ray's queue until a node has room."""
        self._started += 1
        worker = self._started
        handle: Any = self._actor.remote(self._job, self.device)
        self._handles[worker] = handle
        self._opening.add(worker)
        for call in (placing := handle.node.remote(), handle.open.remote()):
            self._pending[call] = worker
        self._placing[placing] = worker
        return worker

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        """Give an actor runs; it executes its calls in order."""
        self._pending[self._handles[worker].work.remote(attempts, flush)] = worker
        self._deadlines.given(worker, attempts, time.monotonic())

    def wait(self, most_s: float = _POLL_S) -> list[Report]:
        """Return the reports of finished calls, waiting for `most_s` seconds at most.

        Raises:
            ClusterLost: Ray has died.

        """
        self._check()
        if not self._pending:
            time.sleep(most_s)
            return self._departures()
        done = self._done(1, most_s)
        if done:
            done = self._done(len(self._pending), 0)
        self._check()  # after Ray's death, all calls would count as done
        self._log_waiting()
        # In the order of the calls; a lost call removes the worker's other calls, too.
        events = [self._event(reference) for reference in done if reference in self._pending]
        late = [self._deadlines.exceeded(worker) for worker, _ in self._deadlines.overdue(time.monotonic())]
        for one in late:
            self.stop(one.worker)
        return [*(event for event in events if event), *late, *self._departures()]

    def _departures(self) -> list[Report]:
        """Return the workers that leave with their nodes, and those whose runs are taken back now."""
        self._nodes.look()
        events: list[Report] = []
        for worker, node in list(self._node_of.items()) if self._nodes.leaving else ():
            notice = self._nodes.leaving.get(node)
            if notice is None:
                continue
            if notice.ends_at is not None and notice.ends_at - _MARGIN_S < time.monotonic():
                events.append(self._lost(worker, f"node {notice.address} is removed now", preempted=True))
            elif worker not in self._warned:
                self._warned.add(worker)
                self._log_leaving(node)
                events.append(Leaving(worker))
        return events

    def _log_leaving(self, node: str) -> None:
        """Log a draining node once, with the number of its workers."""
        if node not in self._announced:
            self._announced.add(node)
            notice, count = self._nodes.leaving[node], sum(one == node for one in self._node_of.values())
            left = "" if notice.ends_at is None else f" and removed in {notice.ends_at - time.monotonic():.0f} s"
            workers = "1 worker moves" if count == 1 else f"{count} workers move"
            self._log(f"node {notice.address} is drained{left}: its {workers} elsewhere")

    def _done(self, count: int, timeout_s: float) -> list[Any]:
        try:
            return list(ray.wait(list(self._pending), num_returns=count, timeout=timeout_s)[0])
        except RayError as error:
            raise ClusterLost(f"Ray is gone: {last_line(error)}; what was made is kept") from error

    def _event(self, reference: Any) -> Report | None:
        worker = self._pending.pop(reference)
        try:
            value = ray.get(reference)
        except RayActorError as error:
            gone = self._is_gone(worker, error)
            return replace(self._lost(worker, f"worker process died: {last_line(error)}", preempted=gone), died=True)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, RayUnlearnError) else None
            return self._lost(worker, str(cause) if cause else last_line(error), isinstance(cause, StorageNotShared))
        except RayError as error:  # out of memory, or an object that was lost with a node
            return self._lost(worker, last_line(error), preempted=self._is_gone(worker, error))
        if self._placing.pop(reference, None):
            self._node_of[worker] = value
            self._placed_at, self._patience_s = time.monotonic(), _PATIENCE_S
            return None
        if worker in self._opening:
            self._opening.discard(worker)
            return Ready(worker, value)
        self._deadlines.answered(worker, time.monotonic())
        return Finished(worker, value)

    def _is_gone(self, worker: int, error: RayError) -> bool:
        """Return whether the worker died with its node, or because its node is drained."""
        self._nodes.look(now=True)
        preempted = isinstance(error, NodeDiedError) or getattr(error, "preempted", False)
        return bool(preempted) or self._nodes.is_going(self._node_of.get(worker))

    def _lost(self, worker: int, cause: str, unshared: bool = False, preempted: bool = False) -> Lost:
        self.stop(worker)
        return Lost(worker, cause, unshared, preempted)

    def stop(self, worker: int) -> None:
        """Kill an actor, and forget its calls in flight."""
        self._opening.discard(worker)
        self._warned.discard(worker)
        self._node_of.pop(worker, None)
        self._deadlines.forget(worker)
        self._pending = {reference: owner for reference, owner in self._pending.items() if owner != worker}
        self._placing = {reference: owner for reference, owner in self._placing.items() if owner != worker}
        handle = self._handles.pop(worker, None)
        if handle is not None:
            ray.kill(handle, no_restart=True)

    def close(self) -> None:
        """Kill every actor."""
        for worker in list(self._handles):
            self.stop(worker)

    def _log_waiting(self) -> None:
        """Log the resources that workers without a place wait for."""
        waiting = len(self._handles) - len(self._node_of)
        if not waiting:
            self._placed_at, self._patience_s = time.monotonic(), _PATIENCE_S
        elif time.monotonic() - self._placed_at > self._patience_s:
            self._patience_s *= 2
            self._nodes.look()
            nodes, own = self._nodes, len(self._handles)
            line = waiting_line(self._needs, waiting, nodes.staying, nodes.free, own=own)
            if not line and self._patience_s > 4 * _PATIENCE_S:
                line = f"{waiting} of {len(self._handles)} workers have room, and have not started yet"
            if line:
                self._log(line)
